"""MAML and Reptile for environments: an inner step is a policy gradient on trajectories that were rolled out before it
(Finn et al. 2017, section 5.3)."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Between, Inside, Training
from quickstudy.recipes.methods.labelled import FINN
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """What both share: the policy, and what it adapts on."""

    trajectories: Annotated[int, AtLeast(1), "episodes that are rolled out in parallel before each inner step"] = 20
    adaptations: Annotated[int, AtLeast(1, 1000), "inner steps while training; the test takes three"] = 3
    inner_rate: Annotated[float, Above(0), "step size of adaptation, or where a learned one starts"] = 0.1
    inner_discount: Annotated[float, Inside(0, 1), "discount γ of the inner loss, or where a learned one starts"] = 0.95
    inner_gae_lambda: Annotated[
        float, Inside(0, 1), "λ of the inner loss's advantages, or where a learned one starts"
    ] = 0.97
    initial_std: Annotated[float, Above(0), "standard deviation of actions that are vectors, where it starts"] = 0.06
    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the policy's two hidden layers"] = 64
    scratch_rate: Annotated[float, Above(0), "step size of the baseline that learns each task from scratch"] = 0.1
    discount: Annotated[float, Between(0, 1), "discount γ of the returns that are trained for"] = 0.99

    def policy(self, family: EnvironmentFamily, key: Any, critic: bool = False) -> Any:
        import jax.numpy as jnp

        from quickstudy.nn.models import MLP, CategoricalPolicy, GaussianPolicy

        spec, scale = family.tasks.spec, family.action_scale
        outputs = (spec.actions or spec.dims) + critic
        net = MLP((spec.observation, self.hidden_size, self.hidden_size, outputs), key=key, activation=jnp.tanh)
        if spec.actions:
            return CategoricalPolicy(net, critic)
        return GaussianPolicy(net, jnp.full(spec.dims, math.log(self.initial_std / scale)), scale, critic)

    def trial(self, family: EnvironmentFamily, **fields: Any) -> Any:
        episode = family.segment_length
        return qs.Trial(
            family.tasks.environment, trial_length=episode * (1 + self.adaptations), segment_length=episode,
            num_envs=self.trajectories, burn_in=episode, discount=self.discount, gae_lambda=1.0, baseline="linear",
            across_episodes=False, **fields,
        )  # fmt: skip

    def composed(
        self, family: EnvironmentFamily, learner: Any, trial: Any, objective: Any, meta_optimizer: Any
    ) -> Composition:
        import jax

        _, second = jax.random.split(family.key(1))
        episode, oracle = family.segment_length, family.oracle_value
        scratch = qs.Gradient(self.policy(family, second), qs.PolicyGradient(self.discount), qs.SGD(self.scratch_rate))
        return Composition(
            learner=learner,
            objective=objective,
            meta_optimizer=meta_optimizer,
            evaluation=qs.EvaluationConfig(
                dataclasses.replace(trial, trial_length=4 * episode, burn_in=3 * episode),
                baselines={"from scratch": scratch},
                oracle_value=None
                if oracle is None
                else lambda tasks: oracle(tasks, episode if family.unit == 1 else 1),
                draw=family.draw_segments,
                chunk=50,
            ),
            citations=(FINN,),
        )


@dataclasses.dataclass(frozen=True)
class MAML(MethodConfig):
    rollouts: Rollouts = Rollouts()
    rates: Annotated[Literal["per-step", "per-weight", "constant"], "what learns an inner rate of its own"] = "per-step"
    credit: Annotated[Literal["none", "lvc", "dice"], "how the meta-gradient credits the actions before adaptation"] = (
        "none"
    )
    e_maml: Annotated[
        float, AtLeast(0), "weight of E-MAML's term, which credits exploration with the return after adaptation"
    ] = 0.0
    critic: Annotated[
        float, AtLeast(0), "weight in the inner loss of a value's regression on the policy's features (0: no value)"
    ] = 1.0
    outer: Gradient | Evolution = Gradient(5e-3, 0.05, "linear", 1.0)

    title, source, meets = "MAML", FINN, "segments"
    needs = ("vectors",)

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        import jax

        from quickstudy.learners.gradient.updates import per_step, per_weight
        from quickstudy.rl import losses

        rollouts = self.rollouts
        first, _ = jax.random.split(family.key(1))
        start = rollouts.policy(family, first, self.critic > 0)
        update = {
            "per-step": lambda: per_step(start, rollouts.inner_rate, rollouts.adaptations),
            "per-weight": lambda: per_weight(start, rollouts.inner_rate),
            "constant": lambda: qs.SGD(rollouts.inner_rate),
        }[self.rates]()
        inner_loss: Any = qs.PolicyGradient(
            qs.Bounded(rollouts.inner_discount), qs.Bounded(rollouts.inner_gae_lambda), credit=self.credit
        )
        if self.critic:
            inner_loss = qs.PolicyAndValue(inner_loss, self.critic)
        explore = ((self.e_maml, losses.e_maml),) if self.e_maml else ()
        trial = rollouts.trial(family, terms=((1.0, losses.reinforce), *explore))
        # A step leaves some two dozen numbers for each hidden unit behind.
        size = 100 * rollouts.hidden_size * rollouts.trajectories * trial.trial_length
        learner = qs.Gradient(start, inner_loss, update)
        return rollouts.composed(family, learner, trial, trial, self.outer.meta_optimizer(training, size))


@dataclasses.dataclass(frozen=True)
class Reptile(MethodConfig):
    """Nothing but the start is learned."""

    rollouts: Rollouts = Rollouts()
    # The learning rate of plain steps is how far the start moves to where adaptation ends.
    outer: Gradient = Gradient(1.0, 0.05, "linear", 0.0, "sgd")

    title, meets = "Reptile", "segments"
    needs = ("vectors",)
    source = "Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms"
    not_evolved = (
        "its outer step is a move towards adapted weights, which has no score; es-maml evolves the same learner"
    )

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        import jax

        from quickstudy.rl import losses

        rollouts = self.rollouts
        first, _ = jax.random.split(family.key(1))
        trial = rollouts.trial(family, terms=((1.0, losses.reinforce),))
        # The last segment is adapted on too, so one less is rolled out.
        length = trial.segment_length * rollouts.adaptations
        shorter = dataclasses.replace(
            trial,
            trial_length=length,
            burn_in=length - trial.segment_length,
            terms=(),
            baseline="none",
            normalise=False,
        )
        learner = qs.Gradient(
            rollouts.policy(family, first), qs.PolicyGradient(rollouts.inner_discount, rollouts.inner_gae_lambda),
            qs.SGD(rollouts.inner_rate),
        )  # fmt: skip
        return rollouts.composed(family, learner, trial, qs.Reptile(shorter), self.outer.meta_optimizer(training))
