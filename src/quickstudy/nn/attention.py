"""Attention over what is remembered: weights over the rows of a memory of which only some are known.

a_i = exp l_i / Σ_j exp l_j  over the known rows,   l_i = τ cos(query, key_i)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from quickstudy.parameters import as_floats


def unit(x: Num[Array, "*rows features"], least: float = 1e-6) -> Float[Array, "*rows features"]:
    """Rows of length 1; those that are shorter than `least` stay short, and zeros stay zeros."""
    x = as_floats(x)
    # By the largest number first, or squares of large ones would be infinite and those of small ones 0.
    size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(x).max(-1, initial=0, keepdims=True), least))
    x = x / size
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + (least / size) ** 2)


def masked_softmax(logits: Float[Array, "slots"], known: Bool[Array, "slots"]) -> Float[Array, "slots"]:
    """Over the rows that are known; all zeros when none is."""
    logits = jnp.where(known, logits, jnp.finfo(logits.dtype).min)
    weights = jnp.where(known, jnp.exp(logits - jax.lax.stop_gradient(logits.max())), 0.0)
    return weights / jnp.where(known.any(), weights.sum(), 1.0)


def attend(
    query: Num[Array, "features"],
    keys: Num[Array, "slots features"],
    sharpness: Float[Array, ""],
    known: Bool[Array, "slots"],
) -> Float[Array, "slots"]:
    """softmax(τ cos(query, keys)) over the keys that are known; zeros when none is."""
    return masked_softmax(sharpness * (unit(keys) @ unit(query)), known)
