"""Helpers for what is written for one example and mapped over arrays with leading axes."""

from collections.abc import Callable

import jax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool

EXAMPLES = "examples"  # name of the axis over which `over_axes` goes: transductive statistics are means over it


def over_axes(f: Callable, axes: int = 1) -> Callable:
    """`f`, written for one example, for arrays with this many leading axes."""
    for _ in range(axes):
        f = jax.vmap(f, axis_name=EXAMPLES)
    return f


@custom_vmap
def anybody(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the flag is true for any of the examples that `vmap` goes over side by side, whatever the number of
    `vmap`s around. The answer is one for all of them, so that a `lax.cond` on it remains a branch: on a flag of each
    example's own `vmap` would take both branches and select.
    """
    return flag


@anybody.def_vmap
def _of_several(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    del size
    return anybody(flag.any(0) if batched[0] else flag), False
