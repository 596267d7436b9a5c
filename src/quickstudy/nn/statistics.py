"""Statistics of the support set, which a network keeps to normalise the queries.

With batch normalisation over the support set a prediction depends on the task's examples and on no other query
(conditional batch normalisation, or MetaBN, in Bronskill et al. 2020, TaskNorm, ICML). The moments are part of what was
learned of a task, so they are kept in the learner's state:

    given = compute_support_stats(net, support.x)      after adapting;      prediction = with_statistics(net, given)(x)
"""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from quickstudy.core import Incompatible


class SupportNorm(eqx.Module):
    """A network that may need statistics; it is called as net(x, given=None)."""

    @abc.abstractmethod
    def compute_support_stats(self, xs: PyTree) -> PyTree:
        """The statistics of these examples [examples, ...], () where none are needed."""

    @abc.abstractmethod
    def initial_stats(self) -> PyTree:
        """Of the same shapes, before any example."""


def compute_support_stats(net: Any, xs: PyTree) -> PyTree:
    """Statistics of `net` on these examples; () for networks without."""
    return net.compute_support_stats(xs) if isinstance(net, SupportNorm) else refuse(net)


def initial_stats(net: Any) -> PyTree:
    return net.initial_stats() if isinstance(net, SupportNorm) else refuse(net)


def refuse(net: Any) -> tuple[()]:
    """Raises Incompatible where statistics are needed and the learner does not keep them: queries would then be
    normalised by each other, and an honest figure would not be one."""
    is_settling = lambda node: isinstance(node, SupportNorm)
    if any(is_settling(node) and node.initial_stats() for node in jax.tree.leaves(net, is_leaf=is_settling)):
        raise Incompatible(
            "normalise='support' needs a learner that keeps statistics of the support set and a network that takes "
            "them (quickstudy.nn.statistics); here queries would be normalised by each other: use 'layer' or 'group'"
        )
    return ()


def with_statistics(net: Callable, given: PyTree) -> Callable:
    return functools.partial(net, given=given) if given else net
