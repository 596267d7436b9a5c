"""The best way to look for a goal that may be any of several cells, exactly.

An agent starts each of E episodes of H steps in the same cell; a step costs the same everywhere but at the goal, where
staying pays. Until the goal is found the agent learns nothing but where it is not, so its knowledge is the set of cells
it has visited, and a plan is one path. With d(g) the steps from the start to g, a goal that is known is not met for
d(g) − 1 steps an episode; one that is not known yet wastes, beyond that, one step at each

    τ ≥ d(g)   of an episode in which g is still unseen.

The Bayes-optimal path minimises the waste, added up over the goals, which are equally likely. It is found by dynamic
programming forwards over (cell, set of goals seen). A first pass keeps only the least wasteful sets from one episode
to the next and gives an upper bound; the second keeps every set within it, so that its minimum is that of all paths.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray


def shortest(next_cell: Int[np.ndarray, "cells actions"], start: int) -> Int[np.ndarray, "cells"]:
    """The number of steps from `start` to every cell, or the number of cells where there is no way."""
    away = np.full(len(next_cell), len(next_cell))
    away[start] = 0
    for steps in range(1, len(next_cell)):
        reached = np.unique(next_cell[away == steps - 1])
        away[reached] = np.minimum(away[reached], steps)
    return away


def explore(
    next_cell: Int[np.ndarray, "cells actions"], start: int, goals: Sequence[int], *, episode: int, episodes: int
) -> tuple[Int[np.ndarray, "steps"], int]:
    """The cells of the best path, one a step, and its waste, added up over the goals.

    next_cell: the cell after each cell and action
    Raises ValueError where goals and cells do not fit into a key of 62 bits.
    """
    if len(goals) + (len(next_cell) - 1).bit_length() > 62:
        raise ValueError(f"{len(goals)} goals and {len(next_cell)} cells are too many to search exactly")
    _, bound = _search(next_cell, start, goals, episode, episodes, None)
    return _search(next_cell, start, goals, episode, episodes, bound)


def _search(
    next_cell: NDArray, start: int, goals: Sequence[int], episode: int, episodes: int, bound: int | None
) -> tuple[NDArray, int]:
    """The best path among those with a waste of at most `bound` (None: of the least waste after each episode), and its
    waste. Sets are bit masks, and a key is a set and a cell."""
    cells, actions = next_cell.shape
    shift = (cells - 1).bit_length()
    bit = np.zeros(cells, np.int64)
    bit[list(goals)] = 1 << np.arange(len(goals))
    away = shortest(next_cell, start)[list(goals)]
    due = [int(bit[list(goals)][away <= step].sum()) for step in range(episode + 1)]
    keys, waste = np.array([start], np.int64), np.zeros(1, np.int64)
    layers = []
    for time in range(episodes * episode):
        step = time % episode + 1
        cell = keys & ((1 << shift) - 1) if step > 1 else np.full(len(keys), start)
        moved = next_cell[cell]
        seen = (keys >> shift)[:, None] | bit[moved]
        total = (waste[:, None] + np.bitwise_count(due[step] & ~seen)).reshape(-1)
        new = (seen << shift | moved).reshape(-1)
        order = np.lexsort((total, new))
        first = np.append(True, np.diff(new[order]) != 0)
        limit = bound
        if bound is None:
            limit = total.min() if step == episode else total.max()
        kept = order[first & (total[order] <= limit)]
        keys, waste = new[kept], total[kept]
        layers.append((moved.reshape(-1)[kept], kept // actions))
    path, at = [], int(waste.argmin())
    for cell, parent in reversed(layers):
        path.append(cell[at])
        at = parent[at]
    return np.array(path[::-1]), int(waste.min())
