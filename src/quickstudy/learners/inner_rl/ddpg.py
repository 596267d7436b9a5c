"""Deterministic policy gradients for continuous actions: DDPG and TD3.

    critics   ∇ mean (r + γ min_i Q⁻_i(s', μ⁻(s') + noise) − Q_j(s, a))²        for each j
    actor     ∇ −mean Q_1(s, μ(s))                                             every `delay`-th step
    slow      φ⁻ ← φ⁻ + τ (φ − φ⁻)

DDPG: one critic, no noise in the target, delay 1. TD3: the smaller of two critics, clipped noise, delay 2. Both
act with Gaussian noise, wide during the warm-up. Lillicrap et al. 2016, "Continuous Control with Deep
Reinforcement Learning"; Fujimoto, van Hoof, Meger 2018, "Addressing Function Approximation Error in Actor-Critic
Methods".
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.data.batches import Output
from quickstudy.data.distributions import Gaussian
from quickstudy.learners.inner_rl.off_policy import OffPolicy, OffPolicyState, Remembered
from quickstudy.parameters import unwrap


class ActorAndCritics(eqx.Module):
    """actor: observation to an action before its tanh, [dims]; critics: (observation, action) to one value each"""

    actor: Callable
    critics: list[Callable]

    def act(self, x: Float[Array, "observation"], max_action: float) -> Float[Array, "dims"]:
        return max_action * jnp.tanh(self.actor(x))

    def values(self, x: Float[Array, "observation"], action: Float[Array, "dims"]) -> Float[Array, "critics"]:
        seen = jnp.concatenate([x, action])
        return jnp.stack([critic(seen)[0] for critic in self.critics])


class DDPG(OffPolicy):
    """`start` is of `ActorAndCritics`; see `OffPolicy` for the rest.

    dims, reach: length of an action, and the bound of each of its numbers, ±reach
    discount, noise, tau: γ, the deviation of what is added to actions in units of reach, and τ; numbers or leaves
    smoothing: deviation of the noise in targets, clipped at 2.5 times that, in units of reach
    delay: critic steps to one of the actor and the slow copies
    """

    dims: int = eqx.field(static=True, default=1)
    max_action: float = eqx.field(static=True, default=1.0)
    discount: Any = 0.99
    noise: Any = 0.1
    tau: Any = 0.005
    target_noise: float = eqx.field(static=True, default=0.0)
    policy_delay: int = eqx.field(static=True, default=1)

    def _action(self) -> Array:
        return jnp.zeros(self.dims)

    def _done(self, action: Array) -> Array:
        return jnp.clip(action, -self.max_action, self.max_action)

    def apply(self, state: OffPolicyState, x: Float[Array, "observation"]) -> Output:
        # Wide normal noise, clipped by the environment, stands for uniform actions.
        warm = state.buffer.count < self.learning_starts
        mean = jnp.where(warm, 0.0, self._network(state.weights).act(x, self.max_action))
        std = self.max_action * jnp.where(warm, 1.0, unwrap(self.noise))
        return Output(policy=Gaussian(mean, jnp.broadcast_to(std, mean.shape)))

    def _improve(self, state: OffPolicyState, batch: Remembered, key: Key[Array, ""]) -> OffPolicyState:
        slow = self._network(state.target)
        shake = self.target_noise * jax.random.normal(key, batch.action.shape)
        shake = self.max_action * jnp.clip(shake, -2.5 * self.target_noise, 2.5 * self.target_noise)
        action = self._done(jax.vmap(lambda x: slow.act(x, self.max_action))(batch.next_observation) + shake)
        then = jax.vmap(slow.values)(batch.next_observation, action).min(-1)
        target = jax.lax.stop_gradient(batch.reward + unwrap(self.discount) * batch.goes_on * then)
        now = state.steps % self.policy_delay == 0

        def loss(weights: PyTree) -> Float[Array, ""]:
            model = self._network(weights)
            values = jax.vmap(model.values)(batch.observation, batch.action)
            # The actor is judged by critics that do not move towards what flatters it.
            judge = self._network(jax.lax.stop_gradient(weights))
            acted = jax.vmap(lambda x: judge.values(x, model.act(x, self.max_action))[0])(batch.observation)
            return ((values - target[:, None]) ** 2).mean(0).sum() - jnp.where(now, acted.mean(), 0.0)

        value, gradient = jax.value_and_grad(loss)(state.weights)
        weights, memory = self.update.step(state.weights, gradient, value, state.memory)
        # Between its steps the actor stands still, and what the optimiser remembers of it.
        stands = lambda path, new, old: jnp.where(now, new, old) if _of_actor(path) else new
        weights, memory = jax.tree_util.tree_map_with_path(stands, (weights, memory), (state.weights, state.memory))
        rate = jnp.where(now, unwrap(self.tau), 0.0)
        target_weights = jax.tree.map(lambda old, new: old + rate * (new - old), state.target, weights)
        return OffPolicyState(weights, target_weights, memory, state.buffer, state.steps)


def _of_actor(path: tuple) -> bool:
    return any(getattr(part, "name", None) == "actor" for part in path)
