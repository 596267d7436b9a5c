"""Pictures of a few held-out tasks, from the worst to the best."""

import dataclasses
from collections.abc import Callable, Mapping

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from quickstudy.report.drawings import grids
from quickstudy.report.drawings.arrays import check
from quickstudy.report.style import (
    FAINT,
    GOOD,
    GREY,
    INK,
    OTHER,
    OURS,
    drawing,
    legend_below,
    of_stage,
    plain,
    subplots,
)

PLACES = ("worst", "second worst", "median", "second best", "best")


@dataclasses.dataclass(frozen=True)
class Kind:
    """draw: (axes, arrays, which task) draws one task; shapes: of the arrays, see drawings.arrays.check."""

    draw: Callable[[Axes, Mapping[str, NDArray], int], None]
    shapes: Mapping[str, str]


def _paths(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    paths, goal = arrays["paths"][i], arrays["goal"][i]
    for stage, copies in enumerate(paths):
        look = {"color": of_stage(stage, len(paths)), "lw": 0.8 + 0.3 * min(stage, 4), "zorder": stage}
        for c in range(copies.shape[1]):
            path = np.concatenate([np.zeros((1, 2)), copies[:, c]])
            label = f"after {stage}" if c == 0 else None
            ax.plot(*path.T, alpha=0.7, label=label, **look)
    ax.plot(*goal, "*", ms=15, color=OTHER, mec="white", zorder=len(paths) + 1, label="goal", ls="none")
    ax.plot(0, 0, "o", ms=4, color=INK, zorder=len(paths) + 1)
    far = max(0.8, 1.15 * np.abs(goal).max())
    ax.set(xlim=(-far, far), ylim=(-far, far), aspect="equal")


def _fits(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """The fit after each number of steps, the function itself, the points learned from and those judged by."""
    steps, grid = arrays["steps"][i], arrays["grid"][i]
    ax.plot(grid, arrays["truth"][i], color=INK, ls="--", lw=1.3, label="truth", zorder=2)
    for k, fit in enumerate(arrays["fits"][i]):
        ax.plot(grid, fit, color=of_stage(k, len(steps)), lw=1.2 + 0.2 * k, label=f"after {steps[k]}")
    ax.plot(arrays["query_x"][i], arrays["query_y"][i], "o", ms=4, mfc="none", mec=INK, label="query", zorder=4)
    ax.plot(arrays["x"][i], arrays["y"][i], "^", ms=7, color=OTHER, mec="white", label="support", zorder=5)
    ax.set(ylim=(-5.5, 5.5))


def _arms(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A line an arm, the thicker the better; a dot a pull."""
    p, actions, rewards = arrays["probabilities"][i], arrays["actions"][i], arrays["rewards"][i]
    rank = np.argsort(np.argsort(p))
    for arm, chance in enumerate(p):
        ax.axhline(float(rank[arm]), color=FAINT, lw=10 * float(chance) + 0.3, alpha=0.6, zorder=0)
    pulls = np.arange(1, len(actions) + 1)
    size = 60 if len(pulls) <= 20 else 12
    for paid, colour, label in ((True, OURS, "paid"), (False, OTHER, "did not pay")):
        at = (rewards > 0) == paid
        ax.scatter(pulls[at], rank[actions[at]], s=size, color=colour, label=label, zorder=3)
    ax.set_yticks(range(len(p)), [f"p={v:.2f}" for v in np.sort(p)], fontsize=8)
    ax.set_xlabel("pull")


def _characters(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A column a class: the example it was learned from above the line, queries below it; a mistake is coloured, with
    the number of the class it was taken for."""
    support, query, predicted = arrays["support"][i], arrays["query"][i], arrays["predicted"][i]
    paint = lambda ink, colour: 1 - ink[..., None] * (1 - np.array(matplotlib.colors.to_rgb(colour)))
    frame = lambda picture: np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=1.0)
    columns = [
        np.concatenate(
            [
                frame(paint(support[c], OURS)),
                *(frame(paint(q, INK if p == c else OTHER)) for q, p in zip(query[c], predicted[c], strict=True)),
            ]
        )
        for c in range(len(support))
    ]
    high, wide = support.shape[1] + 4, support.shape[2] + 4
    ax.imshow(np.clip(np.concatenate(columns, 1), 0, 1), interpolation="nearest", aspect="equal")
    ax.axhline(high - 0.5, color=INK, lw=1.2)
    for c, row in enumerate(predicted):
        for r, p in enumerate(row):
            if p != c:
                at = (wide * (c + 1) - 3, high * (r + 2) - 3)
                ax.annotate(str(p + 1), at, color=OTHER, fontsize=7, ha="right", va="bottom")
    ax.set_xticks([wide * (c + 0.5) for c in range(len(support))], [str(c + 1) for c in range(len(support))])
    ax.set_yticks([])
    ax.grid(False)


def _models(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """Predicted probabilities over the real ones, with a standard deviation on either side, after some episodes."""
    real, stages = arrays["real"][i], arrays["episodes"][i]
    ax.plot([0, 1], [0, 1], color=INK, lw=0.8, zorder=0)
    for k, episodes in enumerate(stages):
        mean, deviation = arrays["predicted"][i, k], np.abs(arrays["deviation"][i, k])
        colour = GREY if episodes == 0 else (GOOD, OURS)[k == len(stages) - 1]
        look = {"fmt": "o", "ms": 2.2, "color": colour, "elinewidth": 0.5, "alpha": min(1, 0.35 + 0.2 * k)}
        ax.errorbar(real, mean, deviation, zorder=k + 1, label=f"after {episodes}", **look)
    errors = ", ".join(f"{np.abs(predicted - real).mean():.3f}" for predicted in arrays["predicted"][i])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel=f"real\nerrors {errors}")
    if i == 0:
        ax.set_ylabel("predicted probability")


def _parts(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """How much of the taken actions' values is knowledge, how much learned in the task; a line where a goal was met."""
    for time in np.flatnonzero(arrays["ended"][i]):
        ax.axvline(float(time + 1), color=GOOD, lw=0.6, alpha=0.35, zorder=0)
    named = (("K, knowledge", arrays["knowledge"][i], GREY), ("φᵀf, learned here", arrays["inner"][i], OURS))
    for label, part, colour in named:
        every = max(1, len(part) // 40)
        smooth = part[: len(part) // every * every].reshape(-1, every).mean(1)
        ax.plot((np.arange(len(smooth)) + 0.5) * every, smooth, color=colour, lw=1.6, label=label)
    ax.axhline(0, color=INK, lw=0.6)
    ax.set_xlabel("step of the trial")


KINDS: dict[str, Kind] = {
    "paths": Kind(_paths, {"goal": "tasks 2", "paths": "tasks stages time copies 2"}),
    "fits": Kind(
        _fits,
        {
            "x": "tasks shots", "y": "tasks shots", "query_x": "tasks queries", "query_y": "tasks queries",
            "grid": "tasks grid", "truth": "tasks grid", "fits": "tasks stages grid", "steps": "tasks stages",
        },
    ),
    "arms": Kind(_arms, {"probabilities": "tasks arms", "actions": "tasks pulls < arms", "rewards": "tasks pulls"}),
    "characters": Kind(
        _characters,
        {
            "support": "tasks ways height width", "query": "tasks ways shown height width",
            "predicted": "tasks ways shown",
        },
    ),
    "grid": Kind(grids.visits, grids.VISITS),
    "belief": Kind(grids.beliefs, grids.BELIEFS),
    "models": Kind(
        _models,
        {
            "real": "tasks shown", "predicted": "tasks stages shown", "deviation": "tasks stages shown",
            "episodes": "tasks stages",
        },
    ),
    "knowledge": Kind(_parts, {"knowledge": "tasks time", "inner": "tasks time", "ended": "tasks time"}),
}  # fmt: skip


def tasks(kind: str, arrays: Mapping[str, NDArray], metric: str) -> Figure | None:
    """The held-out tasks that were recorded, a panel each, from the worst to the best; None for a kind that is not
    known here. Raises Unfit for arrays that are not of the kind."""
    if kind not in KINDS:
        return None
    how = KINDS[kind]
    check(arrays, {**how.shapes, "value": "tasks"})
    count = min(len(arrays["value"]), len(PLACES))
    figure, [axes] = subplots(1, count, (2.75 * count, 3.4))
    with drawing():
        for i, ax in enumerate(axes):
            how.draw(ax, arrays, i)
            ax.set_title(f"{PLACES[i]}\n{plain(metric)}\n{arrays['value'][i]:.3g}", fontsize=8.5)
            ax.tick_params(labelsize=8)
        legend_below(figure, axes[:1], 8)
    return figure
