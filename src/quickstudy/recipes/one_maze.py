"""Trials in one maze, whose goal is not shown and differs from task to task, as the wind does; and RL² in them.

`maze-mktn`, `maze-mpo` and `maze-mml` live in such mazes too, the last two in smaller ones.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from quickstudy.recipes.base import Recipe
from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.recipes.experiment import Experiment
    from quickstudy.tasks.mazes import Mazes

ACTIONS = 4

# Each the best of a grid (rates 0.3 to 1, discounts 0.9 to 0.99, ε 0.01 to 0.2, initial values 0 to 1) on 200
# validation tasks of the default maze.
TUNED_Q = {"rate": 1.0, "discount": 0.99, "epsilon": 0.01, "initial": 0.3}
TUNED_DYNA = {"rate": 0.6, "discount": 0.99, "epsilon": 0.01, "initial": 0.3}


@dataclasses.dataclass(frozen=True)
class OneMaze(Recipe):
    """One layout for all tasks, with a goal that is not shown and a wind of its own in each: the score is how often the
    goal was reached within the horizon."""

    maze: int = 7  # cells to a side
    walls: float = 0.25  # share of the cells
    wind: float = 0.2
    layout: int = 0  # seed of the walls, which are the same in all tasks
    episode: int = 100  # steps
    trial_length: int = 200  # steps of a life or trial

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 3", lambda x: x >= 3, "maze")
        wrong += self.must("lie in [0, 0.5]", lambda x: 0 <= x <= 0.5, "walls", "wind")
        wrong += self.must("be a multiple of 10, at least 10", lambda x: x >= 10 and x % 10 == 0, "trial_length")
        return wrong + self.must("be at least 1", lambda x: x >= 1, "episode")

    def tasks(self) -> "Mazes":
        from quickstudy.tasks.mazes import Mazes

        return Mazes(self.maze, self.walls, self.wind, self.layout, self.episode)

    def baselines(self) -> "dict[str, Learner]":
        from quickstudy.learners.inner_rl.dyna_q import DynaQ
        from quickstudy.learners.inner_rl.q_learning import QLearning

        size = self.maze**2, ACTIONS
        return {"Q-learning": QLearning(*size, **TUNED_Q), "Dyna-Q": DynaQ(*size, **TUNED_DYNA, planning=20)}

    def optimum(self, drawn: Any) -> Any:
        """Goals within the horizon where way and wind are known from the start."""
        from quickstudy.tasks.mazes import expected_steps

        return self.trial_length / expected_steps(drawn)


@dataclasses.dataclass(frozen=True)
class MazeTrial(OneMaze, RL2):
    """Of an agent that remembers."""

    meta_batch: int = 128
    minibatches: int = 4
    discount: float = 0.98
    gae_lambda: float = 0.95
    entropy: float = 3e-3
    value_scale: float = 5.0

    @property
    def length(self) -> int:
        return self.trial_length

    def build(self) -> "Experiment":
        curve_interval = self.trial_length // 10
        return self.compose(
            self.tasks(), curve_interval=curve_interval, baselines=self.baselines(), oracle_value=self.optimum
        )


@dataclasses.dataclass(frozen=True)
class MazeRL2(MazeTrial):
    name = "maze-rl2"
    description = "RL² in the mazes of maze-mktn: the baseline for it"
    expected = "18 goals in 200 steps, where maze-mktn has 14"
    source = DUAN
