"""What the inner loop descends: one number of the model's behaviour on a segment of experience.

Supervised       mean of a loss over labelled examples
PolicyGradient   −mean Â_t log π(a_t | o_t), or its DiCE or LVC form; Â by GAE over a linear baseline
PolicyAndValue   the same + c/2 mean (V(o_t) − (1 − γ) R_t)², V another output of the policy's network, as in the
                 actor-critics of Mnih et al. 2016; here it trains the features that both share, and is no baseline
"""

import abc
from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from quickstudy.checks import require_at_least, require_between, require_one_of
from quickstudy.core import Incompatible
from quickstudy.data.batches import Labelled, Output, Transition
from quickstudy.learners.gradient.adjoints import Adjoint
from quickstudy.nn.measures import squared_error
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import partition, unwrap
from quickstudy.rl import losses
from quickstudy.rl.advantages import Ends, gae_of_fit, linear_baseline, rewards_to_go
from quickstudy.rl.standardise import standardise

Apply = Callable[[PyTree], Output]


class InnerLoss(eqx.Module):
    has_minimiser: ClassVar[bool]  # what the implicit adjoint needs: experience does not change with the weights

    @property
    def shapes_gradient(self) -> bool:
        """Whether something in it is learned, or credited, through its gradient: that an adjoint has to pass on."""
        return bool(jax.tree.leaves(partition(self)[0]))

    @abc.abstractmethod
    def __call__(self, apply: Apply, experience: PyTree) -> Float[Array, ""]: ...


def must_reach(inner_loss: InnerLoss, adjoint: Adjoint) -> None:
    """Raises `Incompatible` where the adjoint would leave what is in the loss without its gradient."""
    if inner_loss.shapes_gradient and not adjoint.exact_gradient:
        raise Incompatible(
            f"{type(adjoint).__name__} takes inner gradients for constants, and {type(inner_loss).__name__} has "
            "meta-parameters or a credit that only they can reach; use numbers and credit='none', or Unrolled"
        )


class Supervised(InnerLoss):
    loss: Callable = eqx.field(static=True, default=squared_error)

    has_minimiser = True

    def __call__(self, apply: Apply, experience: Labelled) -> Float[Array, ""]:
        each = over_axes(lambda x, y: self.loss(apply(x).prediction, y))
        return each(experience.x, experience.y).mean()


class OfPolicy(InnerLoss):
    """Of experience of an environment, [time, num_envs], and not of labels."""

    has_minimiser = False

    def __call__(self, apply: Apply, experience: Transition) -> Float[Array, ""]:
        return self.of_outputs(over_axes(apply, 2)(experience.observation), experience)

    @abc.abstractmethod
    def of_outputs(self, output: Output, t: Transition) -> Float[Array, ""]:
        """The loss, given the model's outputs for the observations in `t`, [time, num_envs]."""


class PolicyGradient(OfPolicy):
    """`discount` and `gae_lambda` may be numbers, arrays or wrappers; experience is [time, num_envs].

    credit: what is left of the sampling distribution when the step is differentiated again
        "none"   nothing: MAML (Finn et al. 2017)
        "lvc"    each action's own ratio to itself, low in variance: ProMP (Rothfuss et al. 2019)
        "dice"   all of it, so that the meta-gradient credits how data are collected (Foerster et al. 2018)

    `normalise` brings the advantages of a segment to deviation 1; without it steps shrink as the policy gets better.
    `ridge` holds the baseline back: with one short trajectory a free fit would explain all that happened in it.
    """

    discount: PyTree = 0.99
    gae_lambda: PyTree = 1.0
    credit: Literal["none", "lvc", "dice"] = eqx.field(static=True, default="none")
    normalise: bool = eqx.field(static=True, default=True)
    ridge: float = eqx.field(static=True, default=1e-5)

    def __check_init__(self):
        require_between(0, 1, discount=self.discount, gae_lambda=self.gae_lambda)
        require_one_of(("none", "lvc", "dice"), credit=self.credit)
        require_at_least(0, ridge=self.ridge)

    @property
    def shapes_gradient(self) -> bool:
        return self.credit != "none" or super().shapes_gradient

    def of_outputs(self, output: Output, t: Transition) -> Float[Array, ""]:
        log_prob = over_axes(lambda policy, action: policy.log_prob(action), 2)(output.policy, t.action)
        discount = unwrap(self.discount)
        ends = Ends.of(t)
        to_go = rewards_to_go(t.reward, *ends, discount=discount)
        value = linear_baseline(t.observation, jax.lax.stop_gradient(to_go), ridge=self.ridge)
        advantage = gae_of_fit(t.reward, value, ends, discount=discount, gae_lambda=unwrap(self.gae_lambda))
        advantage = standardise(advantage) if self.normalise else advantage - advantage.mean()
        ended = t.terminated | t.truncated | t.last
        weights = {
            "none": lambda: log_prob,
            "lvc": lambda: losses.magic_box(log_prob),
            "dice": lambda: losses.dice_weights(log_prob, ended),
        }[self.credit]()
        return -(advantage * weights).mean()


class PolicyAndValue(OfPolicy):
    """A policy gradient beside the regression of a value, for a model that gives both.

    Advantages have no level and, normalised, no size: they give a direction and not how good an action is. The error of
    the predicted rewards to go does, and it moves the features that the policy reads. `weight` is c, a
    number, an array or a wrapper; values are in units of the reward, whatever the discount.

    Raises Incompatible for a model without a value.
    """

    policy: PolicyGradient
    weight: PyTree = 1.0

    def __check_init__(self):
        require_at_least(0, weight=self.weight)

    @property
    def shapes_gradient(self) -> bool:
        return self.policy.shapes_gradient or super().shapes_gradient

    def of_outputs(self, output: Output, t: Transition) -> Float[Array, ""]:
        if output.value is None:
            raise Incompatible("PolicyAndValue regresses a value, and the model gives none; use PolicyGradient")
        discount = unwrap(self.policy.discount)
        to_go = rewards_to_go(t.reward, t.terminated, t.truncated, t.last, discount=discount)
        off = output.value - jax.lax.stop_gradient((1 - discount) * to_go)
        return self.policy.of_outputs(output, t) + unwrap(self.weight) * 0.5 * (off**2).mean()
