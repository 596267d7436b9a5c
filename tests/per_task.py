"""Keys for a batch of tasks, as the loop and the test would give them, and a memory in which nothing is kept."""

import jax

from quickstudy.core import ObjectiveMemory

BLANK = ObjectiveMemory()


def per_task(tasks, key):
    """One key a task, split from `key`."""
    return jax.random.split(key, jax.tree.leaves(tasks)[0].shape[0])
