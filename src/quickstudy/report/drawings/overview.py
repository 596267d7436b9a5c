"""Pictures of many held-out tasks together."""

import dataclasses
from collections.abc import Callable, Mapping

import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from quickstudy.report.drawings.arrays import check
from quickstudy.report.style import OURS, drawing, legend_below, subplots


def _generated_policies(arrays: Mapping[str, NDArray]) -> Figure:
    """The true parameters of the tasks, a colour each; in the same colours the policies generated for them after the
    first and after the last episode; and how far they were corrected."""
    parameter, generated, correction = (arrays[name] for name in ("parameter", "generated", "correction"))
    size = np.abs(parameter).max(1) / np.abs(parameter).max()
    angle = np.arctan2(parameter[:, 1], parameter[:, 0]) / (2 * np.pi) % 1
    colours = matplotlib.colors.hsv_to_rgb(np.stack([angle, 0.25 + 0.7 * size, np.full(len(angle), 0.85)], 1))
    figure, [axes] = subplots(1, 4, (13.2, 3.6))
    with drawing():
        last = generated.shape[1]
        panels = [("the tasks", parameter), ("generated after episode 1", generated[:, 0])]
        panels.append((f"generated after episode {last}", generated[:, -1]))
        for ax, (title, points) in zip(axes, panels, strict=False):
            ax.scatter(*points.T, s=9, c=colours, lw=0)
            ax.set_title(title)
        for ax in axes[1:3]:
            ax.set(xlabel="first principal component", ylabel="second")
            ax.set_aspect("equal", adjustable="datalim")
        axes[0].set(aspect="equal")
        episodes = np.arange(1, correction.shape[1] + 1)
        low, middle, high = np.quantile(correction, (0.25, 0.5, 0.75), axis=0)
        axes[3].fill_between(episodes, low, high, color=OURS, alpha=0.18, lw=0, label="|δ|, half of the tasks")
        axes[3].plot(episodes, middle, "o-", ms=4, color=OURS, label="|δ|, median")
        axes[3].set_title("|δ|")
        axes[3].set(xlabel="episode that it acts in", ylim=(0, None))
        axes[3].xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, axes[3:], 8)
    return figure


@dataclasses.dataclass(frozen=True)
class Kind:
    """draw: the figure of the arrays; shapes: of the arrays, see drawings.arrays.check."""

    draw: Callable[[Mapping[str, NDArray]], Figure]
    shapes: Mapping[str, str]


KINDS: dict[str, Kind] = {
    "generated policies": Kind(
        _generated_policies,
        {"parameter": "tasks 2", "generated": "tasks episodes 2", "correction": "tasks episodes"},
    ),
}


def overview(kind: str, arrays: Mapping[str, NDArray]) -> Figure | None:
    """Many held-out tasks together; None for a kind that is not known here. Raises Unfit for arrays that are not of the
    kind."""
    if kind not in KINDS:
        return None
    check(arrays, KINDS[kind].shapes)
    return KINDS[kind].draw(arrays)
