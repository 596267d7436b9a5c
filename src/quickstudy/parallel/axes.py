"""What is written for one example, for arrays with leading axes."""

from collections.abc import Callable

import jax

EXAMPLES = "examples"  # name of the axis over which `over_axes` goes: transductive statistics are means over it


def over_axes(f: Callable, axes: int = 1) -> Callable:
    """`f`, written for one example, for arrays with this many leading axes."""
    for _ in range(axes):
        f = jax.vmap(f, axis_name=EXAMPLES)
    return f
