"""2-D navigation (Finn et al. 2017, section 5.3): reach a goal that is felt only through the reward.

The paper's protocol: goals uniform in [−½, ½]², 100 steps, 20 trajectories a task, meta-batch 40, TRPO outside,
one inner step; returns after 0/1/2 steps about −40 / −12 / −3 (curves). Standing still is worth −38.1.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from quickstudy.recipes.base import Recipe
from quickstudy.recipes.sinusoid import FINN

if TYPE_CHECKING:
    import optax
    from jaxtyping import Array

    from quickstudy.core import MetaOptimizer, Objective
    from quickstudy.learners.gradient.inner_losses import InnerLoss, PolicyGradient
    from quickstudy.objectives.trial import Trial
    from quickstudy.recipes.experiment import Experiment
    from quickstudy.tasks import corners, navigation


@dataclasses.dataclass(frozen=True)
class Navigation(Recipe):
    meta_steps: int = 800
    meta_batch: int = 20
    trajectories: int = 20  # lived before each inner step
    adaptations: int = 3  # inner steps while training; the test takes three
    inner_rate: float = 0.1
    rates: Literal["per-step", "per-weight", "constant"] = "per-step"  # how the inner rate is learned
    inner_discount: float = 0.95  # where the learned discount of the inner loss starts
    inner_gae_lambda: float = 0.97  # and its learned trace
    initial_std: float = 0.06  # of the policy's actions
    learning_rate: float = 5e-3
    final_rate: float = 0.05  # of the learning rate, reached linearly at the end
    discount: float = 0.99
    credit: Literal["none", "lvc", "dice"] = "none"  # how the meta-gradient credits the actions before adaptation
    e_maml: float = 0.0  # weight of E-MAML's term, which credits them with all that was earned after it
    critic: float = 0.0  # weight in the inner loss of a value's regression, on the policy's features; 0: no value
    hidden: int = 64
    scratch_rate: float = 0.1

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "trajectories", "adaptations", "hidden")
        wrong += self.must("be above 0", lambda x: x > 0, "inner_rate", "learning_rate", "scratch_rate", "initial_std")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "discount")
        wrong += self.must("lie in (0, 1)", lambda x: 0 < x < 1, "inner_discount", "inner_gae_lambda")
        wrong += self.must("not be negative", lambda x: x >= 0, "critic")
        return wrong

    def optimizer(self) -> "MetaOptimizer":
        raise NotImplementedError

    def inner_loss(self) -> "InnerLoss":
        from quickstudy.learners.gradient.inner_losses import PolicyAndValue, PolicyGradient
        from quickstudy.parameters import Bounded

        policy = PolicyGradient(Bounded(self.inner_discount), Bounded(self.inner_gae_lambda), credit=self.credit)
        return PolicyAndValue(policy, self.critic) if self.critic else policy

    def objective(self, trial: "Trial") -> "Objective":
        """What to train for, given the trial that MAML trains on."""
        return trial

    def tasks(self) -> "navigation.Navigation | corners.Corners":
        """Whose actions are steps in the plane, from the origin."""
        from quickstudy.tasks.navigation import Navigation

        return Navigation()

    def optimum(self, goals: "Array") -> "Array":
        """The best possible return of each task."""
        from quickstudy.tasks.navigation import optimal_return

        return optimal_return(goals)

    def adam(self) -> "optax.GradientTransformation":
        """With a rate that falls linearly to `final_rate` of itself."""
        import optax

        return optax.adam(
            optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, self.meta_steps)
        )

    def build(self) -> "Experiment":
        import jax
        import jax.numpy as jnp

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.learners.gradient.inner_losses import PolicyGradient
        from quickstudy.learners.gradient.maml import Gradient
        from quickstudy.learners.gradient.updates import SGD, per_step, per_weight
        from quickstudy.nn.models import MLP, GaussianPolicy
        from quickstudy.objectives.trial import Trial
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.report.traces import navigation
        from quickstudy.rl import losses
        from quickstudy.tasks.navigation import REACH

        tasks = self.tasks()
        episode = tasks.episode
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1))

        def policy(key, critic):
            net = MLP((2, self.hidden, self.hidden, 2 + critic), key=key, activation=jnp.tanh)
            return GaussianPolicy(net, jnp.full(2, math.log(self.initial_std / REACH)), REACH, critic)

        start = policy(first, self.critic > 0)
        update = {
            "per-step": lambda: per_step(start, self.inner_rate, self.adaptations),
            "per-weight": lambda: per_weight(start, self.inner_rate),
            "constant": lambda: SGD(self.inner_rate),
        }[self.rates]()
        trial = Trial(
            tasks.environment,
            trial_length=episode * (1 + self.adaptations),
            terms=((1.0, losses.reinforce), *(((self.e_maml, losses.e_maml),) if self.e_maml else ())),
            segment_length=episode,
            num_envs=self.trajectories,
            burn_in=episode,
            discount=self.discount,
            gae_lambda=1.0,
            baseline="linear",
            across_episodes=False,
        )
        return Experiment(
            self,
            Gradient(start, self.inner_loss(), update),
            self.objective(trial),
            self.optimizer(),
            tasks,
            EvaluationConfig(
                dataclasses.replace(trial, trial_length=4 * episode, burn_in=3 * episode),
                num_tasks=self.test_tasks,
                baselines={
                    "from scratch": Gradient(
                        policy(second, False), PolicyGradient(self.discount), SGD(self.scratch_rate)
                    )
                },
                oracle_value=self.optimum,
                draw=navigation,
                chunk=50,
            ),
            citations=(self.source, FINN),
        )


@dataclasses.dataclass(frozen=True)
class NavigationMAML(Navigation):
    critic: float = 1.0

    name = "navigation-maml"
    description = "MAML-RL on 2-D navigation: an agent that learns where its goal is from 20 tries"
    expected = (
        "about 86 % of the gap from standing still (-38.1) to the optimum (-0.5) closed after one adaptation, 95 % "
        "after three"
    )
    source = FINN

    def optimizer(self) -> "MetaOptimizer":
        import optax

        from quickstudy.meta_optimizers.backprop import Backprop, tasks_at_once

        lived = self.trajectories * self.tasks().episode * (1 + self.adaptations)
        # A step lived leaves some two dozen numbers for each hidden unit behind.
        chunk = tasks_at_once(self.meta_batch, 100 * self.hidden * lived)
        return Backprop(optax.chain(optax.clip_by_global_norm(1.0), self.adam()), chunk=chunk)


@dataclasses.dataclass(frozen=True)
class NavigationESMAML(Navigation):
    population: int = 32  # of evolution: learners tried in each meta-step
    sigma: float = 0.1  # standard deviation by which they differ
    learning_rate: float = 1e-2

    name = "navigation-es-maml"
    description = "the same MAML learner, improved by evolution instead of back-propagation"
    expected = (
        "64 % of the gap closed after one adaptation (--meta-steps 630 --meta-batch 10 --adaptations 1), in the time "
        "that navigation-maml takes; ES-MAML's paper has other tasks"
    )
    source = "Song et al. 2020, ES-MAML: Simple Hessian-Free Meta Learning, ICLR"

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.population < 2 or self.population % 2:
            wrong.append(f"population must be even and at least 2, got {self.population}")
        wrong += self.must("be above 0", lambda x: x > 0, "sigma")
        return wrong

    def optimizer(self) -> "MetaOptimizer":
        from quickstudy.meta_optimizers.evolution import Evolution

        return Evolution(self.adam(), population=self.population, sigma=self.sigma)


@dataclasses.dataclass(frozen=True)
class NavigationReptile(Navigation):
    rates: Literal["per-step", "per-weight", "constant"] = "constant"  # nothing but the start is learned
    learning_rate: float = 1.0  # how far the start moves to where adaptation ends

    name = "navigation-reptile"
    description = "Reptile on 2-D navigation: the start moves to where policy gradients lead in each task"
    expected = "-37.4 before and -24.8, -22.6, -24.4 after 1, 2, 3 adaptations (--meta-steps 300); MAML is far better"
    source = "Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms"

    def errors(self) -> list[str]:
        wrong = super().errors()
        for name, only in (("rates", "constant"), ("credit", "none"), ("e_maml", 0.0), ("critic", 0.0)):
            if getattr(self, name) != only:
                wrong.append(f"{name} must be {only}: Reptile learns the start alone, without a meta-gradient")
        return wrong

    def inner_loss(self) -> "PolicyGradient":
        from quickstudy.learners.gradient.inner_losses import PolicyGradient

        return PolicyGradient(self.inner_discount, self.inner_gae_lambda)

    def objective(self, trial: "Trial") -> "Objective":
        from quickstudy.objectives.reptile import Reptile

        # The last segment is adapted on too, so one less is lived.
        lived = trial.segment_length * self.adaptations
        shorter = dataclasses.replace(
            trial, trial_length=lived, burn_in=lived - trial.segment_length, terms=(), baseline="none", normalise=False
        )
        return Reptile(shorter)

    def optimizer(self) -> "MetaOptimizer":
        import optax

        from quickstudy.meta_optimizers.backprop import Backprop

        fall = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, self.meta_steps)
        return Backprop(optax.sgd(fall))
