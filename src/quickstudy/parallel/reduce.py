"""Reductions over the tasks of a meta-step, which several devices may share."""

import jax
from jaxtyping import PyTree

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


def max_over_devices(tree: PyTree) -> PyTree:
    """The largest of what all devices that share the tasks have."""
    return tree if num_devices() == 1 else jax.lax.pmax(tree, DEVICES)
