"""Where the weights of a task begin: at a learned initialisation, or drawn anew."""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from quickstudy.core import Incompatible
from quickstudy.parameters import Frozen, combine, partition

Draw = Callable[[Key[Array, ""]], PyTree]


class RandomInit(eqx.Module):
    """In the place of a network: every task draws its own, `draw(key)`. Nothing of it is learned across tasks.

    Raises Incompatible where `draw` gives arrays that are no weights and depend on the key: see `require_alike`.
    """

    draw: Draw = eqx.field(static=True)

    def __check_init__(self):
        require_alike(self.draw)


def require_alike(draw: Draw) -> None:
    """Raises Incompatible where what is not weights differs from draw to draw. A task keeps its weights alone, so all
    tasks would share the random features, say, of one draw."""
    drawn = eqx.filter_eval_shape(draw, jax.random.key(0))
    weights = lambda leaf: not isinstance(leaf, Frozen) and jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
    arrays = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    leaves = jax.tree.leaves(drawn, is_leaf=lambda node: isinstance(node, Frozen | jax.ShapeDtypeStruct))
    if all(weights(leaf) for leaf in leaves if isinstance(leaf, Frozen | jax.ShapeDtypeStruct)):
        return  # nothing else is there: two draws would be made for nothing
    with jax.ensure_compile_time_eval():
        one, other = (arrays(partition(draw(jax.random.key(seed)))[1]) for seed in (0, 1))
    if any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True)):
        raise Incompatible(
            "what is drawn for each task holds arrays that are no weights (Frozen, or whole numbers) and depend on the "
            "key: tasks would share those of one draw. Draw them from a key of their own outside of `draw`, or make "
            "them weights"
        )


def begin(start: PyTree, key: Key[Array, ""]) -> PyTree:
    """The weights a task begins with, None where the network has none: `start` itself, unless `RandomInit`."""
    return partition(start.draw(key) if isinstance(start, RandomInit) else start)[0]


def network(start: PyTree, weights: PyTree, key: Key[Array, ""]) -> PyTree:
    """The network with these weights. What is not weights does not depend on the key."""
    return combine(weights, partition(start.draw(key) if isinstance(start, RandomInit) else start)[1])
