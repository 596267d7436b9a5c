"""Random tabular MDPs, and MDPs that mix shared kernels.

`mdp` (Duan et al. 2016, table 2): 10 states, 5 actions, episodes of 10 steps. n=10 episodes: random 100.1, PSRL 138.1,
BEB 150.2, RL² 156.2 in the paper. BEB here plans anew after every step, which is worth 10 of its 160; planning between
episodes it has the paper's 150.

`kernels`: what tasks share is learned in meta-training, what one adds has to be found out.
"""

import dataclasses
from typing import Annotated, Any, Literal

from quickstudy.config import AtLeast
from quickstudy.recipes.problem import EnvironmentFamily, Meets, Problem, TasksConfig, keys
from quickstudy.recipes.tasks.lengths import Episodes, length_of

EPISODE = 10
# Each the best of a grid on validation tasks, at 10 episodes.
BEB_SCALE, UCRL2_SCALE, OPSRL_DRAWS = 10.0, 0.02, 2
# Σα of a model from scratch: the best of {0.3, 1, 3, 10} on 200 validation tasks, drawn as well as the mean.
KERNELS_FLAT = 10.0


def _family(tasks: Any, trial: Episodes | None, seed: int, **more: Any) -> EnvironmentFamily:

    from quickstudy.rl.planning import best_returns

    trial = trial or Episodes()
    return EnvironmentFamily(
        tasks=tasks,
        key=keys(seed),
        segment_length=EPISODE,
        trial_length=trial.episodes,
        test_length=trial.tested,
        unit=EPISODE,
        curve_interval=EPISODE,
        oracle_value=lambda drawn, episodes: episodes * best_returns(drawn, EPISODE),
        tables=lambda task: (task.reward, task.transition),
        **more,
    )


@dataclasses.dataclass(frozen=True)
class MDP(TasksConfig):
    states: Annotated[int, AtLeast(2, 10_000), "states of a task"] = 10
    actions: Annotated[int, AtLeast(2, 10_000), "actions of a task"] = 5
    mean_reward: Annotated[float, "mean over states and actions of their mean rewards"] = 1.0
    trial: Episodes | None = Episodes()

    title = "random tabular MDPs"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {
        "trial": {
            "meta_steps": 1250, "meta_batch": 512, "discount": 0.99, "value": 0.2, "value_scale": 50.0,
            "curriculum": ((80, 5),),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(
            meets=meets, actions=self.actions, one_hot=True, tabulated=True, episode_length=EPISODE,
            trial_length=length_of(self.trial),
        )  # fmt: skip

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        import jax.numpy as jnp

        from quickstudy.baselines import mdps
        from quickstudy.tasks.mdps import TabularMDPs

        pairs = self.states, self.actions
        tasks = TabularMDPs(*pairs, mean=self.mean_reward)
        size = *pairs, tasks.episode
        average = lambda: (jnp.full(pairs, self.mean_reward), jnp.full((*pairs, self.states), 1 / self.states))
        return _family(
            tasks, self.trial, seed,
            baselines=lambda: {
                "BEB": mdps.beb(*size, scale=BEB_SCALE),
                "Bayesian greedy": mdps.bayes_greedy(*size),
                "UCRL2": mdps.ucrl2(*size, scale=UCRL2_SCALE),
                "OPSRL": mdps.opsrl(*size, draws=OPSRL_DRAWS),
                "PSRL": mdps.psrl(*size),
            },
            average=average,
            flat=(float(self.states), 1.0),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kernels(TasksConfig):
    trial: Episodes | None = Episodes()
    test_residual: Annotated[
        Literal["inside", "outside"],
        "what tasks of the test do not share: as in training, or three times the spread of rewards and a tenth of the "
        "closeness of transitions",
    ] = "inside"

    title = "MDPs that mix shared kernels"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {
        "trial": {
            "meta_steps": 300, "meta_batch": 64, "minibatches": 4, "discount": 0.99, "value": 0.2, "value_scale": 50.0,
            "curriculum": ((40, 2), (40, 5)),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(
            meets=meets, actions=5, one_hot=True, tabulated=True, episode_length=EPISODE,
            trial_length=length_of(self.trial),
        )  # fmt: skip

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        import numpy as np

        from quickstudy.baselines import mdps
        from quickstudy.tasks.mdps import KernelMDPs

        tasks = KernelMDPs(shifted=self.test_residual == "outside")

        def features(drawn: Any) -> Any:
            """How much of the first two kernels there is in a task's rewards, by least squares."""
            flat = lambda table: np.asarray(table, np.float64).reshape(len(table), -1)
            return np.linalg.lstsq(flat(tasks.shared()[0]).T, flat(drawn.reward).T)[0].T[:, :2]

        return _family(
            tasks, self.trial, seed,
            baselines=lambda: {"PSRL, flat prior": mdps.psrl(tasks.states, tasks.actions, tasks.episode)},
            average=lambda: tuple(table.mean(0) for table in tasks.shared()),
            flat=(KERNELS_FLAT, 1.0),
            task_features=features,
        )  # fmt: skip
