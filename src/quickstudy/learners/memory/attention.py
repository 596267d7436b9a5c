"""Learning by attending to what was told before, after SNAIL (Mishra, Rohaninejad, Chen, Abbeel 2018, "A Simple Neural
Attentive Meta-Learner", ICLR).

    example   e_i = W encode(x_i) + U [what came of it, 1, 0]        query   q = W encode(x) + U [0, 0, n / capacity]
    block     h ← h + Σ_j softmax_j( Q n(h) · K n(h_j) / √d ) V n(h_j);   h ← h + MLP(n(h))        n: layer norm

A query attends, in each block, to the n examples told before it and to itself; an example attends to itself, and where
`causal` is asked for to the examples before it too. What came of an example is its label, or, where experience is that
of an environment, the action, the reward and what followed: then this is RL² with attention for a memory.

What differs from SNAIL: it has causal convolutions over time between its attention, and each part's output is appended
to its input; here are the pre-norm residual blocks of a transformer, with no convolution and no code of position.
So what is said does not depend on the order of the examples: exactly, as long as examples keep to themselves. Letting
all examples attend to all would be as indifferent, but each new one would change all before it, and a stream of T could
not be gone through in one pass. `causal` is SNAIL's side of this choice: the later example is seen in the light of the
earlier ones, and their order matters.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from quickstudy.core import Learner
from quickstudy.data.batches import Output
from quickstudy.data.ring import Ring
from quickstudy.learners.memory.recurrent import Feedback, Heads
from quickstudy.learners.replay import require_single_env, scan_replay
from quickstudy.nn.layers import Linear
from quickstudy.nn.models import MLP
from quickstudy.nn.statistics import refuse
from quickstudy.parallel.axes import over_axes


class Entries(eqx.Module):
    """Rows as a block attends to them."""

    key: Float[Array, "*rows heads size"]
    value: Float[Array, "*rows heads size"]


Seen = tuple[Entries, Bool[Array, "rows _"]]  # [i, j]: whether row i attends to row j of these


class Block(eqx.Module):
    """Attention of several heads, then an MLP, each added to what it was given."""

    norm: eqx.nn.LayerNorm
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    mlp_norm: eqx.nn.LayerNorm
    mlp: MLP
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""], likeness: float = 0.0):
        if width % heads:
            raise ValueError(f"heads={heads} must divide width={width}")
        keys = jax.random.split(key, 5)
        # A bias of the keys moves all logits of a query alike, so softmax cannot tell: it would never be learned.
        linear = lambda k, use_bias=True: Linear(width, width, use_bias=use_bias, key=k)
        self.query, self.key, self.value, self.out = linear(keys[0]), linear(keys[1], False), *map(linear, keys[2:4])
        if likeness:
            self.query = eqx.tree_at(lambda linear: linear.weight, self.query, likeness * self.key.weight)
        self.norm, self.mlp_norm = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.mlp = MLP((width, 2 * width, width), key=keys[4], activation=jax.nn.gelu)
        self.heads = heads

    def entries(self, h: Float[Array, "rows width"]) -> Entries:
        """Keys and values of rows."""
        return Entries(self._split(self.key, h), self._split(self.value, h))

    def __call__(self, h: Float[Array, "rows width"], itself: Entries, *seen: Seen) -> Float[Array, "rows width"]:
        """Each row attends to itself, and to what it sees."""
        query = self._split(self.query, h) * (h.shape[-1] // self.heads) ** -0.5
        # What is remembered and what is new stay apart: to join them would copy all that is remembered, at every step.
        logits = [jnp.einsum("ihd,ihd->hi", query, itself.key)[..., None]]
        logits += [jnp.where(sees, jnp.einsum("ihd,jhd->hij", query, among.key), -1e9) for among, sees in seen]
        weights = jax.nn.softmax(jnp.concatenate(logits, -1), -1)
        read, start = jnp.einsum("hi,ihd->ihd", weights[..., 0], itself.value), 1
        for among, _ in seen:
            part = weights[..., start : start + len(among.value)]
            read, start = read + jnp.einsum("hij,jhd->ihd", part, among.value), start + len(among.value)
        h = h + jax.vmap(self.out)(read.reshape(h.shape))
        return h + jax.vmap(lambda row: self.mlp(self.mlp_norm(row)))(h)

    def _split(self, linear: Linear, h: Float[Array, "rows width"]) -> Float[Array, "rows heads size"]:
        return jax.vmap(linear)(jax.vmap(self.norm)(h)).reshape(len(h), self.heads, -1)


class Attention(Learner):
    """`encode` maps an input to a vector of `features` numbers, for examples and queries alike.

    heads: from `width` features to what is said
    feedback: from one item of experience to the vector of what came of it
    capacity: how many examples are remembered; of more than these the last ones are
    causal: examples attend to those before them, and then their order matters
    likeness: where training starts, queries are so many times the keys, so that one asks for what is like itself; 0:
        drawn apart from them. It spares labelled examples a long plateau at chance, in which comparing is learned
    """

    encode: Callable
    heads: Heads
    feedback: Feedback
    seen: Linear  # W
    told: Linear  # U
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    width: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        encode: Callable,
        features: int,
        heads: Heads,
        feedback: Feedback,
        *,
        key: Key[Array, ""],
        capacity: int,
        width: int = 64,
        blocks: int = 2,
        attention_heads: int = 4,
        causal: bool = False,
        likeness: float = 0.0,
    ):
        if capacity < 1 or blocks < 1:
            raise ValueError(f"capacity and blocks must be at least 1, got {capacity} and {blocks}")
        refuse(encode)
        seen, told, rest = jax.random.split(key, 3)
        self.encode, self.heads, self.feedback = encode, heads, feedback
        self.seen = Linear(features, width, key=seen)
        self.told = Linear(feedback.size + 2, width, use_bias=False, key=told)
        self.blocks = [Block(width, attention_heads, key=k, likeness=likeness) for k in jax.random.split(rest, blocks)]
        self.norm = eqx.nn.LayerNorm(width)
        self.width, self.capacity, self.causal = width, capacity, causal

    def init(self, *, key: Key[Array, ""]) -> Ring:
        """The examples as each block attends to them, so that none is gone through twice."""
        del key
        heads = self.blocks[0].heads
        nothing = jnp.zeros((heads, self.width // heads))
        return Ring.empty([Entries(nothing, nothing) for _ in self.blocks], self.capacity)

    def adapt(self, state: Ring, experience: PyTree, *, key: Key[Array, ""]) -> Ring:
        del key
        require_single_env(experience)
        return state.push(self._entries(state, self._seen(experience.x), experience))

    def apply(self, state: Ring, x: PyTree) -> Output:
        features = self._features(self.seen(self.encode(x))[None], state.count[None], (state.items, state.number))
        return self.heads(features[0])

    def replay(self, state: Ring, experience: PyTree, *, key: Key[Array, "segments"]) -> Output:
        """All moments at once where segments are single steps; else one after another."""
        if jax.tree.leaves(experience)[0].shape[1] != 1:
            return scan_replay(self, state, experience, key=key)
        items = jax.tree.map(lambda leaf: leaf[:, 0], experience)
        require_single_env(items)
        seen = self._seen(items.x)
        number = state.count + jnp.arange(len(seen))
        new = self._entries(state, seen, items)
        features = self._features(seen, number, (state.items, state.number), (new, number))
        return jax.vmap(jax.vmap(self.heads))(features[:, None])

    def _seen(self, x: PyTree) -> Float[Array, "examples width"]:
        return over_axes(lambda x: self.seen(self.encode(x)))(x)

    def _entries(self, state: Ring, seen: Float[Array, "examples width"], items: PyTree) -> list[Entries]:
        """New examples as each block attends to them."""
        came = lambda item: self.told(jnp.concatenate([self.feedback(item), jnp.array([1.0, 0.0])]))
        h = seen + jax.vmap(came)(items)
        number, entries = state.count + jnp.arange(len(h)), []
        for i, block in enumerate(self.blocks):
            entries.append(block.entries(h))
            if i == len(self.blocks) - 1:  # nobody asks what leaves the last one
                break
            seen = ((state.items[i], state.number), (entries[i], number)) if self.causal else ()
            h = block(h, entries[i], *((among, self._before(number, of)) for among, of in seen))
        return entries

    def _features(
        self,
        h: Float[Array, "queries width"],
        at: Int[Array, "queries"],
        *told: tuple[list[Entries], Int[Array, "_"]],
    ) -> Float[Array, "queries width"]:
        """What the heads read of queries when `at` examples were told; `told` are examples and their numbers."""
        count = self.told.weight[:, -1]  # U [0, 0, 1]
        h = h + count * (jnp.minimum(at, self.capacity)[:, None] / self.capacity)
        known = [self._before(at, number) for _, number in told]
        for i, block in enumerate(self.blocks):
            h = block(
                h, block.entries(h), *((entries[i], sees) for (entries, _), sees in zip(told, known, strict=True))
            )
        return jax.vmap(self.norm)(h)

    def _before(self, at: Int[Array, "rows"], number: Int[Array, "examples"]) -> Bool[Array, "rows examples"]:
        """Which examples are known, were told before, and are not yet overwritten."""
        at, number = at[:, None], number[None, :]
        return (number >= 0) & (number < at) & (number >= at - self.capacity)
