"""The outcome of a test, and how tasks are summarised."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quickstudy.evaluate import statistics as stats


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """The outcome, in the metric's own units and sign.

    unit: in which adaptation is counted, as "gradient steps"
    values: [tasks], the headline score of each; `score` is their mean with its interval `ci`
    curve_metric, points_per_score: what the curve counts, see `Objective`
    curves: [tasks, points]; `curve` has a dict a point: adaptations, mean, iqm, ci, iqm_ci
    baselines: by name, dicts of score, ci, curve, behaviour and `difference`: ours minus theirs, paired, mean and ci
    diverged: the numbers of the tasks whose score is not finite, which are left out of all figures
    tasks: [tasks], a number of each task by which two tests know whether their tasks are the same
    held_out: the identity of the held-out tasks, see `HeldOut`; None where they have none
    drawings: the kinds of what was recorded to be drawn: of single `tasks`, as an `overview`, of `behaviour`
    drawn: what was recorded, "tasks/..." and "overview/..."
    behaviour: by name, lists of mean and ci over tasks, of what EvaluationConfig.behaviour measures
    """

    metric: str
    curve_metric: str
    points_per_score: float
    lower_is_better: bool
    unit: str
    values: NDArray
    curves: NDArray
    adaptations: tuple[int, ...]
    score: float
    ci: tuple[float, float]
    curve: list[dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    diverged: list[int]
    note: str
    tasks: NDArray
    held_out: str | None
    drawings: dict[str, str]
    drawn: dict[str, NDArray]
    behaviour: dict[str, list[dict[str, Any]]]

    @property
    def n(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        better, (low, high) = "lower" if self.lower_is_better else "higher", self.ci
        curve = ", ".join(f"{point['mean']:.4g} after {point['adaptations']}" for point in self.curve)
        return (
            f"{self.metric} {self.score:.4g} [{low:.4g}, {high:.4g}] ({better} is better), {self.n:,} tasks; "
            f"{curve} {self.unit}"
        )

    def summary(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        return {
            "metric": self.metric,
            "curve_metric": self.curve_metric,
            "points_per_score": self.points_per_score,
            "lower_is_better": self.lower_is_better,
            "unit": self.unit,
            "score": self.score,
            "ci": list(self.ci),
            "n": self.n,
            "curve": self.curve,
            "baselines": self.baselines,
            "diverged": self.diverged,
            "note": self.note,
            "held_out": self.held_out,
            **({"behaviour": self.behaviour} if self.behaviour else {}),
            "drawings": self.drawings,
        }

    def arrays(self) -> dict[str, NDArray]:
        """The arrays that are stored beside the summary."""
        of_tasks = {"values": self.values, "curves": self.curves, "tasks": self.tasks}
        return of_tasks | {f"drawing/{name}": array for name, array in self.drawn.items()}


class Measured(NamedTuple):
    """What one learner did on the held-out tasks."""

    values: NDArray  # [tasks]
    curves: NDArray  # [tasks, points]
    unit: str
    adaptations: tuple[int, ...]  # before each point
    behaviour: dict[str, NDArray]


def compare(ours: NDArray, theirs: NDArray) -> dict[str, Any]:
    """Paired difference, ours minus theirs, over the tasks where both are finite."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    difference = ours[both] - theirs[both]
    return {"mean": float(difference.mean()), "ci": list(stats.interval(difference)), "n": int(both.sum())}


def compared(ours: NDArray, theirs: NDArray, curve: list[dict[str, Any]] | None) -> dict[str, Any]:
    """A baseline's own figures, and its paired difference to ours."""
    finite = theirs[np.isfinite(theirs)]
    return {
        "score": float(finite.mean()),
        "ci": list(stats.interval(finite)),
        "curve": curve,
        "difference": compare(ours, theirs),
    }


def curve_points(curves: NDArray, adaptations: tuple[int, ...]) -> list[dict[str, Any]]:
    """Of the tasks that are finite there; a point that none of them has is left out."""
    points = []
    for values, adapted in zip(curves.T, adaptations, strict=True):
        column = values[np.isfinite(values)]
        if not len(column):
            continue
        points.append(
            {
                "adaptations": int(adapted),
                "mean": float(column.mean()),
                "iqm": float(stats.iqm(column)),
                "ci": list(stats.interval(column)),
                "iqm_ci": list(stats.interval(column, stats.iqm)),
            }
        )
    return points


def summary_over_tasks(behaviour: dict[str, NDArray]) -> dict[str, list[dict[str, Any]]]:
    """Mean and interval of each of what was measured [tasks, ...], over the tasks that have it."""

    def of(measured: NDArray) -> list[dict[str, Any]]:
        columns = [column[np.isfinite(column)] for column in measured.reshape(len(measured), -1).T]
        return [{"mean": float(c.mean()), "ci": list(stats.interval(c))} if len(c) else {} for c in columns]

    return {name: of(measured) for name, measured in behaviour.items()}
