"""Environments that are stepped on the device."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from quickstudy.envs.spec import Stepped


def auto_reset(environment: Any, key: Key[Array, ""], after: tuple, params: PyTree) -> Stepped:
    """Completes a step: `after` is (observation, state, reward, terminated, truncated) before any reset."""
    observation, state, reward, terminated, truncated = after
    anew = environment.reset(key, params)
    ended = terminated | truncated
    choose = lambda new, old: jnp.where(ended, new, old)
    shown, kept = jax.tree.map(choose, anew, (observation, state))
    return shown, kept, reward, terminated, truncated, {"final_observation": observation}
