"""Means, interquartile means and seeded bootstrap intervals over tasks and seeds.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

CONFIDENCE, RESAMPLES, SEED = 0.95, 1000, 0


def iqm(values: NDArray, axis: int = -1) -> Any:
    """Mean of the middle half: as steady as a median, with less waste."""
    return scipy.stats.trim_mean(values, 0.25, axis=axis)


def interval(values: NDArray, statistic=np.mean) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of a statistic of `values` [tasks]; the same for the same values.

    Sorting statistics of many values are resampled less often: the interval is narrow there.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return float(statistic(values)), float(statistic(values))
    resamples = RESAMPLES if statistic is np.mean else max(200, min(RESAMPLES, 2 * 10**7 // len(values)))
    found = scipy.stats.bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        batch=max(1, 10**6 // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def interval_over_seeds(values: NDArray) -> tuple[float, float]:
    """The same for the mean of `values` [seeds, tasks], where every seed saw the same tasks: seeds and tasks are
    both drawn again."""
    rng = np.random.default_rng(SEED)
    seeds, tasks = values.shape
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = values[rng.integers(seeds, size=seeds)].mean(0)
        means[i] = drawn[rng.integers(tasks, size=tasks)].mean()
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
