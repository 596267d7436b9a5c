"""Attention to the examples before, after SNAIL (Mishra, Rohaninejad, Chen, Abbeel 2018, "A Simple Neural Attentive
Meta-Learner", ICLR).

    example   e_i = W encode(x_i) + U [feedback, 1, 0]        query   q = W encode(x) + U [0, 0, n / capacity]
    block     h ← h + Σ_j softmax_j( Q n(h) · K n(h_j) / √d ) V n(h_j);   h ← h + MLP(n(h))        n: layer norm

A query attends, in each block, to the n examples before it and to itself; an example attends to itself, and where
`causal` is asked for to the examples before it too. The feedback of an example is its label or, in an environment, the
action, the reward and the next observation: then this is RL² with attention for a memory.

SNAIL has causal convolutions over time between its attention, and appends each part's output to its input; here are the
pre-norm residual blocks of a transformer, with no convolution and no code of position. So outputs do not depend on the
order of the examples: exactly, as long as examples keep to themselves. Letting all examples attend to all would be as
indifferent, but each new one would change all before it, and a stream of T could not be replayed in one pass. `causal`
is SNAIL's side of this choice: the later example is seen in the light of the earlier ones, and their order matters.

A replay of T steps attends to its own rows, in blocks (nn.attention), and to the examples in the state only where there
are any: a trial that begins blank has none.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.core import Learner
from quickstudy.data.batches import Output
from quickstudy.data.ring import Ring
from quickstudy.learners.memory.recurrent import Feedback, Heads
from quickstudy.learners.replay import require_single_env, scan_replay
from quickstudy.nn.attention import Memory, causal_attention
from quickstudy.nn.layers import Linear
from quickstudy.nn.models import MLP
from quickstudy.nn.statistics import refuse
from quickstudy.parallel.axes import over_axes


class Entries(eqx.Module):
    """Rows as a block attends to them."""

    key: Float[Array, "*rows heads size"]
    value: Float[Array, "*rows heads size"]


class Past(NamedTuple):
    """Examples as all blocks attend to them, and their numbers in the order in which they came."""

    entries: list[Entries]
    number: Int[Array, "rows"]
    maybe_empty: bool = False

    def of(self, block: int) -> Memory:
        """The examples as one block attends to them."""
        return Memory(self.entries[block].key, self.entries[block].value, self.number, self.maybe_empty)


class Block(eqx.Module):
    """Attention of several heads, then an MLP, each added to its input."""

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

    def __call__(
        self,
        h: Float[Array, "rows width"],
        at: Int[Array, "rows"],
        itself: Entries,
        memories: Sequence[Memory],
        capacity: int,
    ) -> Float[Array, "rows width"]:
        """The rows after attending to themselves and to the examples before their numbers `at`."""
        query = self._split(self.query, h)
        read = causal_attention(query, at, itself.key, itself.value, memories, capacity=capacity)
        h = h + jax.vmap(self.out)(read.reshape(h.shape))
        return h + jax.vmap(lambda row: self.mlp(self.mlp_norm(row)))(h)

    def _split(self, linear: Linear, h: Float[Array, "rows width"]) -> Float[Array, "rows heads size"]:
        return jax.vmap(linear)(jax.vmap(self.norm)(h)).reshape(len(h), self.heads, -1)


class Attention(Learner):
    """`encode` maps an input to a vector of `features` numbers, for examples and queries alike.

    heads: from `width` features to an `Output`
    feedback: from one item of experience to the vector of its label or outcome
    capacity: number of examples that are remembered; with more, the last ones are
    causal: examples attend to those before them, and then their order matters
    likeness: where training starts, queries are this number times the keys, so that each asks for what is like itself;
        0: they are drawn apart. It spares labelled examples a long plateau at chance, in which comparing is learned
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
        """No examples. They are kept as each block attends to them, so that none is computed twice."""
        del key
        heads = self.blocks[0].heads
        nothing = jnp.zeros((heads, self.width // heads))
        return Ring.empty([Entries(nothing, nothing) for _ in self.blocks], self.capacity)

    def adapt(self, state: Ring, experience: PyTree, *, key: Key[Array, ""]) -> Ring:
        del key
        require_single_env(experience)
        past = Past(state.items, state.number)
        return state.push(self._entries(state.count, past, self._inputs(experience.x), experience))

    def apply(self, state: Ring, x: PyTree) -> Output:
        query = self.seen(self.encode(x))[None]
        return self.heads(self._features(query, state.count[None], [Past(state.items, state.number)])[0])

    def replay(self, state: Ring, experience: PyTree, *, key: Key[Array, "segments"]) -> Output:
        """The outputs at all moments in one pass where segments are single steps; else one after another."""
        if jax.tree.leaves(experience)[0].shape[1] != 1:
            return scan_replay(self, state, experience, key=key)
        items = jax.tree.map(lambda leaf: leaf[:, 0], experience)
        require_single_env(items)
        inputs, past = self._inputs(items.x), Past(state.items, state.number, maybe_empty=True)
        number = state.count + jnp.arange(len(inputs))
        new = self._entries(state.count, past, inputs, items)
        features = self._features(inputs, number, [past, Past(new, number)])
        return jax.vmap(jax.vmap(self.heads))(features[:, None])

    def _inputs(self, x: PyTree) -> Float[Array, "examples width"]:
        return over_axes(lambda x: self.seen(self.encode(x)))(x)

    def _entries(
        self, count: Int[Array, ""], past: Past, inputs: Float[Array, "examples width"], items: PyTree
    ) -> list[Entries]:
        """New examples as each block attends to them."""
        feedback = lambda item: self.told(jnp.concatenate([self.feedback(item), jnp.array([1.0, 0.0])]))
        h = inputs + jax.vmap(feedback)(items)
        number, entries = count + jnp.arange(len(h)), []
        for i, block in enumerate(self.blocks):
            entries.append(block.entries(h))
            if i == len(self.blocks) - 1:  # nothing attends to the output of the last one
                break
            before = [past.of(i), Memory(entries[i].key, entries[i].value, number)] if self.causal else []
            h = block(h, number, entries[i], before, self.capacity)
        return entries

    def _features(
        self, h: Float[Array, "queries width"], at: Int[Array, "queries"], pasts: Sequence[Past]
    ) -> Float[Array, "queries width"]:
        """The features of queries that come after `at` examples, as the heads read them."""
        count = self.told.weight[:, -1]  # U [0, 0, 1]
        h = h + count * (jnp.minimum(at, self.capacity)[:, None] / self.capacity)
        for i, block in enumerate(self.blocks):
            h = block(h, at, block.entries(h), [past.of(i) for past in pasts], self.capacity)
        return jax.vmap(self.norm)(h)
