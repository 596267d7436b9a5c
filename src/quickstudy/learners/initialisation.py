"""Where the weights of a task begin: at a learned initialisation, or drawn anew."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Key, PyTree

from quickstudy.parameters import combine, partition


class RandomInit(eqx.Module):
    """In the place of a network: every task draws its own, `draw(key)`. Nothing of it is learned across tasks."""

    draw: Callable[[Key[Array, ""]], PyTree] = eqx.field(static=True)


def begin(start: PyTree, key: Key[Array, ""]) -> PyTree:
    """The weights a task begins with, None where the network has none: `start` itself, unless `RandomInit`."""
    return partition(start.draw(key) if isinstance(start, RandomInit) else start)[0]


def network(start: PyTree, weights: PyTree, key: Key[Array, ""]) -> PyTree:
    """The network with these weights. What is not weights does not depend on the key."""
    return combine(weights, partition(start.draw(key) if isinstance(start, RandomInit) else start)[1])
