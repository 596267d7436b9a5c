"""The picture of meta-training: metrics over meta-steps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from quickstudy.report.style import drawing, legend_below, of_run, of_stage, plain, subplots, when

ENOUGH = 3  # points, fewer are no curve
METRICS = {"return": "return in training", "loss": "loss", "gradient_norm": "gradient norm"}


@dataclasses.dataclass(frozen=True)
class Log:
    """What is drawn of a run: the lines of metrics.jsonl and validation.jsonl, and what the latter's curves count."""

    label: str
    metrics: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    metric: str

    def points(self, name: str) -> list[tuple[int, float]]:
        """(meta-step, value) wherever the metric was logged."""
        return [(line["step"], float(line[name])) for line in self.metrics if line.get(name) is not None]

    def validated(self, adaptations: int) -> list[tuple[int, float]]:
        """(meta-step, held-out mean after so many adaptations)."""
        return [
            (line["step"], float(point["mean"]))
            for line in self.validation for point in line["curve"] if point["adaptations"] == adaptations
        ]  # fmt: skip


def training(logs: Sequence[Log]) -> Figure | None:
    """A panel a metric that has enough points to be a curve; None where none has."""
    names = [name for name in METRICS if any(len(log.points(name)) >= ENOUGH for log in logs)]
    measured = dict.fromkeys(log.metric for log in logs if len(log.validation) >= ENOUGH)
    columns = len(names) + len(measured)
    if not columns:
        return None
    figure, [axes] = subplots(1, columns, (max(3.7 * columns, 5.0), 3.4))
    with drawing():
        for ax, name in zip(axes, names, strict=False):
            _metric(ax, name, logs)
        for ax, metric in zip(axes[len(names) :], measured, strict=True):
            _validation(ax, metric, logs)
        for ax in axes:
            ax.set_xlabel("meta-steps")
        legend_below(figure, axes if len(logs) > 1 else axes[len(names) :])
    return figure


def _metric(ax: Axes, name: str, logs: Sequence[Log]) -> None:
    for i, log in enumerate(logs):
        points = log.points(name)
        if len(points) >= ENOUGH:
            ax.plot(*np.transpose(points), color=of_run(i)["color"], lw=1.2, label=plain(log.label))
    ax.set_title(METRICS[name])
    if name == "gradient_norm" and any(value > 0 for log in logs for _, value in log.points(name)):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")


def _validation(ax: Axes, metric: str, logs: Sequence[Log]) -> None:
    """Of one run the curve at four numbers of adaptations; of several each run's at its last."""
    for i, log in enumerate(logs):
        if log.metric != metric or len(log.validation) < ENOUGH:
            continue
        shown = _shown(log.validation)
        for k, done in enumerate(shown if len(logs) == 1 else shown[-1:]):
            points = log.validated(done)
            if len(points) < ENOUGH:
                continue
            look = {**of_run(i), "ms": 3.5, "lw": 1.5}
            if len(logs) == 1:
                look |= {"color": of_stage(k, len(shown)), "marker": "os^D"[k]}
            label = when(done) if len(logs) == 1 else plain(log.label)
            ax.plot(*np.transpose(points), label=label, **look)
    ax.set_title(f"held-out {plain(metric)}", fontsize=9.5)


def _shown(validation: Sequence[Mapping[str, Any]]) -> list[int]:
    """Numbers of adaptations: four of all that were reached in some validation."""
    reached = sorted({point["adaptations"] for line in validation for point in line["curve"]})
    return sorted({reached[round(i * (len(reached) - 1) / 3)] for i in range(4)}) if reached else []


def in_words(logs: Sequence[Log]) -> list[str]:
    """Sentences of what has too few points for a picture."""
    sentences = []
    for log in logs:
        if not 0 < len(log.validation) < ENOUGH:
            continue
        for line in log.validation:
            ends = [*line["curve"][:1], *line["curve"][1:][-1:]]
            along = ", ".join(f"{point['mean']:,.4g} {when(point['adaptations'])}" for point in ends)
            sentences.append(f"{log.label}: held-out {log.metric} at meta-step {line['step']:,}: {along}.")
    return sentences
