"""Gittins indices of a Bernoulli arm with a Beta(1 + w, 1 + l) posterior, by calibration.

ν(w, l) is the sure reward a step, λ, that makes retiring on it as good as pulling on:

    V(w, l; λ) = max( λ/(1−γ),  p (1 + γ V(w+1, l; λ)) + (1−p) γ V(w, l+1; λ) ),   p = (w+1)/(w+l+2)

solved backwards from `lookahead` pulls for a grid of λ at once; ν is where the two sides cross, between two grid
points by linear interpolation. What comes after those pulls is worth at least playing on without learning, p/(1−γ),
and at most knowing the arm's probability, E[max(λ, θ)]/(1−γ): the index lies between those of the two, and is taken to
be their mean.
Gittins 1979; Gittins, Glazebrook and Weber 2011, chapter 8, has tables.
"""

import numpy as np
from scipy.special import betainc

ERROR = 1e-3  # the largest uncertainty of an index that is accepted


def indices(pulls: int, discount: float, *, lookahead: int | None = None, grid: int = 800) -> np.ndarray:
    """Array [pulls + 1, pulls + 1] of ν(w, l), NaN where w + l > pulls.

    `lookahead` is a number of pulls beyond the table, by default until γ^n is below 1e-4, at most 1,000. Raises
    ValueError where that leaves an index uncertain by more than `ERROR`.
    """
    if not 0 < discount < 1:
        raise ValueError(f"the Gittins index needs a discount strictly between 0 and 1, got {discount}")
    if lookahead is None:
        lookahead = min(1000, int(np.ceil(np.log(1e-4) / np.log(discount))))
    sure = np.linspace(0.0, 1.0, grid + 2)[1:-1]
    retire = sure / (1 - discount)
    low, high = np.full((2, pulls + 1, pulls + 1), np.nan)
    depth = pulls + lookahead
    won = np.arange(depth + 1.0)[:, None] + 1
    lost, mean = depth + 2 - won, won / (depth + 2)
    informed = sure * betainc(won, lost, sure) + mean * (1 - betainc(won + 1, lost, sure))
    value = np.stack([np.maximum(sure, mean), informed]) / (1 - discount)  # [bound, w, λ] at w + l = depth
    for n in range(depth - 1, -1, -1):
        p = ((np.arange(n + 1) + 1) / (n + 2))[:, None]
        going_on = p * (1 + discount * value[:, 1:]) + (1 - p) * discount * value[:, :-1]
        if n <= pulls:
            won = np.arange(n + 1)
            low[won, n - won], high[won, n - won] = (_crossing(bound - retire, sure) for bound in going_on)
        value = np.maximum(retire, going_on)
    error = np.nanmax(high - low) / 2
    if error > ERROR:
        raise ValueError(
            f"Gittins indices for discount={discount} are uncertain by {error:.1g} after lookahead={lookahead} pulls; "
            f"give a larger lookahead"
        )
    return (low + high) / 2


def _crossing(gain: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Where each row, which falls with λ, passes zero."""
    after = np.clip((gain > 0).sum(1), 1, len(sure) - 1)
    rows = np.arange(len(gain))
    high, low = gain[rows, after - 1], gain[rows, after]
    fraction = np.clip(high / (high - low), 0.0, 1.0)
    return sure[after - 1] + fraction * (sure[1] - sure[0])
