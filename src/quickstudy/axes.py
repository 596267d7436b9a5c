"""Along the axes: what is written for one example goes over many, what is written for one stretch along a life, and
what is taken over the tasks of one device over those of all."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from quickstudy.core import Experience, Incompatible, Outputs, State

EXAMPLES = "examples"  # name of the axis over which `over_axes` goes: transductive statistics are means over it


def over_axes(f: Callable, axes: int = 1) -> Callable:
    """`f`, written for one example, for arrays with this many leading axes."""
    for _ in range(axes):
        f = jax.vmap(f, axis_name=EXAMPLES)
    return f


def one_stream(experience: PyTree) -> None:
    """Raises `Incompatible` for experience of parallel copies."""
    if experience.axes != 1:
        raise Incompatible("what learns from one step after another lives one stream: use width=None")


DEVICES = "quickstudy_devices"  # name of the axis over which the tasks of a meta-step are split


def num_devices() -> int:
    """How many devices share the tasks of a meta-step, in the program that is being traced."""
    try:
        return jax.lax.axis_size(DEVICES)
    except NameError:  # nothing is split
        return 1


def sum_over_devices(tree: PyTree) -> PyTree:
    """Sums over all devices that share the tasks, of which each has `1 / num_devices()`. Every reduction over tasks
    ends with it: in `collect` and `update`, where nothing is differentiated, and never in `loss`, which is of single
    tasks.
    """
    return tree if num_devices() == 1 else jax.lax.psum(tree, DEVICES)


def mean_over_devices(tree: PyTree) -> PyTree:
    """`sum_over_devices` of what is a mean, or a sum that is to be divided by a device's number of tasks."""
    return jax.tree.map(lambda x: x / num_devices(), sum_over_devices(tree))


def along(learner: Any, state: State, experience: Experience) -> Outputs:
    """`apply` for every input of a stretch, the state frozen; `experience.axes` says how many axes lead."""
    return over_axes(lambda x: learner.apply(state, x), experience.axes)(experience.x)


def scan_replay(learner: Any, state: State, experience: Experience, *, key: Key[Array, "stretches"]) -> Outputs:
    """Replay by doing it again: apply along a stretch, adapt on it, and on to the next.

    The last stretch is applied outside the scan: nobody asks what would be learned from it.
    """

    def stretch(state, lived):
        experience, key = lived
        return learner.adapt(state, experience, key=key), along(learner, state, experience)

    before = jax.tree.map(lambda x: x[:-1], experience)
    final = jax.tree.map(lambda x: x[-1], experience)
    state, outputs = jax.lax.scan(stretch, state, (before, key[:-1]))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), outputs, along(learner, state, final))
