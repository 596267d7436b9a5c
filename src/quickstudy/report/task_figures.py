"""Pictures of held-out tasks: of a few, from the worst to the best, or of many side by side."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from quickstudy.report.style import FAINT, INK, OURS, RULERS, STYLE, subplots

PLACES = ("worst", "second worst", "median", "second best", "best")


def _navigation(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    paths, goal = arrays["paths"][i], arrays["goal"][i]
    stages = len(paths)
    for k, copies in enumerate(paths):
        colour = OURS[0] if k else RULERS[0]
        for c in range(copies.shape[1]):
            path = np.concatenate([np.zeros((1, 2)), copies[:, c]])
            ax.plot(
                *path.T, color=colour, lw=0.8 + 0.3 * k, alpha=0.25 + 0.6 * k / max(1, stages - 1),
                label=f"after {k}" if c == 0 else None, zorder=k,
            )  # fmt: skip
    ax.plot(*goal, "*", ms=15, color=OURS[1], mec="white", zorder=20)
    ax.plot(0, 0, "o", ms=4, color=INK, zorder=20)
    far = max(0.8, 1.15 * np.abs(goal).max())
    ax.set(xlim=(-far, far), ylim=(-far, far), aspect="equal")


def _sinusoid(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    order = np.argsort(arrays["query_x"][i])
    ax.plot(arrays["query_x"][i][order], arrays["query_y"][i][order], "o", ms=3, color=FAINT, label="query")
    steps = arrays["steps"][i]
    for k, fit in enumerate(arrays["fits"][i]):
        colour = RULERS[0] if k == 0 else OURS[0]
        ax.plot(
            arrays["grid"][i], fit, color=colour, lw=1.4, alpha=0.3 + 0.7 * k / len(steps), label=f"after {steps[k]}"
        )
    ax.plot(arrays["x"][i], arrays["y"][i], "^", ms=7, color=OURS[1], label="support")
    ax.set(ylim=(-5.5, 5.5))


def _bandit(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    p, actions, rewards = arrays["probabilities"][i], arrays["actions"][i], arrays["rewards"][i]
    rank = np.argsort(np.argsort(p))
    for arm, chance in enumerate(p):
        ax.axhline(rank[arm], color=FAINT, lw=10 * chance + 0.3, alpha=0.6, zorder=0)
    pulls = np.arange(1, len(actions) + 1)
    size = 60 if len(pulls) <= 20 else 12
    for won, colour, label in ((1, OURS[0], "paid"), (0, OURS[1], "did not")):
        at = rewards == won
        ax.scatter(pulls[at], rank[actions[at]], s=size, color=colour, label=label, zorder=3)
    ax.set_yticks(range(len(p)), [f"p={v:.2f}" for v in np.sort(p)], fontsize=8)
    ax.set_xlabel("pull")


def _characters(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A column a class: the example it was learned from above the line, queries below it, mistakes in red."""
    support, query, said = arrays["support"][i], arrays["query"][i], arrays["said"][i]
    paint = lambda ink, colour: 1 - ink[..., None] * (1 - np.array(matplotlib.colors.to_rgb(colour)))
    frame = lambda picture: np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=1.0)
    columns = [
        np.concatenate(
            [
                frame(paint(support[c], OURS[0])),
                *(frame(paint(q, INK if s == c else OURS[1])) for q, s in zip(query[c], said[c], strict=True)),
            ]
        )
        for c in range(len(support))
    ]
    high, wide = support.shape[1] + 4, support.shape[2] + 4
    ax.imshow(np.concatenate(columns, 1), interpolation="nearest", aspect="equal")
    ax.axhline(high - 0.5, color=INK, lw=1.2)
    for c, row in enumerate(said):
        for r, s in enumerate(row):
            if s != c:
                at = (wide * (c + 1) - 3, high * (r + 2) - 3)
                ax.annotate(str(s + 1), at, color=OURS[1], fontsize=7, ha="right", va="bottom")
    ax.set_xticks([wide * (c + 0.5) for c in range(len(support))], [str(c + 1) for c in range(len(support))])
    ax.set_yticks([])
    ax.grid(False)


def _grid(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A grid an episode, two in a row: the way taken, from the dot to the square; the cells seen; the goal."""
    visited = arrays["visited"][i]
    times = [np.bincount(cells, minlength=arrays["size"][i] ** 2) for cells in visited]
    titles = [f"episode {k + 1}" for k in range(len(visited))]
    _grids(
        ax,
        int(arrays["goal"][i]),
        [(t, np.minimum(n, 5) / 9, v) for t, n, v in zip(titles, times, visited, strict=True)],
    )


def _believed(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A grid after so many steps: how probable it is held that a step into a cell finds the goal, from 0 to 1; the way
    taken in the episode so far."""
    steps = arrays["visited"].shape[2] - 1
    panels = []
    for moment, believed in zip(arrays["moments"][i], arrays["believed"][i], strict=True):
        episode, time = divmod(int(moment), steps)
        panels.append((f"after {moment}", believed, arrays["visited"][i][episode, : time + 1]))
    _grids(ax, int(arrays["goal"][i]), panels)


def _grids(ax: Axes, goal: int, panels: Sequence[tuple[str, NDArray, NDArray]]) -> None:
    """(title, shades of the cells in [0, 1], cells of the way) of each square grid, two in a row."""
    size, gap = round(len(panels[0][1]) ** 0.5), 0.8
    for k, (title, shades, cells) in enumerate(panels):
        down, right = (v * (size + gap) for v in divmod(k, 2))
        row, column = np.divmod(cells, size)
        shade = matplotlib.colors.LinearSegmentedColormap.from_list("shades", ["#f6f8fa", OURS[0]])
        box = (right - 0.5, right + size - 0.5, down + size - 0.5, down - 0.5)
        ax.imshow(shades.reshape(size, size), cmap=shade, vmin=0, vmax=1, extent=box, interpolation="nearest")
        # The later a step, the further it is drawn from the middle of its cell, so that ways back can be seen.
        aside = np.linspace(-0.2, 0.2, len(cells))
        ax.plot(right + column + aside, down + row + aside, "-", color=INK, lw=1.1, zorder=3)
        ax.plot(right + column[0] + aside[0], down + row[0] + aside[0], "o", ms=4, color=INK, zorder=4)
        ax.plot(right + column[-1] + aside[-1], down + row[-1] + aside[-1], "s", ms=4, color=INK, zorder=4)
        ax.plot(right + goal % size, down + goal // size, "*", ms=11, color=OURS[1], mec="white", zorder=5)
        ax.text(right - 0.5, down - 0.6, title, fontsize=7, va="bottom")
    rows = -(-len(panels) // 2)
    ax.set(xlim=(-0.6, 2 * size + gap - 0.4), ylim=(rows * (size + gap) - gap - 0.4, -1.3), xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _models(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """Predicted probabilities over the real ones, with a standard deviation on either side, after some episodes."""
    real, stages = arrays["real"][i], arrays["episodes"][i]
    ax.plot([0, 1], [0, 1], color=INK, lw=0.8, zorder=0)
    for k, episodes in enumerate(stages):
        mean, deviation = arrays["predicted"][i, k], arrays["deviation"][i, k]
        colour = RULERS[0] if episodes == 0 else OURS[(2, 0)[k == len(stages) - 1]]
        ax.errorbar(
            real, mean, deviation, fmt="o", ms=2.2, color=colour, elinewidth=0.5, alpha=0.35 + 0.2 * k, zorder=k + 1
        )
        said = f"after {episodes}: error {np.abs(mean - real).mean():.3f}"
        ax.text(0.01, 0.97 - 0.07 * k, said, color=colour, fontsize=7, transform=ax.transAxes, va="top")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="real")
    if i == 0:
        ax.set_ylabel("predicted probability")


def _transfer(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """How much of the taken actions' values is knowledge, how much learned in the task; a line where a goal was met."""
    parts = {"K, knowledge": (arrays["knowledge"][i], RULERS[0]), "φᵀf, learned here": (arrays["inner"][i], OURS[0])}
    for time in np.flatnonzero(arrays["ended"][i]):
        ax.axvline(float(time + 1), color=OURS[2], lw=0.6, alpha=0.35, zorder=0)
    for label, (part, colour) in parts.items():
        every = max(1, len(part) // 40)
        smooth = part[: len(part) // every * every].reshape(-1, every).mean(1)
        ax.plot((np.arange(len(smooth)) + 0.5) * every, smooth, color=colour, lw=1.6, label=label)
    ax.axhline(0, color=INK, lw=0.6)
    ax.set_xlabel("step of the trial")


DRAWERS: dict[str, Callable[[Axes, Mapping[str, NDArray], int], None]] = {
    "paths": _navigation,
    "fits": _sinusoid,
    "actions": _bandit,
    "believed": _believed,
    "visited": _grid,
    "said": _characters,
    "knowledge": _transfer,
    "predicted": _models,
}


def tasks(traces: Mapping[str, NDArray], metric: str) -> Figure | None:
    """The held-out tasks that were kept, from the worst to the best; None where nothing is known to draw."""
    kind = next((name for name in DRAWERS if name in traces), None)
    if kind is None:
        return None
    count = len(traces["task"])
    figure, [axes] = subplots(1, count, (2.75 * count, 3.1))
    with matplotlib.rc_context(STYLE):
        for i, ax in enumerate(axes):
            DRAWERS[kind](ax, traces, i)
            ax.set_title(f"{PLACES[i]}\n{metric} {traces['value'][i]:.3g}", fontsize=9)
            ax.tick_params(labelsize=8)
        if axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(fontsize=7, loc="upper left")
    return figure


def _generated_policies(arrays: Mapping[str, NDArray]) -> Figure:
    """The true parameters of the tasks, a colour each; in the same colours the policies generated for them after the
    first and after the last episode; and how far they were corrected."""
    parameter, generated, correction = (arrays[name] for name in ("parameter", "generated", "correction"))
    size = np.abs(parameter).max(1) / np.abs(parameter).max()
    angle = np.arctan2(parameter[:, 1], parameter[:, 0]) / (2 * np.pi) % 1
    colours = matplotlib.colors.hsv_to_rgb(np.stack([angle, 0.25 + 0.7 * size, np.full(len(angle), 0.85)], 1))
    figure, [axes] = subplots(1, 4, (13.2, 3.4))
    with matplotlib.rc_context(STYLE):
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
        axes[3].fill_between(episodes, low, high, color=OURS[0], alpha=0.18, lw=0, label="half of the tasks")
        axes[3].plot(episodes, middle, "o-", ms=4, color=OURS[0], label="median")
        axes[3].set_title("|δ|")
        axes[3].set(xlabel="episode that it acts in", ylim=(0, None))
        axes[3].xaxis.get_major_locator().set_params(integer=True)
        axes[3].legend(fontsize=8)
    return figure


SURVEYS: dict[str, Callable[[Mapping[str, NDArray]], Figure]] = {"generated": _generated_policies}


def survey(traces: Mapping[str, NDArray]) -> Figure | None:
    """Many held-out tasks together; None where nothing is known to draw."""
    arrays = {name.removeprefix("many/"): a for name, a in traces.items() if name.startswith("many/")}
    kind = next((name for name in SURVEYS if name in arrays), None)
    return None if kind is None else SURVEYS[kind](arrays)
