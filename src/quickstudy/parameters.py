"""Meta-parameters: which leaves of a learner are learned, and the wrappers that constrain or freeze them."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


class Wrapper(eqx.Module):
    """A leaf in another form. `unwrap` turns a tree of them into plain values."""

    @property
    @abc.abstractmethod
    def value(self) -> PyTree: ...


class Frozen(Wrapper):
    """Arrays that no meta-optimizer may touch (stop-gradient alone does not stop evolution)."""

    held: PyTree

    @property
    def value(self) -> PyTree:
        return jax.lax.stop_gradient(self.held)


class Positive(Wrapper):
    """A number above zero, learned as its logarithm: a learning rate, a temperature."""

    log: Float[Array, "..."]

    def __init__(self, value: Any):
        if not (jnp.asarray(value) > 0).all():
            raise ValueError(f"Positive needs values above 0, got {value}; use a plain array for other values")
        self.log = jnp.log(jnp.asarray(value, float))

    @property
    def value(self) -> Float[Array, "..."]:
        return jnp.exp(self.log)


class Bounded(Wrapper):
    """A number strictly between `low` and `high`, learned as its logit: a discount, a probability."""

    logit: Float[Array, "..."]
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __init__(self, value: Any, low: float = 0.0, high: float = 1.0):
        fraction = (jnp.asarray(value, float) - low) / (high - low)
        if not ((fraction > 0) & (fraction < 1)).all():
            raise ValueError(f"Bounded needs values strictly between {low} and {high}, got {value}")
        self.logit, self.low, self.high = jnp.log(fraction) - jnp.log1p(-fraction), low, high

    @property
    def value(self) -> Float[Array, "..."]:
        return self.low + (self.high - self.low) * jax.nn.sigmoid(self.logit)


def unwrap(tree: PyTree) -> PyTree:
    """The tree with every wrapper replaced by its value; plain leaves stay as they are."""
    is_wrapper = lambda node: isinstance(node, Wrapper)
    return jax.tree.map(lambda node: node.value if is_wrapper(node) else node, tree, is_leaf=is_wrapper)


def as_floats(x: Any) -> Array:
    """An array of numbers as floats, those of a float type as they are. Bytes, squared in their own type, wrap round
    at 256, so this stands wherever an input may meet arithmetic before it meets weights."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def in_types_of(old: PyTree, new: PyTree) -> PyTree:
    """`new` with the types of `old`, a tree of the same arrays, as a loop has to hand them on: weights in 16 bits, a
    state in 32 and a loss in 64 meet in it, and arithmetic takes the widest."""
    return jax.tree.map(lambda o, n: n if n.dtype == o.dtype else n.astype(o.dtype), old, new)


def partition(learner: PyTree) -> tuple[PyTree, PyTree]:
    """(meta-parameters, all the rest), each with None where the other has a leaf."""
    return eqx.partition(learner, eqx.is_inexact_array, is_leaf=lambda node: isinstance(node, Frozen))


def combine(meta_parameters: PyTree, rest: PyTree) -> PyTree:
    """The inverse of `partition`."""
    return eqx.combine(meta_parameters, rest, is_leaf=lambda node: isinstance(node, Frozen))


def meta_parameters(learner: PyTree) -> dict[str, tuple[int, ...]]:
    """Path and shape of everything that is learned: what `train` prints and recipes' tests pin."""
    leaves = jax.tree_util.tree_leaves_with_path(partition(learner)[0])
    return {jax.tree_util.keystr(path).lstrip("."): leaf.shape for path, leaf in leaves}


def starts_from_leaves(learner: Any) -> bool:
    """Whether the state before experience depends on the meta-parameters, as a learned initialisation does."""
    learned, rest = partition(learner)

    def probe(learned):
        state = combine(learned, rest).init(key=jax.random.key(0))
        leaves = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
        return sum((leaf * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))).sum() for leaf in leaves) * 1.0

    with jax.ensure_compile_time_eval():  # only shapes matter, and these are known wherever this is asked
        anything = jax.tree.map(lambda w: np.full(w.shape, 0.1, w.dtype), learned)
        return any(np.asarray(g).any() for g in jax.tree.leaves(jax.grad(probe)(anything)))
