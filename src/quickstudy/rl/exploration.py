"""The best way to look for a goal that may be any of several cells, exactly.

An agent starts each of E episodes of H steps in the same cell; a step costs the same everywhere but at the goal, where
staying pays. Until the goal is found nothing else is learned, so what the agent knows is where it has been, and a plan
is one path. With d(g) the steps from the start to g, a goal that is known is left aside for d(g) − 1 steps an episode;
one that is not known yet wastes, beyond that, one step at each

    τ ≥ d(g)   of an episode in which g is still unseen.

The Bayes-optimal path minimises the waste, added up over the goals, which are equally likely. It is found by dynamic
programming forwards over (cell, set of goals seen). A first pass keeps only the least wasteful sets from one episode
to the next and gives an upper bound; the second keeps every set within it, so that its minimum is that of all paths.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray


def shortest(then: Int[np.ndarray, "cells actions"], start: int) -> Int[np.ndarray, "cells"]:
    """Steps from `start` to every cell; as many as there are cells where there is no way."""
    away = np.full(len(then), len(then))
    away[start] = 0
    for steps in range(1, len(then)):
        reached = np.unique(then[away == steps - 1])
        away[reached] = np.minimum(away[reached], steps)
    return away


def explore(
    then: Int[np.ndarray, "cells actions"], start: int, goals: Sequence[int], *, episode: int, episodes: int
) -> tuple[Int[np.ndarray, "steps"], int]:
    """The cells of the best path, one a step, and its waste, added up over the goals. `then[s, a]` follows s and a."""
    if len(goals) + (len(then) - 1).bit_length() > 62:
        raise ValueError(f"{len(goals)} goals and {len(then)} cells are too many to search exactly")
    _, bound = _search(then, start, goals, episode, episodes, None)
    return _search(then, start, goals, episode, episodes, bound)


def _search(
    then: NDArray, start: int, goals: Sequence[int], episode: int, episodes: int, bound: int | None
) -> tuple[NDArray, int]:
    """Sets are bit masks, and a key is a set and a cell. Keeps waste up to `bound`; None: the least of each episode."""
    cells, actions = then.shape
    shift = (cells - 1).bit_length()
    bit = np.zeros(cells, np.int64)
    bit[list(goals)] = 1 << np.arange(len(goals))
    away = shortest(then, start)[list(goals)]
    due = [int(bit[list(goals)][away <= step].sum()) for step in range(episode + 1)]
    keys, waste = np.array([start], np.int64), np.zeros(1, np.int64)
    layers = []
    for time in range(episodes * episode):
        step = time % episode + 1
        cell = keys & ((1 << shift) - 1) if step > 1 else np.full(len(keys), start)
        moved = then[cell]
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
