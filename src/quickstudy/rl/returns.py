"""Returns and advantages. Arrays with a leading time axis in, arrays of the same shape out.

    δ_t = r_t + γ (1 − ends_t) V'_t − V_t,        ends = terminated ∨ last
    Â_t = δ_t + γ λ (1 − cut_t) Â_{t+1},           cut  = terminated ∨ truncated ∨ last

V'_t is the value of the observation that follows, before any reset: a truncated episode is worth what
would have followed, a terminated one is not, and after the last step of a trial nothing follows.

Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gae(
    reward: Float[Array, "time *rest"],
    value: Float[Array, "time *rest"],
    next_value: Float[Array, "time *rest"],
    terminated: Bool[Array, "time *rest"],
    truncated: Bool[Array, "time *rest"],
    last: Bool[Array, "time *rest"],
    *,
    discount: Float[Array, ""] | float,
    gae_lambda: Float[Array, ""] | float,
) -> Float[Array, "time *rest"]:
    """Generalised advantage estimates Â (λ is `gae_lambda`); Â + V are the λ-returns.

    The arrays' end is bootstrapped from `next_value` unless one of the booleans says otherwise.
    """
    delta = reward + discount * jnp.where(terminated | last, 0.0, next_value) - value
    decay = discount * gae_lambda * ~(terminated | truncated | last)

    def backwards(following, step):
        delta, decay = step
        advantage = delta + decay * following
        return advantage, advantage

    return jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def rewards_to_go(
    reward: Float[Array, "time *rest"],
    terminated: Bool[Array, "time *rest"],
    truncated: Bool[Array, "time *rest"],
    last: Bool[Array, "time *rest"],
    *,
    discount: Float[Array, ""] | float,
) -> Float[Array, "time *rest"]:
    """Discounted sum of the rewards up to the end of the episode: `gae` without values and with λ = 1."""
    nothing = jnp.zeros_like(reward)
    return gae(reward, nothing, nothing, terminated, truncated, last, discount=discount, gae_lambda=1.0)


def standardised(advantage: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
    """To mean 0 and deviation 1. Where all are equal, as where nothing was earned, they are 0 and have a derivative,
    which the deviation itself has not."""
    centred = advantage - advantage.mean()
    return centred / jnp.sqrt(centred.var() + 1e-16)


def linear_baseline(
    observation: Float[Array, "time width dims"], target: Float[Array, "time width"], *, ridge: float = 1e-5
) -> Float[Array, "time width"]:
    """Least-squares fit of `target` on (o, o², t, t², t³, 1), the features of Duan et al. 2016
    ("Benchmarking Deep Reinforcement Learning for Continuous Control"), t in hundreds of steps.

    `ridge` is relative to the number of examples, and leaves the mean of the targets alone. With as many features as
    examples, as one-hot states of one short trajectory are, a small one leaves nothing of the target unexplained.
    """
    time, width, _ = observation.shape
    t = jnp.broadcast_to((jnp.arange(time) / 100.0)[:, None, None], (time, width, 1))
    o = jnp.clip(observation, -10, 10)
    features = jnp.concatenate([o, o**2, t, t**2, t**3], -1)
    # What hardly varies is then next to 0, and what varies much no larger than 1: else single precision, whose error is
    # relative to the largest, takes the ridge for nothing.
    features = features - features.mean((0, 1))
    features = features / jnp.maximum(features.std((0, 1)), 1.0)
    flat, mean = features.reshape(time * width, -1), target.mean()
    normal = flat.T @ flat + ridge * time * width * jnp.eye(flat.shape[-1])
    return mean + features @ jax.scipy.linalg.solve(normal, flat.T @ (target - mean).reshape(-1), assume_a="pos")
