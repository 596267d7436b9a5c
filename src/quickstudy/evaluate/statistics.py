"""Means, interquartile means and their intervals: a seeded bootstrap over tasks, Student's over seeds and tasks.

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
    """95 % interval of the mean of `values` [seeds, tasks], where every seed saw the same tasks: Student's, with the
    variance over seeds and that over tasks and the degrees of freedom of Satterthwaite 1946.

    No bootstrap: of three seeds it would cover the mean in 70 % of the cases, and be called 95 %.
    """
    return _student(float(values.mean()), values.mean(0), values.mean(1))


def interval_of_difference(ours: NDArray, theirs: NDArray) -> tuple[float, float]:
    """95 % interval of the mean of `ours` minus that of `theirs`, [seeds, tasks] each, where all saw the same tasks: of
    one seed each the bootstrap's of the paired differences; else Student's as above, with the variance over tasks of
    the paired differences and those over either's seeds."""
    paired = ours.mean(0) - theirs.mean(0)
    if len(ours) == len(theirs) == 1:
        return interval(paired)
    return _student(float(paired.mean()), paired, ours.mean(1), theirs.mean(1))


def _student(mean: float, *samples: NDArray) -> tuple[float, float]:
    """About a mean whose variance is the sum of those of the means of independent samples; one of a single value says
    nothing of its variance."""
    parts = [(sample.var(ddof=1) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return mean, mean
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variance))
    return mean - half, mean + half
