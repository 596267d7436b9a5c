"""The return of episodes, where a trial is judged by them and not by its total reward."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quickstudy.data.batches import Transition


def mean_return(t: Transition, mask: Bool[Array, "..."], periods: int) -> Float[Array, "tasks periods"]:
    """Mean return of the episodes that ended in each of equal periods, at steps where `mask` is True; where none did,
    of those under way. `t` is [tasks, segments, steps (, num_envs)]."""
    time = t.reward.shape[1] * t.reward.shape[2]
    as_time = lambda x: jnp.moveaxis(x.reshape(x.shape[0], time, -1), 1, 0)
    ended = as_time(t.terminated | t.truncated)

    def step(earned, now):
        reward, ended = now
        earned = earned + reward
        return jnp.where(ended, 0.0, earned), earned

    _, earned = jax.lax.scan(step, jnp.zeros_like(ended[0], float), (as_time(t.reward), ended))
    judged = ended & as_time(jnp.broadcast_to(mask, t.reward.shape))
    in_periods = lambda x: x.reshape(periods, -1, *x.shape[1:])
    earned, judged = in_periods(earned), in_periods(judged)
    num = judged.sum((1, 3))
    finished = jnp.where(judged, earned, 0.0).sum((1, 3)) / jnp.maximum(num, 1)
    return jnp.where(num > 0, finished, earned[:, -1].mean(-1)).T
