"""The base of the off-policy learners, which keep transitions in a replay buffer and learn from a sample of them after
each segment."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Transition
from quickstudy.data.ring import Ring
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.initialisation import begin, network
from quickstudy.learners.replay import scan_replay


class Remembered(eqx.Module):
    """One transition, or several with a leading axis. A truncated episode would have gone on, so the value after its
    last step is bootstrapped as after any other."""

    observation: Float[Array, "*num observation"]
    action: Array
    reward: Float[Array, "*num"]
    not_done: Float[Array, "*num"]  # 0 where the episode terminated
    next_observation: Float[Array, "*num observation"]


class OffPolicyState(eqx.Module):
    weights: PyTree
    target: PyTree  # the target network's
    memory: PyTree  # the update's own: moments and the like
    buffer: Ring
    steps: Int[Array, ""]  # gradient steps taken


class OffPolicy(Learner):
    """Experience is [time] or [time, num_envs]. Subclasses act in `apply` and learn in `_improve`.

    start: the network, a learned initialisation, or `RandomInit`
    update: how a gradient moves its weights
    observation: length of the observation vector
    capacity: transitions in the replay buffer
    learning_starts: transitions collected before the first gradient step
    batch, gradient_steps: transitions in a gradient step, and gradient steps after each segment
    """

    start: PyTree
    update: Update
    observation: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True, default=50_000)
    learning_starts: int = eqx.field(static=True, default=1000)
    batch: int = eqx.field(static=True, default=128)
    gradient_steps: int = eqx.field(static=True, default=1)

    # Experience enters by way of a buffer of thousands of transitions, most of them from long ago: a gradient through
    # all of that costs far more than to roll out a population of candidates.
    differentiable = False

    def __check_init__(self):
        require_whole(0, observation=self.observation, learning_starts=self.learning_starts)
        require_whole(1, capacity=self.capacity, batch=self.batch, gradient_steps=self.gradient_steps)

    @abc.abstractmethod
    def _action(self) -> Array:
        """One action, for its shape and type."""

    @abc.abstractmethod
    def _improve(self, state: OffPolicyState, batch: Remembered, key: Key[Array, ""]) -> OffPolicyState:
        """One gradient step; `state.steps` counts it already."""

    def init(self, *, key: Key[Array, ""]) -> OffPolicyState:
        weights, nothing, zero = begin(self.start, key), jnp.zeros(self.observation), jnp.zeros(())
        buffer = Ring.empty(Remembered(nothing, self._action(), zero, zero, nothing), self.capacity)
        return OffPolicyState(weights, weights, self._memory(weights), buffer, jnp.zeros((), int))

    def adapt(self, state: OffPolicyState, experience: Transition, *, key: Key[Array, ""]) -> OffPolicyState:
        t = jax.tree.map(lambda x: x.reshape(-1, *x.shape[experience.axes :]), experience)
        action, not_done = self._performed(t.action), 1.0 - t.terminated
        buffer = state.buffer.push(Remembered(t.observation, action, t.reward, not_done, t.next_observation))

        def improve(moving: Any, key: Key[Array, ""]) -> tuple[Any, None]:
            draw, learn = jax.random.split(key)
            weights, target, memory, steps = moving
            now = OffPolicyState(weights, target, memory, buffer, steps + 1)
            new = self._improve(now, buffer.sample(self.batch, key=draw), learn)
            return (new.weights, new.target, new.memory, new.steps), None

        # The buffer stays outside of the condition, which would copy it.
        moving = state.weights, state.target, state.memory, state.steps
        learned, _ = jax.lax.scan(improve, moving, jax.random.split(key, self.gradient_steps))
        ready = buffer.count >= self.learning_starts
        weights, target, memory, steps = jax.tree.map(lambda new, old: jnp.where(ready, new, old), learned, moving)
        return OffPolicyState(weights, target, memory, buffer, steps)

    def _network(self, weights: PyTree) -> Any:
        return network(self.start, weights, jax.random.key(0))

    def _performed(self, action: Array) -> Array:
        """The action that the environment took, where it is not the one that was chosen."""
        return action

    def _memory(self, weights: PyTree) -> PyTree:
        """The memory of the update, or updates, before the first gradient step."""
        return self.update.init(weights)

    replay = scan_replay
