"""Trials in environments that run on the device: one compiled scan, environment and learner together."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.collectors.collector import Collector, Schedule, TaskKeys, TrialState, act, value
from quickstudy.core import Learner, State, Tasks
from quickstudy.data.batches import Rollout, Transition
from quickstudy.parallel.axes import over_axes

MANY = 16  # segments: to leave out one adaptation of so many is not worth compiling the last segment apart


class DeviceCollector(Collector):
    """`environment` follows gymnax (see quickstudy.envs.spec); tasks are its parameters."""

    environment: Any = eqx.field(static=True)
    schedule: Schedule = eqx.field(static=True)

    on_device = True

    def begin(self, learner: Learner, tasks: Tasks, keys: TaskKeys) -> TrialState:
        def one(task: PyTree, reset: Key[Array, ""], init: Key[Array, ""]) -> TrialState:
            observation, environment = self._envs(lambda k: self.environment.reset(k, task), self._keys(reset))
            return TrialState(task, environment, observation, learner.init(key=init), jnp.zeros((), int), init)

        return jax.vmap(one)(tasks, keys.reset, keys.init)

    def collect(self, learner: Learner, trials: TrialState, keys: TaskKeys) -> tuple[Rollout, TrialState]:
        return jax.vmap(lambda *one: self._window(learner, *one))(trials, keys.act, keys.adapt)

    def _window(
        self, learner: Learner, trial: TrialState, act_key: Key[Array, ""], adapt_key: Key[Array, ""]
    ) -> tuple[Rollout, TrialState]:
        """One window of one task."""
        schedule = self.schedule
        acting, adapting = (jax.random.split(key, schedule.segments) for key in (act_key, adapt_key))

        def step(carry, key):
            state, environment, observation, time = carry

            def one(key, environment, observation):
                choose, move = jax.random.split(key)
                action, log_prob, state_value = act(learner, state, observation, schedule.act, key=choose)
                shown, environment, reward, terminated, truncated, info = self.environment.step(
                    move, environment, action, trial.task
                )
                transition = Transition(
                    observation,
                    action,
                    jnp.asarray(reward, float),
                    jnp.asarray(terminated, bool),
                    jnp.asarray(truncated, bool),
                    time == schedule.trial_length - 1,
                    info["final_observation"],
                )
                return shown, environment, (transition, log_prob, state_value)

            observation, environment, taken = self._envs(one, self._keys(key), environment, observation)
            return (state, environment, observation, time + 1), taken

        def segment(carry, key):
            return jax.lax.scan(step, carry, jax.random.split(key, schedule.segment_length))

        def segment_and_adapt(carry, keys):
            (state, *rest), (transition, *outputs) = segment(carry, keys[0])
            adapted = learner.adapt(state, transition, key=keys[1])
            return (adapted, *rest), (transition, *outputs, self._cut_values(learner, state, transition, keys[1]))

        carry = (trial.state, trial.environment, trial.observation, trial.time)
        if not schedule.whole or schedule.segments > MANY:
            carry, taken = jax.lax.scan(segment_and_adapt, carry, (acting, adapting))
        else:  # what would be learned from the last segment is never used
            carry, taken = jax.lax.scan(segment_and_adapt, carry, (acting[:-1], adapting[:-1]))
            carry, final = segment(carry, acting[-1])
            final = (*final, self._cut_values(learner, carry[0], final[0], None))
            taken = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), taken, final)
        state, environment, observation, time = carry
        end_value = None
        if schedule.end_values:
            end_value = self._envs(lambda o: value(learner, state, o), observation)
        start = () if schedule.whole else trial.state
        transition, log_prob, state_values, cut_value = taken
        rollout = Rollout(
            transition, log_prob, state_values, cut_value, end_value, trial.key, adapting, start, trial.time
        )
        over = jnp.where(time >= schedule.trial_length, 0, time)
        return rollout, TrialState(trial.task, environment, observation, state, over, trial.key)

    def _cut_values(
        self, learner: Learner, state: State, t: Transition, adapt_key: Key[Array, ""] | None
    ) -> Float[Array, "..."] | None:
        """The values of what would have followed each step of a segment [steps, ...], had its episode gone on.

        Within the segment the next action is chosen in the state that chose this one. After the segment it is chosen in
        the state that has absorbed it: all of it, so that a memory is not one step behind, and without the cut, so that
        it does not take itself to be in another episode. `adapt_key` is None at the end of the trial, where the value
        is of no use.
        """
        if not self.schedule.cut_values:
            return None
        values = lambda state, o: over_axes(lambda o: value(learner, state, o), t.axes)(o)
        if adapt_key is None:
            return values(state, t.next_observation)
        uncut = eqx.tree_at(lambda t: t.truncated, t, t.truncated.at[-1].set(False))
        after = learner.adapt(state, uncut, key=adapt_key)
        last = values(after, jax.tree.map(lambda o: o[-1:], t.next_observation))
        if len(t.reward) == 1:
            return last
        return jnp.concatenate([values(state, jax.tree.map(lambda o: o[:-1], t.next_observation)), last])

    def _envs(self, f: Callable, *args: PyTree) -> PyTree:
        return (f if self.schedule.num_envs is None else jax.vmap(f))(*args)

    def _keys(self, key: Key[Array, ""]) -> Key[Array, "..."]:
        return key if self.schedule.num_envs is None else jax.random.split(key, self.schedule.num_envs)
