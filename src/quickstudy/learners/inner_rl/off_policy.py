"""What the off-policy learners share: they remember transitions, and learn from some of them after each segment."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.core import Learner
from quickstudy.data.batches import Transition
from quickstudy.data.ring import Ring
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.initialisation import begin, network
from quickstudy.learners.replay import scan_replay


class Remembered(eqx.Module):
    """One transition, or several with a leading axis. A truncated episode would have gone on, so it is bootstrapped
    from as at any other step."""

    observation: Float[Array, "*num observation"]
    action: Array
    reward: Float[Array, "*num"]
    goes_on: Float[Array, "*num"]  # 0 where the episode terminated
    next_observation: Float[Array, "*num observation"]


class OffPolicyState(eqx.Module):
    weights: PyTree
    target: PyTree  # the slow copy that targets are made with
    memory: PyTree  # the update's own
    buffer: Ring
    steps: Int[Array, ""]  # gradient steps taken


class OffPolicy(Learner):
    """Experience is [time] or [time, width]. What acts and learns is in the subclasses' `apply` and `_improve`.

    start: the network, a learned initialisation, or `RandomInit`
    update: how a gradient moves its weights
    observation: length of the observation vector
    capacity: transitions remembered; learning_starts: so many are lived before the first gradient step
    batch, updates: transitions in a gradient step, and gradient steps after each segment
    """

    start: PyTree
    update: Update
    observation: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True, default=50_000)
    learning_starts: int = eqx.field(static=True, default=1000)
    batch: int = eqx.field(static=True, default=128)
    gradient_steps: int = eqx.field(static=True, default=1)

    # What was lived enters by way of a buffer of thousands of transitions, most of them from long ago: a gradient
    # through all of that costs far more than a population of candidates that live it again.
    differentiable = False

    @abc.abstractmethod
    def _action(self) -> Array:
        """One action, for its shape and type."""

    @abc.abstractmethod
    def _improve(self, state: OffPolicyState, batch: Remembered, key: Key[Array, ""]) -> OffPolicyState:
        """One gradient step; `state.steps` counts it already."""

    def init(self, *, key: Key[Array, ""]) -> OffPolicyState:
        weights, seen, zero = begin(self.start, key), jnp.zeros(self.observation), jnp.zeros(())
        buffer = Ring.empty(Remembered(seen, self._action(), zero, zero, seen), self.capacity)
        return OffPolicyState(weights, weights, self.update.init(weights), buffer, jnp.zeros((), int))

    def adapt(self, state: OffPolicyState, experience: Transition, *, key: Key[Array, ""]) -> OffPolicyState:
        t = jax.tree.map(lambda x: x.reshape(-1, *x.shape[experience.axes :]), experience)
        lived = Remembered(t.observation, self._done(t.action), t.reward, 1.0 - t.terminated, t.next_observation)
        buffer = state.buffer.push(lived)

        def improve(moving: Any, key: Key[Array, ""]) -> tuple[Any, None]:
            draw, learn = jax.random.split(key)
            weights, target, memory, steps = moving
            given = OffPolicyState(weights, target, memory, buffer, steps + 1)
            new = self._improve(given, buffer.sample(self.batch, key=draw), learn)
            return (new.weights, new.target, new.memory, new.steps), None

        # The buffer stays outside of the condition, which would copy it.
        moving = state.weights, state.target, state.memory, state.steps
        learned, _ = jax.lax.scan(improve, moving, jax.random.split(key, self.gradient_steps))
        ready = buffer.count >= self.learning_starts
        weights, target, memory, steps = jax.tree.map(lambda new, old: jnp.where(ready, new, old), learned, moving)
        return OffPolicyState(weights, target, memory, buffer, steps)

    def _network(self, weights: PyTree) -> Any:
        return network(self.start, weights, jax.random.key(0))

    def _done(self, action: Array) -> Array:
        """What an action did, where it is not what was asked for."""
        return action

    replay = scan_replay
