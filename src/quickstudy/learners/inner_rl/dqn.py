"""Deep Q-networks (DQN).

    L(φ) = mean ½ (r + γ Q⁻(s', a*) − Q_φ(s, a))² over transitions drawn from a buffer
    a* = argmax_a' Q⁻(s', a')   (Mnih et al. 2015);   a* = argmax_a' Q_φ(s', a')   (double: van Hasselt et al. 2016)
    Q⁻ ← Q_φ every `target_update_interval` gradient steps

Acts ε-greedily, ε falling linearly from 1 to `epsilon` over the first `decay` transitions. Mnih et al. 2015,
"Human-level control through deep reinforcement learning"; van Hasselt, Guez, Silver 2016, "Deep Reinforcement Learning
with Double Q-learning".

The paper clips the error to ±1. That finds medians, not means: where one transition in ten ends an episode, as in
CartPole, the other nine outvote it and values run away from what is ever earned. So it is not clipped here.

The rate, γ, ε and a `start` that is not `RandomInit` are leaves: evolution improves them, back-propagation refuses.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_between, require_whole
from quickstudy.data.batches import Output
from quickstudy.learners.inner_rl.off_policy import OffPolicy, OffPolicyState, Remembered
from quickstudy.learners.inner_rl.tabular import epsilon_greedy
from quickstudy.parameters import unwrap


class DQN(OffPolicy):
    """`start` maps an observation to values [actions]; see `OffPolicy` for the rest.

    discount, epsilon: γ and the final ε, numbers or leaves
    decay: transitions over which ε falls
    target_update_interval: gradient steps between two copies to the target network
    double: choose a* by Q_φ, which overestimates less
    """

    discount: Any = 0.99
    epsilon: Any = 0.02
    decay: int = eqx.field(static=True, default=10_000)
    target_update_interval: int = eqx.field(static=True, default=200)
    double: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        require_between(0, 1, discount=self.discount, epsilon=self.epsilon)
        require_whole(1, decay=self.decay, target_update_interval=self.target_update_interval)

    def _action(self) -> Array:
        return jnp.zeros((), jnp.int32)

    def apply(self, state: OffPolicyState, x: Float[Array, "observation"]) -> Output:
        fraction = jnp.clip(1 - state.buffer.count / self.decay, 0, 1)
        epsilon = unwrap(self.epsilon)
        return Output(policy=epsilon_greedy(self._network(state.weights)(x), epsilon + fraction * (1 - epsilon)))

    def _improve(self, state: OffPolicyState, batch: Remembered, key: Key[Array, ""]) -> OffPolicyState:
        del key
        next_values = jax.vmap(self._network(state.target))(batch.next_observation)
        choice = jax.vmap(self._network(state.weights))(batch.next_observation) if self.double else next_values
        best = jnp.take_along_axis(next_values, choice.argmax(-1, keepdims=True), -1)[:, 0]
        target = jax.lax.stop_gradient(batch.reward + unwrap(self.discount) * batch.not_done * best)

        def loss(weights: PyTree) -> Float[Array, ""]:
            values = jax.vmap(self._network(weights))(batch.observation)
            taken = jnp.take_along_axis(values, batch.action[:, None], -1)[:, 0]
            return 0.5 * ((taken - target) ** 2).mean()

        value, gradient = jax.value_and_grad(loss)(state.weights)
        weights, memory = self.update.step(state.weights, gradient, value, state.memory)
        copy = state.steps % self.target_update_interval == 0
        target_weights = jax.tree.map(lambda new, old: jnp.where(copy, new, old), weights, state.target)
        return OffPolicyState(weights, target_weights, memory, state.buffer, state.steps)
