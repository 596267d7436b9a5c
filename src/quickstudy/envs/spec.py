"""What an on-device environment is: the interface of gymnax 1.x, so that its environments fit as they are.

    observation, state = reset(key, params)
    observation, state, reward, terminated, truncated, info = step(key, state, action, params)

`step` resets by itself when an episode ends; `info["final_observation"]` is what was seen before that.
`params` is the task: a task distribution over an environment is a distribution over its parameters.
"""

import abc
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Bool, Float, Key, PyTree

from quickstudy.core import TaskDistribution

Stepped = tuple[PyTree, PyTree, Float[Array, ""], Bool[Array, ""], Bool[Array, ""], dict[str, Any]]


@runtime_checkable
class Environment(Protocol):
    """The two functions; both are pure, and jittable where the environment runs on the device."""

    def reset(self, key: Key[Array, ""], params: PyTree) -> tuple[PyTree, PyTree]: ...

    def step(self, key: Key[Array, ""], state: PyTree, action: Array, params: PyTree) -> Stepped: ...


class Spec(eqx.Module):
    """What a learner needs to know of an environment to be built."""

    observation: int = eqx.field(static=True)  # length of the observation vector
    actions: int | None = eqx.field(static=True)  # number of choices; None where actions are vectors
    dims: int = eqx.field(static=True, default=0)  # length of an action vector


class EnvironmentTasks(TaskDistribution):
    """A family of tasks in one environment: each task is a value of its parameters."""

    @property
    @abc.abstractmethod
    def environment(self) -> Environment:
        """What all tasks share."""

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """What a learner for them must take in and give out."""
