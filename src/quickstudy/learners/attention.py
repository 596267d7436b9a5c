"""Learning by attending to what was told before, after SNAIL (Mishra, Rohaninejad, Chen, Abbeel 2018, "A Simple Neural
Attentive Meta-Learner", ICLR).

    example   e_i = W encode(x_i) + U [y_i, 1]           query   q = W encode(x) + U [0, 0]
    block     h ← h + Σ_j softmax_j( Q n(h) · K n(h_j) / √d ) V n(h_j);   h ← h + MLP(n(h))        n: layer norm

A query attends, in each block, to the examples told before it and to itself; an example attends to itself, and where
`causal` is asked for to the examples before it too.

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

from quickstudy.core import Learner, over_axes, scan_replay
from quickstudy.data import Labelled, Output
from quickstudy.nn.models import MLP
from quickstudy.nn.statistics import refuse


class Told(eqx.Module):
    """The examples as each block takes them in, so that none is gone through twice."""

    entering: Float[Array, "capacity blocks width"]
    count: Int[Array, ""]  # ever told; the oldest are overwritten when there are more than `capacity`

    @property
    def number(self) -> Int[Array, "capacity"]:
        """Which example each row holds, counted from 0; below 0: none."""
        last = self.count - 1
        return last - (last - jnp.arange(len(self.entering))) % len(self.entering)


class Block(eqx.Module):
    """Attention of several heads, then an MLP, each added to what it was given."""

    norm: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    mlp_norm: eqx.nn.LayerNorm
    mlp: MLP
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""]):
        if width % heads:
            raise ValueError(f"heads={heads} must divide width={width}")
        keys = jax.random.split(key, 5)
        # A bias of the keys moves all logits of a query alike, so softmax cannot tell: it would never be learned.
        linear = lambda k, use_bias=True: eqx.nn.Linear(width, width, use_bias=use_bias, key=k)
        self.query, self.key, self.value, self.out = linear(keys[0]), linear(keys[1], False), *map(linear, keys[2:4])
        self.norm, self.mlp_norm = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.mlp = MLP((width, 2 * width, width), key=keys[4], activation=jax.nn.gelu)
        self.heads = heads

    def __call__(
        self, h: Float[Array, "rows width"], among: Float[Array, "all width"], sees: Bool[Array, "rows all"]
    ) -> Float[Array, "rows width"]:
        """`sees[i, j]`: row i of `h` attends to row j of `among`; each row must see at least one."""
        split = lambda linear, x: jax.vmap(linear)(jax.vmap(self.norm)(x)).reshape(len(x), self.heads, -1)
        query, key, value = split(self.query, h), split(self.key, among), split(self.value, among)
        logits = jnp.einsum("ihd,jhd->hij", query, key) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(sees, logits, -1e9), -1)
        h = h + jax.vmap(self.out)(jnp.einsum("hij,jhd->ihd", weights, value).reshape(h.shape))
        return h + jax.vmap(lambda row: self.mlp(self.mlp_norm(row)))(h)


class Attention(Learner):
    """`encode` maps an input to a vector of `features` numbers, for examples and queries alike.

    classes: labels are whole numbers below this, and predictions are logits; None: labels are vectors of `outputs`
        numbers and are predicted as such (regression)
    capacity: how many examples are remembered; of more than these the last ones are
    causal: examples attend to those before them, and then their order matters
    """

    encode: Callable
    seen: eqx.nn.Linear  # W
    told: eqx.nn.Linear  # U
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    said: eqx.nn.Linear
    capacity: int = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        encode: Callable,
        features: int,
        *,
        key: Key[Array, ""],
        capacity: int,
        classes: int | None = None,
        outputs: int = 1,
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
        causal: bool = False,
    ):
        if capacity < 1 or blocks < 1:
            raise ValueError(f"capacity and blocks must be at least 1, got {capacity} and {blocks}")
        refuse(encode)
        outputs = outputs if classes is None else classes
        seen, told, said, rest = jax.random.split(key, 4)
        self.encode = encode
        self.seen = eqx.nn.Linear(features, width, key=seen)
        self.told = eqx.nn.Linear(outputs + 1, width, use_bias=False, key=told)
        self.blocks = [Block(width, heads, key=k) for k in jax.random.split(rest, blocks)]
        self.norm, self.said = eqx.nn.LayerNorm(width), eqx.nn.Linear(width, outputs, key=said)
        self.capacity, self.classes, self.causal = capacity, classes, causal

    def init(self, *, key: Key[Array, ""]) -> Told:
        del key
        return Told(jnp.zeros((self.capacity, len(self.blocks), self.seen.out_features)), jnp.zeros((), int))

    def adapt(self, state: Told, experience: Labelled, *, key: Key[Array, ""]) -> Told:
        del key
        num = len(jax.tree.leaves(experience.y)[0])
        if num > self.capacity:
            raise ValueError(f"{num} examples at once do not fit into a memory of capacity={self.capacity}")
        entering = self._entering(state, self._seen(experience.x), experience.y)
        at = (state.count + jnp.arange(num)) % self.capacity
        return Told(state.entering.at[at].set(entering), state.count + num)

    def apply(self, state: Told, x: PyTree) -> Output:
        query = self.seen(self.encode(x))[None]
        said = self._said(query, state.count[None], state.entering, state.number)
        return Output(prediction=said[0])

    def replay(self, state: Told, experience: Labelled, *, key: Key[Array, "stretches"]) -> Output:
        """All moments at once where stretches are single steps; else one after another."""
        if jax.tree.leaves(experience)[0].shape[1] != 1:
            return scan_replay(self, state, experience, key=key)
        items = jax.tree.map(lambda leaf: leaf[:, 0], experience)
        seen = self._seen(items.x)
        number = state.count + jnp.arange(len(seen))
        entering = jnp.concatenate([state.entering, self._entering(state, seen, items.y)])
        said = self._said(seen, number, entering, jnp.concatenate([state.number, number]))
        return Output(prediction=said[:, None])

    def _seen(self, x: PyTree) -> Float[Array, "examples width"]:
        return over_axes(lambda x: self.seen(self.encode(x)))(x)

    def _entering(
        self, state: Told, seen: Float[Array, "examples width"], y: Array
    ) -> Float[Array, "examples blocks width"]:
        """New examples as each block takes them in."""
        y = y if self.classes is None else jax.nn.one_hot(y, self.classes)
        h = seen + jax.vmap(lambda y: self.told(jnp.append(y, 1.0)))(y)
        number, itself = state.count + jnp.arange(len(h)), jnp.eye(len(h), dtype=bool)
        before = self._before(number, jnp.concatenate([state.number, number])) & self.causal
        sees = before.at[:, self.capacity :].max(itself)
        entering = []
        for i, block in enumerate(self.blocks):
            entering.append(h)
            if i < len(self.blocks) - 1:  # nobody asks what leaves the last one
                h = block(h, jnp.concatenate([state.entering[:, i], h]), sees)
        return jnp.stack(entering, 1)

    def _said(
        self,
        h: Float[Array, "queries width"],
        at: Int[Array, "queries"],
        entering: Float[Array, "examples blocks width"],
        number: Int[Array, "examples"],
    ) -> Float[Array, "queries outputs"]:
        """What is said to queries when `at` examples were told."""
        sees = jnp.concatenate([self._before(at, number), jnp.eye(len(h), dtype=bool)], 1)
        for i, block in enumerate(self.blocks):
            h = block(h, jnp.concatenate([entering[:, i], h]), sees)
        return jax.vmap(lambda row: self.said(self.norm(row)))(h)

    def _before(self, at: Int[Array, "rows"], number: Int[Array, "examples"]) -> Bool[Array, "rows examples"]:
        """Which examples are known, were told before, and are not yet overwritten."""
        at, number = at[:, None], number[None, :]
        return (number >= 0) & (number < at) & (number >= at - self.capacity)
