"""What every collector does: it rolls out trials, and returns observations, actions, rewards and the learner's outputs.

    trials = collector.begin(learner, tasks, keys)
    rollout, trials = collector.collect(learner, trials, keys)       one window of every trial

Here is what does not depend on where the environment runs: the schedule, the keys, and how one action is chosen.
"""

import abc
import dataclasses
from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.core import Incompatible, Learner, State, Tasks
from quickstudy.data.batches import Output, Rollout


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When to adapt, and for how long. Lengths are in environment steps, of each parallel environment.

    window: how much of a trial is rolled out at once
    num_envs: parallel environments a task; None: one, without that axis
    act: "sample" or "mode" of the policy
    cut_values, end_values: whether the values after a cut, and after the window, are asked for
    """

    trial_length: int
    segment_length: int
    window: int
    num_envs: int | None
    act: Literal["sample", "mode"]
    cut_values: bool
    end_values: bool

    @property
    def segments(self) -> int:
        """In one window."""
        return self.window // self.segment_length

    @property
    def whole(self) -> bool:
        """Whether a window is a whole trial."""
        return self.window == self.trial_length


class TaskKeys(NamedTuple):
    """The streams of each task's key; each [tasks], so that what is drawn for a task depends on its own key alone."""

    reset: Key[Array, "tasks"]
    init: Key[Array, "tasks"]
    act: Key[Array, "tasks"]
    adapt: Key[Array, "tasks"]
    loss: Key[Array, "tasks"]

    @staticmethod
    def of(keys: Key[Array, "tasks"]) -> "TaskKeys":
        split = jax.vmap(lambda key: jax.random.split(key, len(TaskKeys._fields)))(keys)
        return TaskKeys(*(split[:, i] for i in range(len(TaskKeys._fields))))


class TrialState(eqx.Module):
    """An unfinished trial of one task."""

    task: PyTree
    environment: PyTree
    observation: PyTree
    state: State
    time: Int[Array, ""]  # steps taken; 0 begins anew
    key: Key[Array, ""]  # the one `init` was given


class Collector(eqx.Module):
    """Rolls out trials of the tasks in one kind of environment."""

    on_device: ClassVar[bool]  # whether both functions can be compiled

    @abc.abstractmethod
    def begin(self, learner: Learner, tasks: Tasks, keys: TaskKeys) -> TrialState:
        """A new trial of every task."""

    @abc.abstractmethod
    def collect(self, learner: Learner, trials: TrialState, keys: TaskKeys) -> tuple[Rollout, TrialState]:
        """One window of every trial, adaptation included. Trials that are over have time 0 afterwards."""


def act(
    learner: Learner, state: State, observation: PyTree, mode: Literal["sample", "mode"], *, key: Key[Array, ""]
) -> tuple[PyTree, Float[Array, ""], Float[Array, ""] | None]:
    """(action, its log-probability, value) for one observation; `vmap` makes it one program for all environments."""
    output = learner.apply(state, observation)
    if not isinstance(output, Output) or output.policy is None:
        raise Incompatible(f"Trial acts by a policy, and {type(learner).__name__} returns none")
    action = output.policy.mode() if mode == "mode" else output.policy.sample(key=key)
    return action, output.policy.log_prob(action), output.value


def value(learner: Learner, state: State, observation: PyTree) -> Float[Array, ""]:
    """The value of one observation. Raises `Incompatible` for a learner that returns none."""
    output = learner.apply(state, observation).value
    if output is None:
        raise Incompatible(
            f"baseline='value' needs a learner that returns a value, and {type(learner).__name__} returns none; use "
            "'linear' or 'none'"
        )
    return jnp.asarray(output)
