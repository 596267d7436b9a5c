"""Meta-model learning: the agent plans in a model drawn from what a meta-model makes of the trial so far.

What was decided before the runs; docs/learners/mml.md has what came of it.

    kernels-mml   MDPs that mix shared kernels. Measure: total reward of 10 episodes on 1,000 held-out tasks, paired.
                  Must be won against one model for all tasks, against a model learned from scratch in each task by
                  posterior sampling with a flat prior, its strength the best of a grid on validation tasks, and against
                  RL² after as many interactions of meta-training (`kernels-rl2`). Either may win between drawing and
                  planning in the mean model (`--spread 0`)
    maze-mml      mazes of one layout, in which goal and wind differ. Measure: goals reached in 100 steps; must be won
                  against one model, and against Dyna-Q and R-MAX from scratch
    mdp-mml       i.i.d. Dirichlet MDPs, where there is nothing to share but the prior: a sanity test against posterior
                  sampling with the exact one, which cannot be beaten; the difference must be within 2 of its 133
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from quickstudy.recipes.base import Recipe
from quickstudy.recipes.maze import TUNED

if TYPE_CHECKING:
    from quickstudy.envs.spec import EnvironmentTasks
    from quickstudy.recipes.experiment import Experiment
    from quickstudy.tasks.mdps import KernelMDPs, TabularMDPs

OSBAND = "Osband, Russo, Van Roy 2013, (More) Efficient Reinforcement Learning via Posterior Sampling"
GRIMM = "Grimm, Barreto, Singh, Silver 2020, The Value Equivalence Principle for Model-Based Reinforcement Learning"
# Σα of a model from scratch: the best of {0.3, 1, 3, 10} on 200 validation tasks, drawn as well as the mean.
# In the mazes none of {0.03, 0.3, 3} finds the goal more than once in 25 trials, so R-MAX and Dyna-Q stand beside it.
KERNELS_FLAT = 10.0
MAZE_FLAT = 3.0
AVERAGED = 2000  # mazes that one model for all of them is the mean of


@dataclasses.dataclass(frozen=True)
class MMLRecipe(Recipe):
    meta_steps: int = 300
    meta_batch: int = 64
    learning_rate: float = 5e-3
    final_rate: float = 0.01  # of the learning rate, reached linearly at the end
    clip_norm: float = 1.0
    hidden: int = 64
    kinds: int = 0  # of task, each with a prior of its own; 0: one prior, made by a network of what the task looks like
    latent: int = 32  # numbers that tell what it looks like
    refinements: int = 0  # gradient steps that refine them
    refining_rate: float = 0.1  # of these steps
    spread: float = 1.0  # 1: plans in a draw; 0: in the mean model
    bonus: float = 0.0  # standard deviations that are added to each mean reward
    replan: bool = False  # at every step; else at the end of an episode
    epsilon: float = 0.0  # probability of any action instead of the planned one, in training
    equivalence: float = 0.1  # weight of the value-equivalence loss

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 4", lambda x: x >= 4, "hidden")
        wrong += self.must("be at least 1", lambda x: x >= 1, "latent")
        wrong += self.must("be above 0", lambda x: x > 0, "learning_rate", "clip_norm", "refining_rate")
        wrong += self.must("not be negative", lambda x: x >= 0, "kinds", "refinements", "equivalence", "bonus")
        if self.kinds and self.refinements:
            wrong.append(f"refinements must be 0 with kinds={self.kinds}, got {self.refinements}: only z is refined")
        return wrong + self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "spread", "epsilon", "final_rate")

    def compose(
        self,
        tasks: "EnvironmentTasks",
        tables: Any,
        average: tuple,
        *,
        outcomes: int,
        episode: int,
        trial_length: int,
        flat: float,
        discount: float = 1.0,
        guess: float = 0.0,
        baselines: dict | None = None,
        oracle_value: Any = None,
    ) -> "Experiment":
        """
        tables: a task -> its mean rewards [states, actions] and transitions [states, actions, outcomes]
        average: the mean of these over all tasks
        horizon: of the trial; 10 points of the curve are told
        flat, guess: Σα, in visits, and μ of a model learned from scratch; Σα of the family's mean as a prior too
        """
        import jax
        import jax.numpy as jnp
        import optax

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.learners.inference.meta_models import Amortised, constant
        from quickstudy.learners.inference.mixture import Mixture
        from quickstudy.learners.inference.mml import MML, equivalence, likelihood
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.objectives.trial import Trial
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.report.traces import models

        states, actions = tasks.spec.observation, tasks.spec.actions or 0
        agent = lambda model, spread=self.spread, **explores: MML(
            model, episode, discount, spread, replan=self.replan, **explores
        )
        key, size = jax.random.fold_in(jax.random.key(self.seed), 1), (states, actions, outcomes)
        if self.kinds:
            model = Mixture(*size, kinds=self.kinds, key=key)
        else:
            looks = {"hidden": self.hidden, "latent": self.latent}
            model = Amortised(*size, key=key, steps=self.refinements, rate=self.refining_rate, **looks)
        shape = states, actions
        scratch = constant(jnp.full((*shape, outcomes), flat / outcomes), jnp.full(shape, guess), jnp.ones(shape))
        reward, transition = average
        prior = constant(flat * transition, reward, jnp.ones(shape))
        sure = 1e6  # in visits: nothing is learned
        one = constant(sure * transition, reward, jnp.full(shape, sure))
        trial = Trial(
            tasks.environment,
            trial_length=trial_length,
            terms=((1.0, likelihood), (self.equivalence, equivalence)),
            baseline="none",
            normalise=False,
        )
        schedule = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, self.meta_steps)
        optimizer = optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.adam(schedule))
        return Experiment(
            self,
            agent(model, bonus=self.bonus, epsilon=self.epsilon),
            trial,
            Backprop(optimizer),
            tasks,
            EvaluationConfig(
                dataclasses.replace(trial, curve_interval=trial_length // 10),
                num_tasks=self.test_tasks,
                baselines={
                    "the family's mean as a prior": agent(prior),
                    "from scratch": agent(scratch),
                    "from scratch, mean model": agent(scratch, 0.0),
                    "one model for all tasks": agent(one),
                    **(baselines or {}),
                },
                eval_view=lambda learner: dataclasses.replace(learner, epsilon=0.0),
                oracle_value=oracle_value,
                draw=models(tables),
                chunk=min(250, self.test_tasks),
            ),
            citations=(self.source, GRIMM),
        )


@dataclasses.dataclass(frozen=True)
class MDPFamily(MMLRecipe):
    episodes: int = 10  # of a life

    def errors(self) -> list[str]:
        return super().errors() + self.must("be a multiple of 10", lambda x: x >= 10 and x % 10 == 0, "episodes")

    def of_mdps(self, tasks: "TabularMDPs | KernelMDPs", average: tuple, *, flat: float) -> "Experiment":
        from quickstudy.rl.planning import best_returns

        return self.compose(
            tasks,
            lambda task: (task.reward, task.transition),
            average,
            outcomes=tasks.states,
            episode=tasks.episode,
            trial_length=tasks.episode * self.episodes,
            flat=flat,
            guess=1.0,
            oracle_value=lambda drawn: self.episodes * best_returns(drawn, tasks.episode),
        )


@dataclasses.dataclass(frozen=True)
class KernelsMML(MDPFamily):
    replan: bool = True

    name = "kernels-mml"
    description = "meta-model learning on MDPs that mix shared kernels: plan in a draw of a learned, adapting prior"
    expected = "10 episodes: 196; planning in the mean model 209; from scratch 148, one model 162, the task known 225"
    source = OSBAND

    def build(self) -> "Experiment":
        from quickstudy.tasks.mdps import KernelMDPs

        tasks = KernelMDPs()
        return self.of_mdps(tasks, tuple(table.mean(0) for table in tasks.shared()), flat=KERNELS_FLAT)


@dataclasses.dataclass(frozen=True)
class MDPMML(MDPFamily):
    name = "mdp-mml"
    description = "meta-model learning on random tabular MDPs, where the exact posterior is known"
    expected = "10 episodes: within 2 of posterior sampling with the exact prior, about 133"
    source = OSBAND

    def build(self) -> "Experiment":
        import jax.numpy as jnp

        from quickstudy.tasks.mdps import TabularMDPs

        tasks = TabularMDPs()
        pairs = tasks.states, tasks.actions
        average = jnp.ones(pairs), jnp.full((*pairs, tasks.states), 1 / tasks.states)
        return self.of_mdps(tasks, average, flat=float(tasks.states))


@dataclasses.dataclass(frozen=True)
class MazeMML(MMLRecipe):
    meta_batch: int = 32
    meta_steps: int = 1000
    learning_rate: float = 0.012  # of Adam: a table of 26 outcomes has far to go from a uniform one
    # A maze has one goal, and kinds know it: a step that pays makes every other cell's chance smaller. The mean of all
    # kinds earns a little more than a draw of one. A plan made anew drops a goal as soon as it is refuted. Where no
    # goal is met for long, nothing but chance brings it back.
    kinds: int = 32
    spread: float = 0.0
    replan: bool = True
    epsilon: float = 0.1
    size: int = 5  # cells to a side
    wind: float = 0.3
    layout: int = 0  # seed of the walls, which are the same in all tasks
    discount: float = 0.95
    trial_length: int = 100  # steps of a life

    name = "maze-mml"
    description = "meta-model learning in mazes of one layout, where goal and wind differ"
    expected = "11.0 goals in 100 steps; the family's mean as a prior 10.1, one model for all mazes 4.5, Dyna-Q 3.4"
    source = OSBAND

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 3", lambda x: x >= 3, "size")
        wrong += self.must("lie in [0, 0.5]", lambda x: 0 <= x <= 0.5, "wind")
        wrong += self.must("lie in [0, 1)", lambda x: 0 <= x < 1, "discount")
        wrong += self.must("not be negative", lambda x: x >= 0, "layout")
        return wrong + self.must("be a multiple of 10, at least 10", lambda x: x >= 10 and x % 10 == 0, "trial_length")

    def build(self) -> "Experiment":
        import jax

        from quickstudy.learners.inner_rl.dyna_q import DynaQ
        from quickstudy.learners.inner_rl.r_max import RMax
        from quickstudy.tasks.mazes import Mazes, tables

        tasks = Mazes(self.size, wind=self.wind, layout=self.layout, episode=20)
        size = self.size**2, 4
        over = lambda drawn: jax.tree.map(lambda x: x.mean(0), jax.vmap(tables)(drawn))
        average = jax.jit(lambda: over(tasks.sample(AVERAGED, key=jax.random.key(0))))()
        return self.compose(
            tasks,
            tables,
            average,
            outcomes=self.size**2 + 1,
            episode=tasks.episode,
            trial_length=self.trial_length,
            flat=MAZE_FLAT,
            discount=self.discount,
            baselines={
                "Dyna-Q from scratch": DynaQ(*size, planning=20, **TUNED),
                "R-MAX from scratch": RMax(*size, visits=1, discount=self.discount),
            },
        )
