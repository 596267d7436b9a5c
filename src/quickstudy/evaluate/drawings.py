"""Arrays that draw single tasks, and many tasks together, for the report."""

import jax
import numpy as np
from numpy.typing import NDArray

from quickstudy.core import HeldOut, Learner
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.rollouts import chunk_of, rolled_out


def kinds(evaluation: EvaluationConfig) -> dict[str, str]:
    """The kinds of pictures for which something is recorded."""
    drawings = {"tasks": evaluation.draw, "overview": evaluation.draw_many, "behaviour": evaluation.behaviour}
    return {name: drawing.kind for name, drawing in drawings.items() if drawing is not None}


def drawn(learner: Learner, evaluation: EvaluationConfig, held_out: HeldOut, values: NDArray) -> dict[str, NDArray]:
    """As "tasks/...", what `evaluation.draw` records of the two worst, the middle and the two best tasks, stacked in
    that order; as "overview/...", what `draw_many` records of the first chunk of tasks."""
    found: dict[str, NDArray] = {}
    if evaluation.draw is not None:
        better = -values if evaluation.objective.lower_is_better else values
        order = np.argsort(np.where(np.isfinite(better), better, -np.inf), kind="stable")  # what diverged is worst
        last = len(order) - 1
        chosen = [int(order[min(max(i, 0), last)]) for i in (0, 1, len(order) // 2, last - 1, last)]
        each = [_of_task(learner, evaluation, held_out, task) | {"value": values[task]} for task in chosen]
        found = {f"tasks/{name}": np.stack([np.asarray(one[name]) for one in each]) for name in each[0]}
    if evaluation.draw_many is not None:
        tasks, keys = chunk_of(held_out, evaluation, 0)
        batch = rolled_out(learner, evaluation.objective, tasks, keys)
        arrays = evaluation.draw_many(learner, evaluation, tasks, batch)
        found |= {f"overview/{name}": np.asarray(array) for name, array in arrays.items()}
    return found


def _of_task(learner: Learner, evaluation: EvaluationConfig, held_out: HeldOut, task: int) -> dict[str, NDArray]:
    first = task // evaluation.chunk * evaluation.chunk
    tasks, keys = chunk_of(held_out, evaluation, first)
    batch = rolled_out(learner, evaluation.objective, tasks, keys)
    one = jax.tree.map(lambda x: x[task - first], (tasks, batch))
    arrays = evaluation.draw(learner, evaluation, *one)  # type: ignore[misc]
    return {name: np.asarray(array) for name, array in arrays.items()} | {"task": np.asarray(task)}
