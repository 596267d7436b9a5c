"""Deterministic policy gradients for continuous actions: DDPG and TD3.

    critics   ∇ mean (r + γ min_i Q⁻_i(s', μ⁻(s') + noise) − Q_j(s, a))²        for each j
    actor     ∇ −mean Q_1(s, μ(s))                                             every `policy_delay`-th step
    targets   φ⁻ ← φ⁻ + τ (φ − φ⁻)                                             with the actor

DDPG has one critic, no noise in the target and a delay of 1; TD3 has the smaller of two critics, clipped noise and a
delay of 2. Both act with Gaussian noise, which is wide until learning starts. Actor and critics have an optimiser
each. Lillicrap et al. 2016, "Continuous Control with Deep Reinforcement Learning"; Fujimoto, van Hoof, Meger 2018,
"Addressing Function Approximation Error in Actor-Critic Methods".
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_above, require_at_least, require_between, require_whole
from quickstudy.data.batches import Output
from quickstudy.data.distributions import Gaussian
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.inner_rl.off_policy import OffPolicy, OffPolicyState, Remembered
from quickstudy.parameters import unwrap


class ActorAndCritics(eqx.Module):
    """An actor, which maps an observation to an action before its tanh, [dims], and critics, each of which maps an
    observation and an action to one value."""

    actor: Callable
    critics: list[Callable]

    def act(self, x: Float[Array, "observation"], max_action: float) -> Float[Array, "dims"]:
        """The action without noise."""
        return max_action * jnp.tanh(self.actor(x))

    def values(self, x: Float[Array, "observation"], action: Float[Array, "dims"]) -> Float[Array, "critics"]:
        """Each critic's value of the action."""
        inputs = jnp.concatenate([x, action])
        return jnp.stack([critic(inputs)[0] for critic in self.critics])


class DDPG(OffPolicy):
    """`start` is of `ActorAndCritics` and `update` moves the critics; see `OffPolicy` for the rest.

    dims, max_action: length of an action, and the bound of each of its numbers, ±max_action
    discount, noise, tau: γ, the deviation of what is added to actions in units of max_action, and τ; numbers or leaves
    target_noise: deviation of the noise on the target's actions, clipped at 2.5 times that, in units of max_action
    policy_delay: critic steps to one of the actor and the target networks
    actor_update: how a gradient moves the actor; None: as `update` does, with a memory of its own
    """

    dims: int = eqx.field(static=True, default=1)
    max_action: float = eqx.field(static=True, default=1.0)
    discount: Any = 0.99
    noise: Any = 0.1
    tau: Any = 0.005
    target_noise: float = eqx.field(static=True, default=0.0)
    policy_delay: int = eqx.field(static=True, default=1)
    actor_update: Update | None = None

    def __check_init__(self):
        require_between(0, 1, discount=self.discount, tau=self.tau)
        require_whole(1, dims=self.dims, policy_delay=self.policy_delay)
        require_at_least(0, noise=self.noise, target_noise=self.target_noise)
        require_above(0, max_action=self.max_action)

    def _action(self) -> Array:
        return jnp.zeros(self.dims)

    def _performed(self, action: Array) -> Array:
        return jnp.clip(action, -self.max_action, self.max_action)

    def _memory(self, weights: ActorAndCritics) -> tuple[PyTree, PyTree]:
        """Of the critics' update, and of the actor's."""
        return self.update.init(weights.critics), (self.actor_update or self.update).init(weights.actor)

    def apply(self, state: OffPolicyState, x: Float[Array, "observation"]) -> Output:
        # Wide normal noise, clipped by the environment, stands for uniform actions.
        warm = state.buffer.count < self.learning_starts
        mean = jnp.where(warm, 0.0, self._network(state.weights).act(x, self.max_action))
        std = self.max_action * jnp.where(warm, 1.0, unwrap(self.noise))
        return Output(policy=Gaussian(mean, jnp.broadcast_to(std, mean.shape)))

    def _improve(self, state: OffPolicyState, batch: Remembered, key: Key[Array, ""]) -> OffPolicyState:
        weights, (critics_memory, actor_memory) = state.weights, state.memory
        target_network = self._network(state.target)
        noise = self.target_noise * jax.random.normal(key, batch.action.shape)
        noise = self.max_action * jnp.clip(noise, -2.5 * self.target_noise, 2.5 * self.target_noise)
        action = jax.vmap(lambda x: target_network.act(x, self.max_action))(batch.next_observation)
        next_value = jax.vmap(target_network.values)(batch.next_observation, self._performed(action + noise)).min(-1)
        target = jax.lax.stop_gradient(batch.reward + unwrap(self.discount) * batch.not_done * next_value)

        def critics_loss(critics: PyTree) -> Float[Array, ""]:
            values = self._network(ActorAndCritics(weights.actor, critics)).values
            errors = jax.vmap(values)(batch.observation, batch.action) - target[:, None]
            return (errors**2).mean(0).sum()

        def actor_loss(actor: PyTree) -> Float[Array, ""]:
            model = self._network(ActorAndCritics(actor, weights.critics))
            return -jax.vmap(lambda x: model.values(x, model.act(x, self.max_action))[0])(batch.observation).mean()

        value, gradient = jax.value_and_grad(critics_loss)(weights.critics)
        critics, critics_memory = self.update.step(weights.critics, gradient, value, critics_memory)
        value, gradient = jax.value_and_grad(actor_loss)(weights.actor)
        moved = (self.actor_update or self.update).step(weights.actor, gradient, value, actor_memory)
        # Between its steps the actor stands still, and so does its optimiser.
        due = state.steps % self.policy_delay == 0
        keep = lambda new, old: jnp.where(due, new, old)
        actor, actor_memory = jax.tree.map(keep, moved, (weights.actor, actor_memory))
        weights = ActorAndCritics(actor, critics)
        rate = jnp.where(due, unwrap(self.tau), 0.0)
        target_weights = jax.tree.map(lambda old, new: old + rate * (new - old), state.target, weights)
        return OffPolicyState(weights, target_weights, (critics_memory, actor_memory), state.buffer, state.steps)
