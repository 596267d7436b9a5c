"""The meta-parameters of a learner: which of its leaves are learned."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from quickstudy.core import Fixed, Learner


def partition(learner: PyTree) -> tuple[PyTree, PyTree]:
    """(meta-parameters, all the rest), each with None where the other has a leaf."""
    return eqx.partition(learner, eqx.is_inexact_array, is_leaf=lambda node: isinstance(node, Fixed))


def combine(meta_parameters: PyTree, rest: PyTree) -> PyTree:
    """The inverse of `partition`."""
    return eqx.combine(meta_parameters, rest, is_leaf=lambda node: isinstance(node, Fixed))


def meta_parameters(learner: PyTree) -> dict[str, tuple[int, ...]]:
    """Path and shape of everything that is learned: what `train` prints and recipes' tests pin."""
    leaves = jax.tree_util.tree_leaves_with_path(partition(learner)[0])
    return {jax.tree_util.keystr(path).lstrip("."): leaf.shape for path, leaf in leaves}


def starts_from_leaves(learner: Learner) -> bool:
    """Whether the state before experience depends on the meta-parameters, as a learned initialisation does."""
    learned, rest = partition(learner)

    def probe(learned):
        state = combine(learned, rest).init(key=jax.random.key(0))
        leaves = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
        return sum((leaf * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))).sum() for leaf in leaves) * 1.0

    with jax.ensure_compile_time_eval():  # only shapes matter, and these are known wherever this is asked
        anything = jax.tree.map(lambda w: np.full(w.shape, 0.1, w.dtype), learned)
        return any(np.asarray(g).any() for g in jax.tree.leaves(jax.grad(probe)(anything)))
