"""Pictures of what the learner and its baselines do, over all held-out tasks.

What was measured of an agent is {name: points}, a point {mean, ci} or {} where no task has it (report.behaviour).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quickstudy.report.drawings.arrays import Unfit
from quickstudy.report.style import GREY, INK, OTHER, OURS, drawing, legend, legend_below, of_baseline, plain, subplots

Agents = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def _stays(axes: Sequence[Axes], agents: Agents) -> None:
    """A panel an agent: how often it stays after each kind of trial."""
    for ax, (name, measured) in zip(axes, agents.items(), strict=True):
        for i, point in enumerate(measured["stays"]):
            if point:
                ax.bar(i, point["mean"], color=OURS if i < 2 else OTHER, alpha=1.0 if i % 2 == 0 else 0.45, width=0.75)
                ax.plot([i, i], point["ci"], color=INK, lw=1.4)
        ax.set_title(plain(name))
        ax.set_xticks(range(4), ["common\npaid", "common\ndid not", "rare\npaid", "rare\ndid not"], fontsize=8)
        ax.set(ylim=(0, 1))
    axes[0].set_ylabel("makes the same choice again")


def _regret(axes: Sequence[Axes], agents: Agents) -> None:
    [ax] = axes
    for i, (name, measured) in enumerate(agents.items()):
        points = {k + 1: point for k, point in enumerate(measured["regret"]) if point}
        x = np.array(list(points)) / max(1, len(measured["regret"]))
        ours = i == 0
        look = {"color": OURS, "marker": "o", "lw": 2.4, "ms": 4} if ours else of_baseline(i - 1, 1)
        ax.plot(x, [point["mean"] for point in points.values()], label=plain(name), zorder=5 - ours, **look)
        if ours and points:
            ax.fill_between(x, *np.transpose([p["ci"] for p in points.values()]), color=OURS, alpha=0.18, lw=0)
    ax.set(xlabel="share of the trial", ylabel="regret so far", ylim=(0, None))
    legend(ax)


ARMS = (("informative arm", OTHER), ("target", OURS), ("another arm", GREY))


def _pulls(axes: Sequence[Axes], agents: Agents) -> None:
    """A panel an agent: which kind of arm it pulls, pull by pull."""
    for ax, (name, measured) in zip(axes, agents.items(), strict=True):
        for kind, colour in ARMS:
            points = {k + 1: point for k, point in enumerate(measured[kind]) if point}
            x = list(points)
            if points:
                ax.fill_between(x, *np.transpose([p["ci"] for p in points.values()]), color=colour, alpha=0.18, lw=0)
            ax.plot(x, [p["mean"] for p in points.values()], "o-", color=colour, lw=2, ms=4, label=kind)
        ax.set_title(plain(name))
        ax.set(xlabel="pull", ylim=(-0.03, 1.03))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("share of the tasks")
    legend_below(axes[0].get_figure(), axes[:1])  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Kind:
    """draw: (axes, agents); names: what was measured; apart: whether each agent has its own panel."""

    draw: Callable[[Sequence[Axes], Agents], None]
    names: tuple[str, ...]
    apart: bool


KINDS: dict[str, Kind] = {
    "stays": Kind(_stays, ("stays",), apart=True),
    "regret": Kind(_regret, ("regret",), apart=False),
    "pulls": Kind(_pulls, tuple(name for name, _ in ARMS), apart=True),
}


def behaviour(kind: str, agents: Agents) -> Figure | None:
    """What each agent does, ours first; None for a kind that is not known here. Raises Unfit where the kind's
    measurements are missing."""
    if kind not in KINDS or not agents:
        return None
    how = KINDS[kind]
    for agent, measured in agents.items():
        for name in how.names:
            if name not in measured or any(point and point.keys() < {"mean", "ci"} for point in measured[name]):
                raise Unfit(f"the behaviour of {agent} has no {name}")
    columns = len(agents) if how.apart else 1
    figure, [axes] = subplots(1, columns, (2.9 * columns if how.apart else 8.0, 3.4))
    with drawing():
        how.draw(axes, agents)
    return figure
