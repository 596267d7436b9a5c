"""Grid worlds: a goal that is not shown.

`grid` (Zintgraf et al. 2020, VariBAD, section 5.1): open grids of 5×5 cells, four episodes of 15 steps. The best
explorer is computed exactly, and never needs a third episode to look (learners.goal_grids).

`maze`: an episode ends at the goal, worth 1, or after `episode_length` steps; horizon / return is the steps a goal
takes. By default the walls are one layout's, and goal and wind differ from task to task; with `--layout -1` each task
has walls of its own.
"""

import dataclasses
from typing import Annotated

from quickstudy.config import AtLeast, Between
from quickstudy.recipes.problem import EnvironmentFamily, Meets, Problem, TasksConfig, keys
from quickstudy.recipes.tasks.lengths import Episodes, Steps, length_of

ZINTGRAF = "Zintgraf et al. 2020, VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning, ICLR"

# Each the best of a grid (rates 0.3 to 1, discounts 0.9 to 0.99, ε 0.01 to 0.2, initial values 0 to 1) on 200
# validation tasks of the default maze; and of mazes of 9×9 cells, each with its own walls.
TUNED_Q = {"rate": 1.0, "discount": 0.99, "epsilon": 0.01, "initial": 0.3}
TUNED_DYNA = {"rate": 0.6, "discount": 0.99, "epsilon": 0.01, "initial": 0.3}
TUNED = {"rate": 1.0, "discount": 0.99, "epsilon": 0.01, "initial": 0.5}
# Σα of a model from scratch: none of {0.03, 0.3, 3} finds the goal more than once in 25 trials, so R-MAX and Dyna-Q
# stand beside it.
FLAT = 3.0
AVERAGED = 2000  # mazes that one model for all of them is the mean of


@dataclasses.dataclass(frozen=True)
class Grid(TasksConfig):
    trial: Episodes | None = Episodes(4)

    title = "5×5 grids with a hidden goal"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {
        "trial": {
            "meta_steps": 800, "meta_batch": 256, "minibatches": 4, "discount": 0.98, "gae_lambda": 0.95,
            "entropy": 3e-3, "warmup_entropy": 0.03, "value_scale": 10.0, "curriculum": ((60, 1), (60, 2)),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(
            meets=meets, actions=5, one_hot=True, episode_length=15, trial_length=length_of(self.trial)
        )  # fmt: skip

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        import numpy as np

        from quickstudy.baselines.goal_grids import BestExplorer, GoalSampling, best_path
        from quickstudy.report import traces
        from quickstudy.tasks.mazes import GoalGrids

        tasks, trial = GoalGrids(), self.trial or Episodes()
        goals = tuple(np.asarray(tasks.goals).tolist())
        return EnvironmentFamily(
            tasks=tasks,
            key=keys(seed),
            segment_length=tasks.episode,
            trial_length=trial.episodes,
            test_length=trial.tested,
            unit=tasks.episode,
            curve_interval=tasks.episode,
            baselines=lambda: {
                "Bayes-optimal": BestExplorer(tasks.size, best_path(tasks, trial.tested)[0]),
                "posterior sampling, resampled when its sample is refuted": GoalSampling(tasks.size, goals, anew=True),
                "posterior sampling": GoalSampling(tasks.size, goals),
            },
            rewards=(tasks.environment.step_reward, tasks.environment.goal_reward),
            draw=traces.grid,
            draw_beliefs=traces.grid_beliefs,
            citations=(ZINTGRAF,),
        )


@dataclasses.dataclass(frozen=True)
class Maze(TasksConfig):
    size: Annotated[int, AtLeast(3, 1000), "cells to a side"] = 7
    walls: Annotated[float, Between(0, 0.5), "share of the cells that are walls"] = 0.25
    wind: Annotated[float, Between(0, 0.5), "largest probability that a step goes astray; each task has its own"] = 0.2
    layout: Annotated[
        int, AtLeast(-1, 2**31 - 1), "seed of the walls that all tasks share (-1: each task has walls of its own)"
    ] = 0
    episode_length: Annotated[int, AtLeast(1), "steps after which an episode is cut"] = 100
    trial: Steps | None = Steps(200)

    title = "mazes whose goal is not shown"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {
        "trial": {
            "meta_batch": 128, "minibatches": 4, "discount": 0.98, "gae_lambda": 0.95, "entropy": 3e-3,
            "value_scale": 5.0,
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        length = self.episode_length
        return Problem(
            meets=meets, actions=4, one_hot=True, tabulated=True, episode_length=length, terminates=True,
            trial_length=length_of(self.trial),
        )  # fmt: skip

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        import jax
        import jax.numpy as jnp

        from quickstudy.learners.inner_rl.dyna_q import DynaQ
        from quickstudy.learners.inner_rl.q_learning import QLearning
        from quickstudy.tasks.mazes import Mazes, expected_steps, tables

        layout = None if self.layout < 0 else self.layout
        tasks = Mazes(self.size, self.walls, self.wind, layout, self.episode_length)
        length, size = (self.trial or Steps(200)).trial_length, (self.size**2, 4)
        over = lambda drawn: jax.tree.map(lambda x: x.mean(0), jax.vmap(tables)(drawn))
        return EnvironmentFamily(
            tasks=tasks,
            key=keys(seed),
            segment_length=self.episode_length,
            trial_length=length,
            curve_interval=length // 10,
            oracle_value=lambda drawn, steps: steps / expected_steps(drawn),
            baselines=lambda: {
                "Q-learning": QLearning(*size, **TUNED_Q),
                "Dyna-Q": DynaQ(*size, **TUNED_DYNA, planning=20),
            },
            task_features=lambda drawn: jnp.stack(jnp.divmod(drawn.goal, self.size), -1),
            tables=tables,
            average=jax.jit(lambda: over(tasks.batch(jax.random.split(jax.random.key(0), AVERAGED)))),
            flat=(FLAT, 0.0),
        )
