"""Statistics that a network takes from the examples it learned from, and keeps for the ones it is asked about.

With batch normalisation over the support set a prediction knows the task's examples and no other query (conditional
batch normalisation, or MetaBN, in Bronskill et al. 2020, TaskNorm, ICML). The moments are part of what was learned of a
task, so they are kept in the learner's state:

    given = settle(net, support.x)      after adapting;      prediction = with_statistics(net, given)(x)
"""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import PyTree


class Settling(eqx.Module):
    """A network that may need statistics; it is called as net(x, given=None)."""

    @abc.abstractmethod
    def settle(self, xs: PyTree) -> PyTree:
        """The statistics of these examples [examples, ...], () where none are needed."""

    @abc.abstractmethod
    def unsettled(self) -> PyTree:
        """Of the same shapes, before any example."""


def settle(net: Any, xs: PyTree) -> PyTree:
    """Statistics of `net` on these examples; () for networks without."""
    return net.settle(xs) if isinstance(net, Settling) else ()


def unsettled(net: Any) -> PyTree:
    return net.unsettled() if isinstance(net, Settling) else ()


def with_statistics(net: Callable, given: PyTree) -> Callable:
    return functools.partial(net, given=given) if given else net
