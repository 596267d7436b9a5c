"""Walks in the plane to a goal that is not observed: only the reward depends on it.

`navigation` (Finn et al. 2017, section 5.3): goals uniform in [−½, ½]². The paper's protocol: 100 steps, 20
trajectories a task, meta-batch 40, TRPO outside, one inner step; returns after 0/1/2 steps about −40 / −12 / −3
(curves). Standing still is worth −38.1.

`corners` (Song et al. 2020): the goal is one of four corners and felt only close to it. Before it adapts an agent has
to walk so that it meets the goal whichever corner it is: that is worth nothing by itself, and only what is earned after
adaptation says so. Policy gradients through the inner step see little of it; a value that expected more does, and
evolution judges whole trials.
"""

import dataclasses
from typing import Annotated, Any, Literal

from quickstudy.config import Above, AtLeast
from quickstudy.recipes.problem import EnvironmentFamily, Meets, Problem, TasksConfig, keys
from quickstudy.recipes.tasks.lengths import Episodes, length_of


@dataclasses.dataclass(frozen=True)
class Navigation(TasksConfig):
    episode_length: Annotated[int, AtLeast(2), "steps of an episode"] = 100
    trial: Episodes | None = Episodes(5)
    test_goals: Annotated[
        Literal["inside", "outside"], "goals of the test: inside or outside of the range that is trained on"
    ] = "inside"
    action_unit: Annotated[float, Above(0), "length of an action of size 1; the longest step is 0.1"] = 1.0

    title = "2-D navigation"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {
        "trial": {
            "episode_length": 20, "action_unit": 0.1, "meta_steps": 600, "meta_batch": 128, "minibatches": 4,
            "discount": 0.97, "value_scale": 10.0,
        },
        "segments": {"meta_steps": 800, "meta_batch": 20},
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, episode_length=self.episode_length, trial_length=length_of(self.trial))

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        from quickstudy.tasks.navigation import Navigation, optimal_return

        tasks = Navigation(self.episode_length, shifted=self.test_goals == "outside", unit=self.action_unit)
        best = lambda goals: optimal_return(goals, self.episode_length)
        return _walks(tasks, self.episode_length, self.trial, self.action_unit, best, seed)


@dataclasses.dataclass(frozen=True)
class Corners(TasksConfig):
    episode_length: Annotated[int, AtLeast(10), "steps of an episode"] = 30
    trial: Episodes | None = Episodes(5)

    title = "navigation to one of four corners"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {
        "trial": {"meta_steps": 600, "meta_batch": 128, "minibatches": 4, "discount": 0.97, "value_scale": 10.0},
        "segments": {"meta_steps": 300, "meta_batch": 10, "hidden_size": 32},
    }

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, episode_length=self.episode_length, trial_length=length_of(self.trial))

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        from quickstudy.tasks.corners import Corners, best_return

        best = lambda goals: best_return(goals, self.episode_length)
        return _walks(Corners(self.episode_length), self.episode_length, self.trial, 1.0, best, seed)


def _walks(
    tasks: Any, episode_length: int, trial: Episodes | None, unit: float, best: Any, seed: int
) -> EnvironmentFamily:

    from quickstudy.report import traces
    from quickstudy.tasks.navigation import REACH

    trial = trial or Episodes()
    return EnvironmentFamily(
        tasks=tasks,
        key=keys(seed),
        segment_length=episode_length,
        trial_length=trial.episodes,
        test_length=trial.tested,
        unit=episode_length,
        curve_interval=episode_length,
        oracle_value=lambda goals, episodes: episodes * best(goals),
        action_scale=REACH / unit,
        max_action=REACH / unit,
        task_features=lambda goals: goals,
        draw=traces.walks,
        draw_segments=traces.navigation,
        chunk=500,
    )
