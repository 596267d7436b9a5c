"""Which runs stand together: their labels, and several seeds pooled."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.evaluate import statistics as stats
from quickstudy.report.adaptation import Curve
from quickstudy.report.reading import Run
from quickstudy.runs.schema import MAY_CHANGE

# Fields that change nothing of what is learned; what is tested is read from the test itself.
HARMLESS = MAY_CHANGE - {"meta_steps"}

TOLERANCE = 1e-4  # of the largest signature: tasks drawn on another machine are rounded otherwise


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def setting(run: Run, *without: str) -> dict[str, Any]:
    """The fields that say what was learned, without those of these names."""
    return {name: value for name, value in run.config.items() if _last(name) not in HARMLESS.union(without)}


def label(run: Run, runs: Sequence[Run], *without: str) -> str:
    """The recipe, and in what the run differs from the others of that recipe."""
    same = [r for r in runs if r.recipe == run.recipe]
    mine = setting(run, *without)
    different = [name for name, value in mine.items() if any(setting(r).get(name, value) != value for r in same)]
    words = [f"seed {mine[name]}" if _last(name) == "seed" else f"{name}={mine[name]}" for name in sorted(different)]
    if not without and any(r is not run and setting(r) == setting(run) for r in same):
        words.append(run.path.resolve().name)
    return ", ".join([run.recipe, *words])


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, tested alike: one run, or several seeds together."""

    runs: tuple[Run, ...]
    label: str

    def array(self, name: str) -> tuple[NDArray, int]:
        """An array of the tests, [seeds, tasks, ...], over the tasks that are finite in all seeds, and how many it is
        without; no tasks where some run has no such array."""
        arrays = [run.arrays[name] for run in self.runs if name in run.arrays]
        if len(arrays) < len(self.runs):
            return np.zeros((0, 0)), 0
        stacked = np.stack(arrays).astype(np.float64)
        sound = np.isfinite(stacked).all(axis=(0, *range(2, stacked.ndim)))
        return stacked[:, sound], int((~sound).sum())

    @property
    def score(self) -> tuple[float, tuple[float, float]]:
        """The mean score and its interval."""
        values, _ = self.array("values")
        if len(self.runs) == 1 or not values.size:
            test = self.runs[0].test
            return float(test["score"]), (float(test["ci"][0]), float(test["ci"][1]))
        return float(values.mean()), within(values, stats.interval_over_seeds(values))

    @property
    def points(self) -> list[dict[str, Any]]:
        """The adaptation curve."""
        points, (curves, _) = self.runs[0].test["curve"], self.array("curves")
        if not curves.size or curves.ndim != 3 or curves.shape[2] != len(points):
            return points
        if len(self.runs) == 1:
            return [
                {**p, "ci": within(column, p["ci"])}
                for p, column in zip(points, np.moveaxis(curves, 2, 0), strict=True)
            ]
        return [
            {**p, "mean": float(column.mean()), "ci": within(column, stats.interval_over_seeds(column))}
            for p, column in zip(points, np.moveaxis(curves, 2, 0), strict=True)
        ]


def within(values: NDArray, ci: Sequence[float | int]) -> tuple[float, float]:
    """The interval without what lies below 0, where no value ever did, or beyond [0, 1], where all values lie there:
    Student's interval knows no bounds, an error and a share have them."""
    low, high = float(values.min()), float(values.max())
    least, most = (0.0 if low >= 0 else -np.inf), (1.0 if low >= 0 and high <= 1 else np.inf)
    return float(max(ci[0], least)), float(min(ci[1], most))


def refusal(ours: Run, theirs: Run) -> str | None:
    """Why the scores of two tested runs cannot be paired; None where they can. The first tasks are compared where one
    was tested on more."""
    if (ours.test["metric"], ours.test["lower_is_better"]) != (theirs.test["metric"], theirs.test["lower_is_better"]):
        return f"one was tested for {ours.test['metric']}, the other for {theirs.test['metric']}"
    for run in (ours, theirs):
        values, tasks = run.arrays.get("values"), run.arrays.get("tasks")
        if values is None or tasks is None or values.shape != tasks.shape:
            return f"{run.path} does not hold the scores of single tasks; test it again"
    one, other = (np.asarray(run.arrays["tasks"], np.float64).ravel() for run in (ours, theirs))
    n = min(len(one), len(other))
    largest = np.abs(one[:n][np.isfinite(one[:n])]).max(initial=0.0)
    if not np.allclose(one[:n], other[:n], rtol=0, atol=TOLERANCE * largest, equal_nan=True):
        return "their held-out tasks are not the same"
    return None


def groups(runs: Sequence[Run]) -> list[Group]:
    """The tested ones of `runs`, seeds together."""
    found: list[list[Run]] = []
    for run in runs:
        if run.evaluation is not None:
            alike = next((group for group in found if _alike(group[0], run)), None)
            found.append([run]) if alike is None else alike.append(run)
    return [Group(tuple(group), _name(group, runs)) for group in found]


def _alike(one: Run, other: Run) -> bool:
    tested = lambda run: (run.test.get("step"), run.test["n"], len(run.test["curve"]), run.curve_metric)
    shapes = lambda run: [run.arrays[name].shape if name in run.arrays else None for name in ("values", "curves")]
    return (
        (one.recipe, setting(one, "seed"), tested(one)) == (other.recipe, setting(other, "seed"), tested(other))
        and shapes(one) == shapes(other)
        and refusal(one, other) is None
    )


def _name(group: Sequence[Run], runs: Sequence[Run]) -> str:
    if len(group) == 1:
        return label(group[0], runs)
    tasks, left_out = Group(tuple(group), "").array("curves")
    lost = f", {left_out:,} of {tasks.shape[1] + left_out:,} tasks left out" if left_out else ""
    return f"{label(group[0], runs, 'seed')} ({len(group)} seeds{lost})"


def curve(group: Group) -> Curve:
    """What the picture of adaptation draws. A baseline without a curve stands at what it scores for each point."""
    test = group.runs[0].test
    per_score = float(test.get("points_per_score") or 1.0)
    mean = "" if per_score == 1 else ", its mean over the trial"
    baselines = {
        name if b.get("curve") else f"{name}{mean}": b.get("curve") or float(b["score"]) / per_score
        for name, b in test["baselines"].items()
    }
    gradient = any(_last(name) == "inner_steps" for name in group.runs[0].config)
    unit = "gradient steps" if gradient else "updates of the agent"
    return Curve(group.label, group.runs[0].curve_metric, unit, group.points, baselines)
