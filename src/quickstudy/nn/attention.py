"""Attention over what is remembered: weights over the rows of a memory of which only some are known.

a_i = exp l_i / Σ_j exp l_j  over the known rows,   l_i = τ cos(query, key_i)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def unit(x: Float[Array, "*rows features"]) -> Float[Array, "*rows features"]:
    """Rows of length 1; zeros stay zeros."""
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


def masked_softmax(logits: Float[Array, "slots"], known: Bool[Array, "slots"]) -> Float[Array, "slots"]:
    """Over the rows that are known; all zeros when none is."""
    logits = jnp.where(known, logits, -1e9)
    weights = jnp.where(known, jnp.exp(logits - jax.lax.stop_gradient(logits.max())), 0.0)
    return weights / jnp.maximum(weights.sum(), 1e-12)


def attend(
    query: Float[Array, "features"],
    keys: Float[Array, "slots features"],
    sharpness: Float[Array, ""],
    known: Bool[Array, "slots"],
) -> Float[Array, "slots"]:
    """softmax(τ cos(query, keys)) over the keys that are known; zeros when none is."""
    return masked_softmax(sharpness * (unit(keys) @ unit(query)), known)
