"""Gittins indices of a Bernoulli arm with a Beta(1 + w, 1 + l) posterior, by calibration.

ν(w, l) is the sure reward a step, λ, that makes retiring on it as good as pulling on:

    V(w, l; λ) = max( λ/(1−γ),  p (1 + γ V(w+1, l; λ)) + (1−p) γ V(w, l+1; λ) ),   p = (w+1)/(w+l+2)

solved backwards from `lookahead` pulls for a grid of λ at once; ν is where the two sides cross, between two grid
points by linear interpolation. Gittins 1979; Gittins, Glazebrook and Weber 2011, chapter 8, has tables.
"""

import numpy as np


def indices(pulls: int, discount: float, *, lookahead: int | None = None, grid: int = 800) -> np.ndarray:
    """Array [pulls + 1, pulls + 1] of ν(w, l), zero where w + l > pulls.

    `lookahead` pulls beyond the table are looked at (default: until γ^n is below 1e-4, at most 1,000).
    """
    if not 0 < discount < 1:
        raise ValueError(f"the Gittins index needs a discount strictly between 0 and 1, got {discount}")
    if lookahead is None:
        lookahead = min(1000, int(np.ceil(np.log(1e-4) / np.log(discount))))
    sure = np.linspace(0.0, 1.0, grid + 2)[1:-1]
    retire = sure / (1 - discount)
    table = np.zeros((pulls + 1, pulls + 1))
    depth = pulls + lookahead
    mean = (np.arange(depth + 1) + 1) / (depth + 2)
    value = np.maximum(retire, mean[:, None] / (1 - discount))  # [w, λ] at w + l = depth: play on knowing the mean
    for n in range(depth - 1, -1, -1):
        p = ((np.arange(n + 1) + 1) / (n + 2))[:, None]
        going_on = p * (1 + discount * value[1:]) + (1 - p) * discount * value[:-1]
        if n <= pulls:
            won = np.arange(n + 1)
            table[won, n - won] = _crossing(going_on - retire, sure)
        value = np.maximum(retire, going_on)
    return table


def _crossing(gain: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Where each row, which falls with λ, passes zero."""
    after = np.clip((gain > 0).sum(1), 1, len(sure) - 1)
    rows = np.arange(len(gain))
    high, low = gain[rows, after - 1], gain[rows, after]
    fraction = np.clip(high / (high - low), 0.0, 1.0)
    return sure[after - 1] + fraction * (sure[1] - sure[0])
