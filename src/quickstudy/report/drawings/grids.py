"""Pictures of mazes and goal grids: the ways taken, and where a goal is believed to be."""

from collections.abc import Mapping, Sequence

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from quickstudy.report.drawings.arrays import Unfit
from quickstudy.report.style import INK, OTHER, OURS

VISITS = {"wall": "tasks cells", "visited": "tasks episodes moments < cells", "goal": "tasks < cells"}
BELIEFS = {**VISITS, "believed": "tasks stages cells", "moments": "tasks stages"}


def visits(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A grid an episode, two in a row: the way taken, from the dot to the square; the cells seen; the goal."""
    visited, cells = arrays["visited"][i], arrays["wall"].shape[1]
    shades = [np.minimum(np.bincount(way, minlength=cells), 5) / 9 for way in visited]
    titles = [f"episode {k + 1}" for k in range(len(visited))]
    _grids(ax, int(arrays["goal"][i]), list(zip(titles, shades, visited, strict=True)))


def beliefs(ax: Axes, arrays: Mapping[str, NDArray], i: int) -> None:
    """A grid after so many steps: how probable it is held that a step into a cell finds the goal, from 0 to 1; the way
    taken in the episode so far."""
    visited = arrays["visited"][i]
    steps, panels = visited.shape[1] - 1, []
    for moment, believed in zip(arrays["moments"][i], arrays["believed"][i], strict=True):
        episode, time = divmod(int(moment), steps)
        if not 0 <= episode < len(visited):
            raise Unfit(f"moment {moment} lies outside of the {len(visited)} episodes")
        panels.append((f"after {moment}", believed, visited[episode, : time + 1]))
    _grids(ax, int(arrays["goal"][i]), panels)


def _grids(ax: Axes, goal: int, panels: Sequence[tuple[str, NDArray, NDArray]]) -> None:
    """(title, shades of the cells in [0, 1], cells of the way) of each square grid, two in a row."""
    size, gap = round(len(panels[0][1]) ** 0.5), 0.8
    if size**2 != len(panels[0][1]):
        raise Unfit(f"{len(panels[0][1])} cells are not a square")
    shade = matplotlib.colors.LinearSegmentedColormap.from_list("shades", ["#f6f8fa", OURS])
    for k, (title, shades, cells) in enumerate(panels):
        down, right = (v * (size + gap) for v in divmod(k, 2))
        row, column = np.divmod(cells, size)
        box = (right - 0.5, right + size - 0.5, down + size - 0.5, down - 0.5)
        ax.imshow(shades.reshape(size, size), cmap=shade, vmin=0, vmax=1, extent=box, interpolation="nearest")
        # The later a step, the further it is drawn from the middle of its cell, so that ways back can be seen.
        aside = np.linspace(-0.2, 0.2, len(cells))
        x, y = right + column + aside, down + row + aside
        ax.plot(x, y, "-", color="black", lw=1.1, zorder=3)
        ax.plot(x[0], y[0], "o", ms=4, color="black", zorder=4)
        ax.plot(x[-1], y[-1], "s", ms=4, color="black", zorder=4)
        ax.plot(right + goal % size, down + goal // size, "*", ms=11, color=OTHER, mec="white", zorder=5)
        ax.text(right - 0.5, down - 0.6, title, fontsize=7, va="bottom", color=INK)
    rows = -(-len(panels) // 2)
    ax.set(xlim=(-0.6, 2 * size + gap - 0.4), ylim=(rows * (size + gap) - gap - 0.4, -1.3), xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
