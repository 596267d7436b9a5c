"""Dyna-Q: Q-learning from what happens, and from what a model says would happen.

    after each step   Q-learning on (s, a, r, s');   Model(s, a) ← (r, s')
    n times           (s, a) of those tried, at random;   (r, s') ← Model(s, a);   Q-learning on (s, a, r, s')

Sutton 1990, Integrated Architectures for Learning, Planning, and Reacting. The model is what happened last, so planning
is sound where the world is deterministic, and lags where it is not.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from quickstudy.data.batches import Transition
from quickstudy.learners.inner_rl.q_learning import QLearning, Values


class Modelled(Values):
    reward: Float[Array, "pairs"]
    then: Int[Array, "pairs"]
    terminated: Bool[Array, "pairs"]
    tried: Int[Array, "pairs"]  # pairs of state and action in the order in which they were first tried
    known: Int[Array, ""]  # how many


class DynaQ(QLearning):
    """planning: steps in the model after each one in the world"""

    planning: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if self.planning < 0:
            raise ValueError(f"planning must not be negative, got {self.planning}")

    def init(self, *, key: Key[Array, ""]) -> Modelled:
        pairs, q = self.states * self.actions, super().init(key=key).q
        nothing = jnp.zeros(pairs, int)
        return Modelled(q, jnp.zeros(pairs), jnp.full(pairs, -1), jnp.zeros(pairs, bool), nothing, jnp.zeros((), int))

    def _absorb(self, state: Modelled, t: Transition, key: Key[Array, ""]) -> Modelled:
        s, then = t.observation.argmax(), t.next_observation.argmax()
        pair = s * self.actions + t.action
        new = state.then[pair] < 0
        tried = state.tried.at[state.known].set(jnp.where(new, pair, state.tried[state.known]))
        reward, model = state.reward.at[pair].set(t.reward), state.then.at[pair].set(then)
        terminated, known = state.terminated.at[pair].set(t.terminated), state.known + new

        def plan(q: Array, u: Array) -> tuple[Array, None]:
            i = tried[(u * known).astype(int)]
            return self.learned(q, i // self.actions, i % self.actions, reward[i], terminated[i], model[i]), None

        q = self.learned(state.q, s, t.action, t.reward, t.terminated, then)
        q, _ = jax.lax.scan(plan, q, jax.random.uniform(key, (self.planning,)))
        return Modelled(q, reward, model, terminated, tried, known)
