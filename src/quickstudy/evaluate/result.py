"""The outcome of a test."""

import dataclasses
from typing import Any

from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """The outcome, in the metric's own units and sign.

    values: [tasks], the headline score of each; `score` is their mean with its interval `ci`
    curves: [tasks, points]; `curve` has a dict a point: adaptations, mean, iqm, ci, iqm_ci
    baselines: by name, dicts of score, ci, curve, behaviour and `difference`: ours minus theirs, paired, mean and ci
    behaviour: by name, lists of mean and ci over tasks, of what EvaluationConfig.behaviour measures
    """

    metric: str
    lower_is_better: bool
    values: NDArray
    curves: NDArray
    adaptations: tuple[int, ...]
    score: float
    ci: tuple[float, float]
    curve: list[dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    diverged: list[int]
    note: str
    traces: dict[str, NDArray]
    behaviour: dict[str, list[dict[str, Any]]]

    @property
    def n(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        better, (low, high) = "lower" if self.lower_is_better else "higher", self.ci
        curve = ", ".join(f"{point['mean']:.4g} after {point['adaptations']}" for point in self.curve)
        return f"{self.metric} {self.score:.4g} [{low:.4g}, {high:.4g}] ({better} is better), {self.n:,} tasks; {curve}"

    def summary(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "score": self.score,
            "ci": list(self.ci),
            "n": self.n,
            "curve": self.curve,
            "baselines": self.baselines,
            "diverged": self.diverged,
            "note": self.note,
            **({"behaviour": self.behaviour} if self.behaviour else {}),
        }
