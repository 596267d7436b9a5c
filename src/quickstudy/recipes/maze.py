"""Finding the way in mazes never seen before, from scratch in each: Q-learning and Dyna-Q, evolved and tuned by hand.

Random mazes of 9×9 cells, a quarter of them walls; an episode ends at the goal, worth 1, or after 200 steps. The
learner lives 1,000 steps in a maze, and is judged by how often it got to the goal: horizon / return is its steps a
goal. What evolution improves are the learning rate, the discount, ε and the initial values, over the training mazes;
tuned by hand means the best of a grid on validation mazes.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.recipes.base import Recipe

if TYPE_CHECKING:
    from quickstudy.learners.inner_rl.q_learning import QLearning
    from quickstudy.recipes.experiment import Experiment

# rate, discount, ε and initial value: the best of {0.1, 0.3, 0.6, 1} × {0.9, 0.95, 0.99} × {0.01, 0.05, 0.1, 0.2} ×
# {0, 0.5, 1} on 200 validation mazes.
TUNED = {"rate": 1.0, "discount": 0.99, "epsilon": 0.01, "initial": 0.5}


@dataclasses.dataclass(frozen=True)
class MazeRecipe(Recipe):
    meta_steps: int = 300
    meta_batch: int = 32
    size: int = 9  # cells to a side
    walls: float = 0.25  # share of the cells
    wind: float = 0.0
    trial_length: int = 1000  # steps of a life
    population: int = 32  # of evolution: learners tried in each meta-step
    sigma: float = 0.1  # standard deviation by which they differ
    learning_rate: float = 0.02
    initial: Literal["each", "one"] = "each"  # a value for each state and action to begin with, or one for all
    near_one: float = 0.98  # where a rate starts that the grid has at 1, which no bounded leaf can be

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 3", lambda x: x >= 3, "size")
        wrong += self.must("lie in [0, 0.5]", lambda x: 0 <= x <= 0.5, "walls", "wind")
        wrong += self.must("be a multiple of 10, at least 10", lambda x: x >= 10 and x % 10 == 0, "trial_length")
        wrong += self.must("be even and at least 2", lambda x: x >= 2 and x % 2 == 0, "population")
        wrong += self.must("lie in (0, 1)", lambda x: 0 < x < 1, "near_one")
        return wrong + self.must("be above 0", lambda x: x > 0, "sigma", "learning_rate")

    def learner(self, **choices: Any) -> "QLearning":
        """With these rates, numbers or leaves."""
        raise NotImplementedError

    def baselines(self) -> "dict[str, QLearning]":
        return {"tuned by hand": self.learner(**TUNED)}

    def build(self) -> "Experiment":
        import jax.numpy as jnp
        import optax

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.meta_optimizers.evolution import Evolution
        from quickstudy.objectives.trial import Trial
        from quickstudy.parameters import Bounded
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.tasks.mazes import Mazes

        tasks = Mazes(self.size, self.walls, self.wind)
        # Evolution goes on from the grid's best.
        rates = {name: Bounded(min(TUNED[name], self.near_one)) for name in ("rate", "discount", "epsilon")}
        shape = (tasks.spec.observation, tasks.spec.actions) if self.initial == "each" else ()
        initial = jnp.full(shape, TUNED["initial"])
        evolved = self.learner(**rates, initial=initial)
        trial = Trial(tasks.environment, trial_length=self.trial_length, baseline="none", normalise=False)
        return Experiment(
            self,
            evolved,
            trial,
            Evolution(
                optax.adam(optax.linear_schedule(self.learning_rate, 0.0, self.meta_steps)),
                population=self.population,
                sigma=self.sigma,
            ),
            tasks,
            EvaluationConfig(
                dataclasses.replace(trial, curve_interval=self.trial_length // 10),
                num_tasks=self.test_tasks,
                baselines=self.baselines(),
                chunk=min(250, self.test_tasks),
            ),
            citations=(self.source,),
        )


@dataclasses.dataclass(frozen=True)
class MazeQLearning(MazeRecipe):
    name = "maze-q-learning"
    description = "Q-learning in mazes, its rates and initial values evolved"
    expected = "43 goals in 1,000 steps, where the same learner tuned by hand has 25"
    source = "Watkins 1989, Learning from Delayed Rewards"

    def learner(self, **choices: Any) -> "QLearning":
        from quickstudy.learners.inner_rl.q_learning import QLearning

        return QLearning(self.size**2, 4, **choices)


@dataclasses.dataclass(frozen=True)
class MazeDynaQ(MazeRecipe):
    planning: int = 20  # steps in the model after each one in the world
    # Values that differ a little break the ties by which it explores: noise of 0.01 on each costs 12 goals of 71.
    initial: Literal["each", "one"] = "one"
    near_one: float = 0.999
    sigma: float = 0.3
    learning_rate: float = 0.1
    meta_steps: int = 100
    test_tasks: int = 4000  # what is left to win is small

    name = "maze-dyna-q"
    description = "Dyna-Q in mazes: Q-learning that also plans in what it remembers, evolved"
    expected = "69.5 goals in 1,000 steps; tuned by hand 68.5, where Q-learning has 23.5"
    source = "Sutton 1990, Integrated Architectures for Learning, Planning, and Reacting"

    def errors(self) -> list[str]:
        return super().errors() + self.must("not be negative", lambda x: x >= 0, "planning")

    def learner(self, **choices: Any) -> "QLearning":
        from quickstudy.learners.inner_rl.dyna_q import DynaQ

        return DynaQ(self.size**2, 4, planning=self.planning, **choices)

    def baselines(self) -> "dict[str, QLearning]":
        from quickstudy.learners.inner_rl.q_learning import QLearning

        return {**super().baselines(), "Q-learning, tuned by hand": QLearning(self.size**2, 4, **TUNED)}
