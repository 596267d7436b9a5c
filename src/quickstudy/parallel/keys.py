"""Random keys by task. What is drawn for a task depends on its number alone, never on how tasks are laid out.

    key of task i in meta-step s     fold_in(fold_in(run key, s), i),  i counted over all devices
    key of held-out task i           fold_in(the split's own key, i)

From a task's key its streams are folded: what draws the task, what starts its memory, and what rolls it out.
"""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key

from quickstudy.parallel.reduce import DEVICES, num_devices


class Stream(enum.IntEnum):
    """What a task's key is used for; each has bits of its own."""

    DRAW = 0  # the task itself
    ROLLOUT = 1  # `Objective.collect`
    MEMORY = 2  # `Objective.init`


def task_numbers(num: int) -> Integer[Array, "num"]:
    """The numbers in the meta-step of the `num` tasks that this device holds."""
    first = jax.lax.axis_index(DEVICES) * num if num_devices() > 1 else 0
    return first + jnp.arange(num)


def task_keys(key: Key[Array, ""], numbers: Integer[Array, "tasks"]) -> Key[Array, "tasks"]:
    """One key a task, folded from its number."""
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def stream(keys: Key[Array, "tasks"], which: Stream) -> Key[Array, "tasks"]:
    """The keys of one stream of each task."""
    return jax.vmap(lambda key: jax.random.fold_in(key, int(which)))(keys)
