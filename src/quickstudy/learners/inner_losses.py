"""What the inner loop descends: one number of the model's behaviour on a stretch of experience.

Supervised       mean of a loss over labelled examples
PolicyGradient   −mean Â_t log π(a_t | o_t), or its DiCE form; Â by GAE over a linear baseline
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from quickstudy.core import over_axes, unwrap
from quickstudy.data import Labelled, Output, Transition
from quickstudy.nn.measures import squared_error
from quickstudy.rl import losses, returns

Apply = Callable[[PyTree], Output]


class InnerLoss(eqx.Module):
    has_minimiser: ClassVar[bool]  # what the implicit adjoint needs: experience does not change with the weights

    @abc.abstractmethod
    def __call__(self, apply: Apply, experience: PyTree) -> Float[Array, ""]: ...


class Supervised(InnerLoss):
    loss: Callable = eqx.field(static=True, default=squared_error)

    has_minimiser = True

    def __call__(self, apply: Apply, experience: Labelled) -> Float[Array, ""]:
        each = over_axes(lambda x, y: self.loss(apply(x).prediction, y))
        return each(experience.x, experience.y).mean()


class PolicyGradient(InnerLoss):
    """`discount` and `trace` may be numbers, arrays or wrappers; experience is [time, width].

    `dice` keeps the derivatives of the sampling distribution when the step is differentiated again, so that
    the meta-gradient credits the data collection too. `normalise` brings the advantages of a stretch to deviation
    1; without it the steps shrink as the policy gets better.
    """

    discount: PyTree = 0.99
    trace: PyTree = 1.0
    dice: bool = eqx.field(static=True, default=False)
    normalise: bool = eqx.field(static=True, default=True)

    has_minimiser = False

    def __call__(self, apply: Apply, experience: Transition) -> Float[Array, ""]:
        t = experience
        each = lambda f: jax.vmap(jax.vmap(f))
        log_prob = each(lambda o, a: apply(o).policy.log_prob(a))(t.observation, t.action)
        discount = unwrap(self.discount)
        ends = (t.terminated, t.truncated, t.last)
        target = returns.rewards_to_go(t.reward, *ends, discount=discount)
        value = returns.linear_baseline(t.observation, jax.lax.stop_gradient(target))
        following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
        # Episodes that were cut are taken to have ended: a fit to finite sums knows no value beyond the cut.
        ended = t.terminated | t.truncated | t.last
        advantage = returns.gae(
            t.reward, value, following, ended, t.truncated, t.last, discount=discount, trace=unwrap(self.trace)
        )
        advantage = advantage - advantage.mean()
        if self.normalise:
            advantage = advantage / (advantage.std() + 1e-8)
        weights = losses.dice_weights(log_prob, ended) if self.dice else log_prob
        return -(advantage * weights).mean()
