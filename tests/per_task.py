"""Keys for a batch of tasks, as the loop and the test would give them."""

import jax


def per_task(tasks, key):
    """One key a task, split from `key`."""
    return jax.random.split(key, jax.tree.leaves(tasks)[0].shape[0])
