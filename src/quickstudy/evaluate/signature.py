"""Numbers that identify tasks, so that two tests are paired where their tasks are the same, and nowhere else."""

import math

import jax
import numpy as np
from jaxtyping import Float, PyTree
from numpy.typing import NDArray

MOST = 4096  # numbers read of an array of a task: more would take long of images


def signatures(tasks: PyTree) -> Float[NDArray, "tasks"]:
    """A random projection of the numbers of each task. Equal up to rounding where tasks are, on whatever device they
    were drawn; two that differ have other values almost surely."""
    leaves = jax.tree.leaves(tasks)
    total = np.zeros(leaves[0].shape[0] if leaves else 0)
    for number, leaf in enumerate(leaves):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        rows = leaf.reshape(len(total), math.prod(leaf.shape[1:]))
        rows = np.asarray(rows[:, :: -(-rows.shape[1] // MOST) or 1], np.float64)
        weights = np.random.default_rng(number).normal(size=rows.shape[1])
        total = total + (rows * weights).sum(1) / max(1.0, np.sqrt(rows.shape[1]))
    return total
