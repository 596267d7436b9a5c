"""Run against run on the same held-out tasks, from the stored scores of every task."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from quickstudy.evaluate import statistics as stats
from quickstudy.report.grouping import Group, label, refusal


@dataclasses.dataclass(frozen=True)
class Difference:
    """Ours minus theirs: the mean over the `n` tasks that are finite in both, and its 95 % interval; or, where
    `refused` says why, nothing."""

    ours: str
    theirs: str
    metric: str
    lower_is_better: bool
    refused: str = ""
    mean: float = 0.0
    ci: tuple[float, float] = (0.0, 0.0)
    n: int = 0


def differences(groups: Sequence[Group]) -> list[Difference]:
    """Of every two groups; where there is but one, of every two of its runs."""
    if len(groups) == 1:
        [group] = groups
        groups = [Group((run,), label(run, group.runs)) for run in group.runs]
    return [difference(ours, theirs) for ours, theirs in itertools.combinations(groups, 2)]


def difference(ours: Group, theirs: Group) -> Difference:
    """With several seeds, their means are compared, and how much the seeds differ widens the interval."""
    test = ours.runs[0].test
    about = (ours.label, theirs.label, test["metric"], test["lower_is_better"])
    if (why := refusal(ours.runs[0], theirs.runs[0])) is not None:
        return Difference(*about, refused=why)
    n = min(len(run.arrays["values"]) for run in (*ours.runs, *theirs.runs))
    a, b = (np.stack([run.arrays["values"][:n] for run in g.runs]).astype(np.float64) for g in (ours, theirs))
    sound = np.isfinite(a).all(0) & np.isfinite(b).all(0)
    if not sound.any():
        return Difference(*about, refused="no task is finite in both")
    a, b = a[:, sound], b[:, sound]
    mean = float(a.mean() - b.mean())
    return Difference(*about, mean=mean, ci=stats.interval_of_difference(a, b), n=int(sound.sum()))
