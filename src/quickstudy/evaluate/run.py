"""Meta-testing: how well a learner adapts to tasks it has never seen, beside baselines on the very same tasks.

The adaptation curve is performance after 0, 1, 2, … adaptations: of learners that take gradient steps, rebuilt with
each number of steps in `EvaluationConfig.steps`; of those that adapt within a trial or a stream, along it.
"""

import dataclasses

import jax
import numpy as np
from numpy.typing import NDArray

from quickstudy.core import HeldOut, Incompatible, Learner, Objective
from quickstudy.display.events import Listener, quiet
from quickstudy.evaluate import statistics as stats
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.drawings import drawn, kinds
from quickstudy.evaluate.result import Evaluation, Measured, compared, curve_points, summary_over_tasks
from quickstudy.evaluate.rollouts import Judge, chunks, rolled_out
from quickstudy.evaluate.signature import signatures


def evaluate(
    learner: Learner,
    objective: Objective,
    held_out: HeldOut,
    *,
    evaluation: EvaluationConfig | None = None,
    listener: Listener = quiet,
) -> Evaluation:
    """Tests `learner` on held-out tasks. A task and the key it is rolled out with depend on the task's number and on
    `evaluation.seed` alone, so the outcomes of any two learners can be compared pair by pair.

    listener: called for each learner that is tested, as {"event": "testing", "name": ..., "number": ..., "of": ...}

    Raises TypeError for tasks that are not held out, ValueError for no tasks, FloatingPointError where no task gave a
    finite score.
    """
    if not isinstance(held_out, HeldOut):
        raise TypeError(
            f"evaluate takes held-out tasks, got {type(held_out).__name__}: use `.split().test` of the distribution"
        )
    evaluation = evaluation or EvaluationConfig(objective)
    if evaluation.num_tasks < 1 or evaluation.chunk < 1:
        raise ValueError(f"num_tasks={evaluation.num_tasks} and chunk={evaluation.chunk} must be at least 1")
    objective = objective.for_evaluation
    chunk = min(evaluation.chunk, evaluation.num_tasks)
    evaluation = dataclasses.replace(evaluation, objective=objective, chunk=chunk)
    learner = learner if evaluation.eval_view is None else evaluation.eval_view(learner)

    announce = lambda name, number: listener(
        {"event": "testing", "name": name, "number": number, "of": 1 + len(evaluation.baselines)}
    )
    announce("the learner", 1)
    ours = _measure(learner, evaluation, held_out)
    sound = np.isfinite(ours.values)
    if not sound.any():
        raise FloatingPointError(f"none of the {len(ours.values)} held-out tasks gave a finite score")
    baselines, notes = {}, [held_out.note, evaluation.note]
    for number, (name, baseline) in enumerate(evaluation.baselines.items(), 2):
        announce(name, number)
        theirs = _measure(baseline, evaluation, held_out)
        finite = np.isfinite(theirs.values)
        if not finite.all():
            notes.append(f"{name} was not finite in {(~finite).sum()} tasks, which are left out of its figures")
        if (sound & finite).any():  # else there is nothing to compare
            baselines[name] = compared(ours.values, theirs.values, curve_points(theirs.curves, theirs.adaptations))
            baselines[name] |= {"behaviour": summary_over_tasks(theirs.behaviour)} if theirs.behaviour else {}
    if evaluation.oracle_value is not None:
        baselines["oracle"] = compared(ours.values, _oracle_values(evaluation, held_out), None)
    return Evaluation(
        metric=objective.metric,
        curve_metric=objective.curve_metric,
        points_per_score=objective.points_per_score,
        lower_is_better=objective.lower_is_better,
        unit=ours.unit,
        values=ours.values,
        curves=ours.curves,
        adaptations=ours.adaptations,
        score=float(ours.values[sound].mean()),
        ci=stats.interval(ours.values[sound]),
        curve=curve_points(ours.curves[sound], ours.adaptations),
        baselines=baselines,
        diverged=[int(i) for i in np.flatnonzero(~sound)],
        note="; ".join(filter(None, notes)),
        tasks=np.concatenate([signatures(tasks) for tasks, _ in chunks(held_out, evaluation)])[: evaluation.num_tasks],
        held_out=_identity(held_out),
        drawings=kinds(evaluation),
        drawn=drawn(learner, evaluation, held_out, ours.values),
        behaviour=summary_over_tasks(ours.behaviour),
    )


def _measure(learner: Learner, evaluation: EvaluationConfig, held_out: HeldOut) -> Measured:
    objective, num = evaluation.objective, evaluation.num_tasks
    values, columns, behaviour = np.zeros(0), [], {}
    for rebuilt in _rebuilt(learner, evaluation.steps):
        judged = [
            rolled_out(rebuilt, objective, *chunk, read=Judge(evaluation.behaviour))
            for chunk in chunks(held_out, evaluation)
        ]
        join = lambda *parts: np.concatenate([np.asarray(part, np.float64) for part in parts])[:num]
        scores, curves, behaviour = jax.tree.map(join, *judged)
        values = -scores if objective.lower_is_better else scores
        columns.append(curves)
    if evaluation.steps:
        columns *= len(evaluation.steps) // len(columns)
        return Measured(values, np.concatenate(columns, 1), "gradient steps", evaluation.steps, behaviour)
    unit, along = objective.curve_axis(learner, columns[0].shape[1])
    return Measured(values, columns[0], unit, along, behaviour)


def _rebuilt(learner: Learner, steps: tuple[int, ...] | None) -> list[Learner]:
    """The learner with each of these numbers of inner steps; once as it is where it has no such number."""
    try:
        return [learner.with_inner_steps(number) for number in steps] if steps else [learner]
    except Incompatible:
        return [learner]


def _oracle_values(evaluation: EvaluationConfig, held_out: HeldOut) -> NDArray:
    value = evaluation.oracle_value
    assert value is not None
    of = lambda tasks, num: np.broadcast_to(np.asarray(value(tasks), np.float64), (num,))
    parts = [of(tasks, len(keys)) for tasks, keys in chunks(held_out, evaluation)]
    return np.concatenate(parts)[: evaluation.num_tasks]


def _identity(held_out: HeldOut) -> str | None:
    try:
        return held_out.identity()
    except Incompatible:
        return None
