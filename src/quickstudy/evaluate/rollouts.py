"""Held-out tasks in chunks, and what is read of their being rolled out."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from quickstudy.core import HeldOut, Learner, Objective
from quickstudy.evaluate.config import Drawing, EvaluationConfig
from quickstudy.parallel.keys import Stream, stream, task_keys


def chunk_of(held_out: HeldOut, evaluation: EvaluationConfig, first: int) -> tuple[PyTree, Any]:
    """(tasks, their keys) from number `first` on; the last chunk is filled up with the last task, for one shape."""
    numbers = jnp.asarray(np.minimum(first + np.arange(evaluation.chunk), evaluation.num_tasks - 1), jnp.uint32)
    return held_out.tasks(numbers), _keys(evaluation.seed, numbers)


def chunks(held_out: HeldOut, evaluation: EvaluationConfig) -> Iterator[tuple[PyTree, Any]]:
    """All of them, each drawn when it is asked for: memory does not grow with the number of tasks."""
    for first in range(0, evaluation.num_tasks, evaluation.chunk):
        yield chunk_of(held_out, evaluation, first)


@eqx.filter_jit
def _keys(seed: int, numbers: Any) -> Any:
    return task_keys(jax.random.key(seed), numbers)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Reads (score, curve, behaviour). Equal where it measures the same, so that it is compiled once."""

    behaviour: Drawing | None

    def __call__(self, objective: Objective, tasks: PyTree, batch: PyTree) -> Any:
        done = {} if self.behaviour is None else dict(self.behaviour(tasks, batch))
        return objective.score(batch), objective.curve(batch), done


def whole_batch(objective: Objective, tasks: PyTree, batch: PyTree) -> PyTree:
    """Reads everything."""
    return batch


def rolled_out(
    learner: Learner, objective: Objective, tasks: PyTree, keys: Any, *, read: Callable = whole_batch
) -> Any:
    """What `read(objective, tasks, batch)` makes of the tasks; compiled where they are rolled out on the device."""
    memory = objective.init(learner, tasks, keys=stream(keys, Stream.MEMORY))
    collect = _collect if objective.on_device else _collect.__wrapped__
    return collect(learner, objective, memory, tasks, keys, read)


@eqx.filter_jit
def _collect(learner: Learner, objective: Objective, memory: PyTree, tasks: PyTree, keys: Any, read: Callable):
    batch, _ = objective.collect(learner, memory, tasks, keys=stream(keys, Stream.ROLLOUT))
    return read(objective, tasks, batch)
