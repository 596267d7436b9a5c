"""Gradients as inputs of a network: they span many orders of magnitude, so it reads their logarithm and their sign.

(log|g| / p, sgn g) where |g| ≥ e^−p,   else (−1, e^p g)            p = 10; Andrychowicz et al. 2016, appendix A
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def log_and_sign(g: Float[Array, "*any"], p: float = 10.0) -> Float[Array, "*any 2"]:
    """Two numbers for each one, both of the order of 1. Sizes are distinguished down to e^−p."""
    size = jnp.abs(g)
    large = size >= jnp.exp(-p)
    log = jnp.log(jnp.where(large, size, 1.0)) / p  # of 1, where it is not taken: log 0 has no derivative
    return jnp.stack([jnp.where(large, log, -1.0), jnp.where(large, jnp.sign(g), jnp.exp(p) * g)], -1)
