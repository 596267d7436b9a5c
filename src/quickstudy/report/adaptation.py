"""The picture of adaptation: performance on held-out tasks after each number of adaptations."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quickstudy.report.style import INK, drawing, legend, of_baseline, of_run, plain, subplots

Points = Sequence[Mapping[str, Any]]  # dicts of adaptations, mean and ci


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is drawn of a run, or of several seeds together.

    metric: what the curve counts, with its unit; each metric has a panel
    unit: what an adaptation is
    baselines: by name, a curve, or the one value that stands for all of it
    """

    label: str
    metric: str
    unit: str
    points: Points
    baselines: Mapping[str, Points | float]


def adaptation(curves: Sequence[Curve]) -> Figure:
    """Runs solid with their 95 % bands, baselines dashed; a baseline that is the same in several runs stands once."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(curve.metric, []).append(curve)
    figure, axes = subplots(len(panels), 1, (10.4, 4.4 * len(panels)))
    with drawing():
        for [ax], (metric, together) in zip(axes, panels.items(), strict=True):
            _panel(ax, metric, together)
    return figure


def _panel(ax: Axes, metric: str, curves: Sequence[Curve]) -> None:
    for i, curve in enumerate(curves):
        x, look = [point["adaptations"] for point in curve.points], of_run(i)
        ax.fill_between(x, *np.transpose([p["ci"] for p in curve.points]), color=look["color"], alpha=0.18, lw=0)
        ax.plot(x, [point["mean"] for point in curve.points], label=plain(curve.label), zorder=5, **look)
    drawn: dict[str, list[Points | float]] = {}
    lines = 0
    for curve in curves:
        for name, baseline in curve.baselines.items():
            if baseline in drawn.get(name, []):
                continue
            label = plain(f"{name}: {curve.label}" if name in drawn else name)
            drawn.setdefault(name, []).append(baseline)
            if isinstance(baseline, int | float):
                ax.axhline(baseline, color=INK, ls=":", lw=1.5, label=label)
            else:
                look, lines = of_baseline(lines, len(curves)), lines + 1
                ax.plot([p["adaptations"] for p in baseline], [p["mean"] for p in baseline], label=label, **look)
    ax.set_xlabel(f"adaptations to the new task ({' or '.join(dict.fromkeys(curve.unit for curve in curves))})")
    ax.set_ylabel(f"{plain(metric)}, held-out tasks")
    if len(curves[0].points) < 7:
        ax.set_xticks([point["adaptations"] for point in curves[0].points])
    legend(ax, 10)
