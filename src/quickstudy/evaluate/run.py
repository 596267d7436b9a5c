"""Meta-testing: how well a learner adapts to tasks it has never seen, beside baselines on the very same tasks.

The adaptation curve is performance after 0, 1, 2, … adaptations: of learners that take gradient steps, rebuilt with
each number of steps in `EvaluationConfig.steps`; of those that live a trial or a stream, along it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import NDArray

from quickstudy.core import HeldOut, Learner, Objective
from quickstudy.evaluate import statistics as stats
from quickstudy.evaluate.config import Behaviour, EvaluationConfig
from quickstudy.evaluate.result import Evaluation


def evaluate(
    learner: Learner, objective: Objective, held_out: HeldOut, *, evaluation: EvaluationConfig | None = None
) -> Evaluation:
    """Tests `learner` on held-out tasks. They and the keys they are lived with depend on `protocol` alone, so the
    outcomes of any two learners can be compared pair by pair."""
    if not isinstance(held_out, HeldOut):
        raise TypeError(
            f"evaluate takes held-out tasks, got {type(held_out).__name__}: use `.split().test` of the distribution"
        )
    evaluation = evaluation or EvaluationConfig(objective)
    if evaluation.num_tasks < 1 or evaluation.chunk < 1:
        raise ValueError(f"num_tasks={evaluation.num_tasks} and chunk={evaluation.chunk} must be at least 1")
    chunk = min(evaluation.chunk, evaluation.num_tasks)
    objective = objective.for_evaluation
    evaluation = dataclasses.replace(evaluation, objective=objective, chunk=chunk)
    tasks = held_out.tasks(evaluation.num_tasks)
    learner = learner if evaluation.eval_view is None else evaluation.eval_view(learner)
    values, curves, adaptations, behaviour = _measure(learner, evaluation, tasks)
    sound = np.isfinite(values)
    if not sound.any():
        raise FloatingPointError(f"none of the {len(values)} held-out tasks gave a finite score")
    baselines, notes = {}, [held_out.note, evaluation.note]
    for name, baseline in evaluation.baselines.items():
        theirs, their_curves, their_adaptations, done = _measure(baseline, evaluation, tasks)
        diverged = int((~np.isfinite(theirs)).sum())
        if diverged:
            notes.append(f"{name} was not finite in {diverged} tasks, which are left out of its figures")
        if not (sound & np.isfinite(theirs)).any():
            continue  # there is nothing to compare
        baselines[name] = _baseline(values, theirs, _points(their_curves, their_adaptations))
        baselines[name] |= {"behaviour": done} if done else {}
    if evaluation.oracle_value is not None:
        best = np.broadcast_to(np.asarray(evaluation.oracle_value(tasks), np.float64), values.shape)
        baselines["optimum"] = _baseline(values, best, None)
    low, high = stats.interval(values[sound])
    return Evaluation(
        objective.metric,
        objective.lower_is_better,
        values,
        curves,
        adaptations,
        float(values[sound].mean()),
        (low, high),
        _points(curves[sound], adaptations),
        baselines,
        [int(i) for i in np.flatnonzero(~sound)],
        "; ".join(filter(None, notes)),
        _traces(learner, evaluation, tasks, values),
        behaviour,
    )


def with_steps(learner: Learner, steps: int) -> Learner:
    """The learner with another number of inner steps; one whose adaptation has no such number is left as it is."""
    if "steps" not in {field.name for field in dataclasses.fields(learner)}:
        return learner
    return dataclasses.replace(learner, steps=steps)


def compare(ours: NDArray, theirs: NDArray) -> dict[str, Any]:
    """Paired difference, ours minus theirs, over the tasks where both are finite."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    difference = ours[both] - theirs[both]
    return {"mean": float(difference.mean()), "ci": list(stats.interval(difference)), "n": int(both.sum())}


def _lived(objective: Objective, tasks: PyTree, batch: PyTree) -> PyTree:
    return batch


def _live(learner: Learner, objective: Objective, tasks: PyTree, key: Any, *, read: Callable = _lived):
    """What `read(objective, tasks, batch)` makes of the tasks being lived; compiled where they live on the device."""
    begin, live = jax.random.split(key)
    memory = objective.init(learner, tasks, key=begin)
    collect = _collect if objective.on_device else _collect.__wrapped__
    return collect(learner, objective, memory, tasks, live, read)


@eqx.filter_jit
def _collect(learner: Learner, objective: Objective, memory: PyTree, tasks: PyTree, key: Any, read: Callable):
    return read(objective, tasks, objective.collect(learner, memory, tasks, key=key)[0])


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Equal where it measures the same, so that it is compiled once."""

    behaviour: Behaviour | None

    def __call__(self, objective: Objective, tasks: PyTree, batch: PyTree):
        done = {} if self.behaviour is None else self.behaviour(tasks, batch)
        return objective.score(batch), objective.curve(batch), done


def _chunk(evaluation: EvaluationConfig, tasks: PyTree, index: int) -> tuple[PyTree, Any]:
    """The tasks of one chunk, the last one filled up, and the key they are lived with."""
    rows = np.minimum(np.arange(evaluation.chunk) + index * evaluation.chunk, evaluation.num_tasks - 1)
    return jax.tree.map(lambda x: x[rows], tasks), jax.random.fold_in(jax.random.key(evaluation.seed), index)


def _measure(
    learner: Learner, evaluation: EvaluationConfig, tasks: PyTree
) -> tuple[NDArray, NDArray, tuple[int, ...], dict]:
    """(headline values [tasks], curves [tasks, points], adaptations at each point, behaviour)."""
    objective, num = evaluation.objective, evaluation.num_tasks
    live = functools.partial(_live, read=_Judge(evaluation.behaviour))
    columns, values, done = [], np.zeros(0), {}
    for steps in evaluation.steps or (None,):
        rebuilt = learner if steps is None else with_steps(learner, steps)
        lived = [live(rebuilt, objective, *_chunk(evaluation, tasks, i)) for i in range(-(-num // evaluation.chunk))]
        join = lambda *xs: np.concatenate([np.asarray(x, np.float64) for x in xs])[:num]
        scores, curves, done = jax.tree.map(join, *lived)
        values = -scores if objective.lower_is_better else scores
        columns.append(curves)
    points = columns[0].shape[1]
    along = tuple(objective.first_point + i * objective.adaptations_per_point for i in range(points))
    behaviour = {name: _over_tasks(measured) for name, measured in done.items()}
    return values, np.concatenate(columns, 1), evaluation.steps or along, behaviour


def _over_tasks(measured: NDArray) -> list[dict[str, Any]]:
    """Mean and interval of each of what was measured [tasks, ...], over the tasks that have it."""
    columns = [column[np.isfinite(column)] for column in measured.reshape(len(measured), -1).T]
    return [{"mean": float(c.mean()), "ci": list(stats.interval(c))} if len(c) else {} for c in columns]


def _points(curves: NDArray, adaptations: tuple[int, ...]) -> list[dict[str, Any]]:
    """Of the tasks that are finite there; a point that none of them has is left out."""
    out = []
    for values, adapted in zip(curves.T, adaptations, strict=True):
        column = values[np.isfinite(values)]
        if not len(column):
            continue
        out.append(
            {
                "adaptations": int(adapted),
                "mean": float(column.mean()),
                "iqm": float(stats.iqm(column)),
                "ci": list(stats.interval(column)),
                "iqm_ci": list(stats.interval(column, stats.iqm)),
            }
        )
    return out


def _baseline(ours: NDArray, theirs: NDArray, curve: list[dict[str, Any]] | None) -> dict[str, Any]:
    finite = theirs[np.isfinite(theirs)]
    return {
        "score": float(finite.mean()),
        "ci": list(stats.interval(finite)),
        "curve": curve,
        "difference": compare(ours, theirs),
    }


def _traces(learner: Learner, evaluation: EvaluationConfig, tasks: PyTree, values: NDArray) -> dict[str, NDArray]:
    """Arrays that draw the worst, the middle and the best tasks, stacked in that order; and those of a survey."""
    seen, trace = {}, evaluation.draw
    if evaluation.draw_many is not None:
        chunk, key = _chunk(evaluation, tasks, 0)
        arrays = evaluation.draw_many(learner, evaluation, chunk, _live(learner, evaluation.objective, chunk, key))
        seen = {f"survey/{name}": array for name, array in arrays.items()}
    if trace is None:
        return seen
    better = -values if evaluation.objective.lower_is_better else values
    order = np.argsort(np.where(np.isfinite(better), better, -np.inf), kind="stable")  # what diverged is worst
    last = len(order) - 1
    chosen = [int(order[min(max(i, 0), last)]) for i in (0, 1, len(order) // 2, last - 1, last)]
    drawn = []
    for task in chosen:
        chunk, key = _chunk(evaluation, tasks, task // evaluation.chunk)
        lived = _live(learner, evaluation.objective, chunk, key)
        row = task % evaluation.chunk
        one = jax.tree.map(lambda x: x[row], (chunk, lived))  # noqa: B023
        drawn.append({**trace(learner, evaluation, *one), "task": np.asarray(task), "value": values[task]})
    return {name: np.stack([np.asarray(d[name]) for d in drawn]) for name in drawn[0]} | seen
