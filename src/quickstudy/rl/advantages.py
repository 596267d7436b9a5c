"""Returns and advantages. Arrays with a leading time axis in, arrays of the same shape out.

    δ_t = r_t + γ (1 − ends_t) V'_t − V_t,        ends = terminated ∨ last
    Â_t = δ_t + γ λ (1 − cut_t) Â_{t+1},           cut  = terminated ∨ truncated ∨ last

What follows a step depends on how it ended:

    terminated   the episode is over by itself: nothing follows
    truncated    the episode was cut: worth V', the value of the observation before any reset, and no reward beyond it
    last         the trial is over: nothing follows
    none of them the next step follows; past the end of the arrays, V'

Without a critic nothing is known of what follows a cut, so that truncated episodes count as terminated ones.

Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from quickstudy.data.batches import Transition
from quickstudy.parameters import as_floats

Number = Float[Array, ""] | float


class Ends(NamedTuple):
    """How steps ended; each [time, ...]."""

    terminated: Bool[Array, "time *rest"]
    truncated: Bool[Array, "time *rest"]
    last: Bool[Array, "time *rest"]

    @staticmethod
    def of(t: Transition) -> "Ends":
        return Ends(t.terminated, t.truncated, t.last)

    def within_trial(self) -> "Ends":
        """Where credit passes the ends of episodes: a trial is one long episode."""
        never = jnp.zeros_like(self.last)
        return Ends(never, never, self.last)

    def of_episodes(self) -> "Ends":
        """Where the end of the trial is no end of what can be earned."""
        return Ends(self.terminated, self.truncated, jnp.zeros_like(self.last))

    def without_critic(self) -> "Ends":
        """Cuts as ends: nothing is known of what would have followed."""
        return Ends(self.terminated | self.truncated, self.truncated, self.last)


def gae(
    reward: Float[Array, "time *rest"],
    value: Float[Array, "time *rest"],
    next_value: Float[Array, "time *rest"],
    terminated: Bool[Array, "time *rest"],
    truncated: Bool[Array, "time *rest"],
    last: Bool[Array, "time *rest"],
    *,
    discount: Number,
    gae_lambda: Number,
) -> Float[Array, "time *rest"]:
    """Generalised advantage estimates Â (λ is `gae_lambda`); Â + V are the λ-returns.

    `next_value` is V'. The arrays' end is bootstrapped from it unless one of the booleans says otherwise.
    """
    # Chosen, not multiplied by 0: what is not used may be anything.
    delta = reward + discount * jnp.where(terminated | last, 0.0, next_value) - value
    decay = discount * gae_lambda * ~(terminated | truncated | last)

    def backwards(following, step):
        delta, decay = step
        advantage = delta + decay * following
        return advantage, advantage

    return jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def next_values(
    value: Float[Array, "time *rest"],
    end: Float[Array, "*rest"],
    truncated: Bool[Array, "time *rest"],
    at_cut: Float[Array, "time *rest"] | None = None,
) -> Float[Array, "time *rest"]:
    """V': the next step's own value, `end` past the arrays' end, and `at_cut` where an episode was truncated: there the
    next step is one of another episode."""
    following = jnp.concatenate([value[1:], end[None]])
    return following if at_cut is None else jnp.where(truncated, at_cut, following)


def rewards_to_go(
    reward: Float[Array, "time *rest"],
    terminated: Bool[Array, "time *rest"],
    truncated: Bool[Array, "time *rest"],
    last: Bool[Array, "time *rest"],
    *,
    discount: Number,
) -> Float[Array, "time *rest"]:
    """Discounted sum of the rewards up to the end of the episode: `gae` without values and with λ = 1."""
    nothing = jnp.zeros_like(reward)
    return gae(reward, nothing, nothing, terminated, truncated, last, discount=discount, gae_lambda=1.0)


def gae_of_fit(
    reward: Float[Array, "time *rest"],
    value: Float[Array, "time *rest"],
    ends: Ends,
    *,
    discount: Number,
    gae_lambda: Number,
) -> Float[Array, "time *rest"]:
    """`gae` where `value` is a fit to these very rewards, or 0: it knows of nothing beyond them."""
    following = next_values(value, jnp.zeros_like(value[0]), ends.truncated)
    return gae(reward, value, following, *ends.without_critic(), discount=discount, gae_lambda=gae_lambda)


def linear_baseline(
    observation: Num[Array, "time num_envs dims"], target: Float[Array, "time num_envs"], *, ridge: float = 1e-5
) -> Float[Array, "time num_envs"]:
    """Least-squares fit of `target` on (o, o², t, t², t³, 1), the features of Duan et al. 2016
    ("Benchmarking Deep Reinforcement Learning for Continuous Control"), t in hundreds of steps.

    `ridge` is relative to the number of examples, and leaves the mean of the targets alone. With as many features as
    examples, as one-hot states of one short trajectory are, a small one leaves nothing of the target unexplained.
    """
    time, num_envs, _ = observation.shape
    t = jnp.broadcast_to((jnp.arange(time) / 100.0)[:, None, None], (time, num_envs, 1))
    o = jnp.clip(as_floats(observation), -10, 10)
    features = jnp.concatenate([o, o**2, t, t**2, t**3], -1).reshape(time * num_envs, -1)
    # What hardly varies is then next to 0, and what varies much no larger than 1: else single precision, whose error is
    # relative to the largest, takes the ridge for nothing.
    features = features - features.mean(0)
    features, mean = features / jnp.maximum(features.std(0), 1.0), target.mean()
    normal = features.T @ features
    # Rounding alone makes what has no inverse indefinite, and then there is no factor and no fit.
    least = 2 * jnp.finfo(normal.dtype).eps * jnp.trace(normal)
    normal = normal + (ridge * time * num_envs + least) * jnp.eye(features.shape[-1])
    weights = jax.scipy.linalg.solve(normal, features.T @ (target - mean).reshape(-1), assume_a="pos")
    return mean + (features @ weights).reshape(time, num_envs)
