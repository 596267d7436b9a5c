"""Numbers brought to mean 0 and standard deviation 1.

    z_i = (x_i − x̄) / √(mean (x_j − x̄)²)

whatever the unit and the level of x. Where all are equal, up to the rounding of their type, z and its derivative are
exactly 0: what does not differ gives no direction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quickstudy.parallel.reduce import max_over_devices, sum_over_devices


def standardise(
    x: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
    *,
    total: Callable[[Array], Array] = jnp.sum,
    most: Callable[[Array], Array] = jnp.max,
) -> Float[Array, "*shape"]:
    """x at mean 0 and deviation 1 over the entries where `mask` is True (None: all); the others are 0.

    total, most: the sum and the maximum over all entries, where these lie along some axes only or on several devices
    """
    mask = jnp.ones(x.shape, bool) if mask is None else mask
    x = jnp.where(mask, x, 0)  # what is left out may be NaN
    num = jnp.maximum(total(mask.astype(x.dtype)), 1)
    # The mean of large numbers is off by their rounding; what is left over is the mean of small ones.
    centred = jnp.where(mask, x - total(x) / num, 0)
    centred = jnp.where(mask, centred - total(centred) / num, 0)
    # The result does not depend on this scale, without which squares of very small or large numbers leave the type.
    scale = jax.lax.stop_gradient(most(jnp.abs(centred)))
    differ = ~(scale <= jnp.finfo(x.dtype).eps * most(jnp.abs(jax.lax.stop_gradient(x))))
    z = jnp.where(differ, centred / jnp.where(differ, scale, 1), 0)
    return z / jnp.sqrt(jnp.where(differ, total(z**2) / num, 1))


def standardise_over_tasks(
    x: Float[Array, "tasks *rest"], mask: Bool[Array, "tasks *rest"]
) -> Float[Array, "tasks *rest"]:
    """Over the tasks of all devices, of which each has its part."""
    return standardise(
        x,
        mask,
        total=lambda of: sum_over_devices(of.sum()),
        most=lambda of: max_over_devices(of.max()),
    )
