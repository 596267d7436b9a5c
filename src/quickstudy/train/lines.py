"""Lines of metrics: means over the steps since the line before, and over tasks.

A line may be interrupted: what is known of it is then written to a log of its own, from which the resumed run goes
on. The numbers of a step are reduced when it was taken, so a line does not depend on how its steps
were grouped into calls.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMED = 10  # diverged tasks that a line names, at most


@dataclasses.dataclass
class Line:
    """The steps of one line, so far: of each metric (number, mean, sum of squared deviations) of every step."""

    first: int  # the step it begins after
    steps: int = 0
    tasks: int = 0
    diverged: int = 0
    where: list[list[int]] = dataclasses.field(default_factory=list)  # [step, task]
    moments: dict[str, NDArray] = dataclasses.field(default_factory=dict)  # [steps, 3]
    by_task: list[str] = dataclasses.field(default_factory=list)

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """`metrics` have a leading axis of steps and, but for those of the whole meta-step, one of tasks."""
        diverged = np.asarray(metrics["diverged"])
        at = self.first + self.steps
        self.where += [[int(at + s), int(t)] for s, t in np.argwhere(diverged)[: max(0, NAMED - len(self.where))]]
        self.steps, self.tasks = self.steps + len(diverged), self.tasks + diverged.size
        self.diverged += int(diverged.sum())
        for name, values in metrics.items():
            if name == "diverged":
                continue
            values = np.asarray(values, np.float64)
            if values.ndim == 2 and name not in self.by_task:
                self.by_task.append(name)
            rows, counted = (
                (values, ~diverged) if values.ndim == 2 else (values[:, None], np.ones((len(values), 1), bool))
            )
            new = _moments(rows, counted)
            self.moments[name] = np.concatenate([self.moments.get(name, np.zeros((0, 3))), new])

    def summary(self) -> dict[str, Any]:
        """{"step", "diverged", and of each metric its mean and, over tasks, its deviation}; None where one is not
        finite."""
        line: dict[str, Any] = {"step": self.first + self.steps, "diverged": self.diverged}
        for name, moments in self.moments.items():
            number, mean, square = moments.T
            if not number.sum():
                line[name] = None
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                pooled = float((number * mean).sum() / number.sum())
                spread = (square + number * (mean - pooled) ** 2).sum() / number.sum()
            line[name] = pooled if math.isfinite(pooled) else None
            if name in self.by_task:
                line[f"{name}_std"] = math.sqrt(spread) if math.isfinite(pooled) and math.isfinite(spread) else None
        if self.where:
            line["diverged_tasks"] = self.where
        return line

    def partial(self) -> dict[str, Any]:
        """What to write where the line is interrupted."""
        fields = dataclasses.asdict(self)
        as_json = lambda rows: [[x if math.isfinite(x) else repr(x) for x in row] for row in rows.tolist()]
        fields["moments"] = {name: as_json(rows) for name, rows in self.moments.items()}
        return {"step": self.first + self.steps, **fields}

    @staticmethod
    def resumed(line: dict[str, Any]) -> "Line":
        """From a line that `partial` wrote."""
        fields = {field.name: line[field.name] for field in dataclasses.fields(Line)}
        moments = fields["moments"].items()
        fields["moments"] = {name: np.asarray(rows, np.float64).reshape(-1, 3) for name, rows in moments}
        return Line(**fields)


def _moments(values: NDArray, counted: NDArray) -> NDArray:
    """Of each row [steps, tasks], over what is counted: number, mean, sum of squared deviations."""
    number = counted.sum(1)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        mean = np.where(counted, values, 0.0).sum(1) / number
        square = np.where(counted, (values - mean[:, None]) ** 2, 0.0).sum(1)
    return np.stack([number, np.where(number > 0, mean, 0.0), square], 1)
