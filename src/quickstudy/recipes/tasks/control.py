"""Classic control through gymnax (extra `envs`), with physics that differ from task to task or stay as they are.

The agent does not observe the physics: it has to infer them. Not a published table; the ranges are in tasks.gymnax.
"""

import dataclasses
from typing import Annotated

from quickstudy.recipes.problem import EnvironmentFamily, Meets, Problem, TasksConfig, keys
from quickstudy.recipes.tasks.lengths import Steps, length_of

SUGGESTED = {
    "meta_steps": 300, "meta_batch": 64, "minibatches": 4, "learning_rate": 1e-3, "discount": 0.99, "gae_lambda": 0.95,
}  # fmt: skip
Vary = Annotated[bool, "physics differ from task to task; else all tasks are the same environment"]


def same(key: object, params: object) -> object:
    """The environment's own physics."""
    return params


def _family(
    name: str,
    vary: str,
    trial: Steps | None,
    seed: int,
    segment: int,
    *,
    episodic: bool = True,
    max_action: float = 1.0,
) -> EnvironmentFamily:

    from quickstudy.envs import gymnax

    length = (trial or Steps()).trial_length
    return EnvironmentFamily(
        tasks=gymnax.GymnaxTasks.make(name, getattr(gymnax, vary) if vary else same),
        key=keys(seed),
        segment_length=segment,
        trial_length=length,
        curve_interval=length // 10,
        episodic=episodic,
        action_scale=max_action,
        max_action=max_action,
        chunk=100,
    )


@dataclasses.dataclass(frozen=True)
class CartPole(TasksConfig):
    vary: Vary = True
    trial: Steps | None = Steps(500)

    title = "CartPole"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {"trial": SUGGESTED}

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=2, episode_length=500, terminates=True, trial_length=length_of(self.trial))

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        return _family("CartPole-v1", "random_cartpole" if self.vary else "", self.trial, seed, 500)


@dataclasses.dataclass(frozen=True)
class Acrobot(TasksConfig):
    vary: Vary = True
    trial: Steps | None = Steps(1000)

    title = "Acrobot"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {"trial": {**SUGGESTED, "value_scale": 100.0}}

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=3, episode_length=500, terminates=True, trial_length=length_of(self.trial))

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        return _family("Acrobot-v1", "random_acrobot" if self.vary else "", self.trial, seed, 500)


@dataclasses.dataclass(frozen=True)
class Pendulum(TasksConfig):
    vary: Vary = True
    trial: Steps | None = Steps(600)  # three episodes

    title = "Pendulum"
    meets = "trial", "segments"
    only = {"trial": ("trial",)}
    suggests = {"trial": {**SUGGESTED, "value_scale": 100.0}}

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, episode_length=200, trial_length=length_of(self.trial))

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        # Episodes are of one length, so what the first costs the later ones may repay.
        vary = "random_pendulum" if self.vary else ""
        return _family("Pendulum-v1", vary, self.trial, seed, 200, episodic=False, max_action=2.0)
