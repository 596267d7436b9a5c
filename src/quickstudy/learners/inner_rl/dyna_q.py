"""Dyna-Q: Q-learning from real transitions, and from those that a model predicts.

    after each step   Q-learning on (s, a, r, s');   Model(s, a) ← (r, s')
    n times           (s, a) of those tried, at random;   (r, s') ← Model(s, a);   Q-learning on (s, a, r, s')

Sutton 1990, Integrated Architectures for Learning, Planning, and Reacting. The model is the last transition of each
pair, so planning is sound where the environment is deterministic, and lags where it is not. A transition that
terminated is remembered as such, and nothing is bootstrapped from beyond it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from quickstudy.checks import require_whole
from quickstudy.data.batches import Transition
from quickstudy.learners.inner_rl.q_learning import QLearning, Values


class Modelled(Values):
    """Values and the model: the last transition of each pair of state and action."""

    reward: Float[Array, "pairs"]
    then: Int[Array, "pairs"]  # the next state; −1 for pairs that were never tried
    terminated: Bool[Array, "pairs"]
    tried: Int[Array, "pairs"]  # pairs in the order in which they were first tried
    known: Int[Array, ""]  # the number of pairs tried


class DynaQ(QLearning):
    """planning: steps in the model after each one in the environment"""

    planning: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        require_whole(0, planning=self.planning)

    def init(self, *, key: Key[Array, ""]) -> Modelled:
        pairs, q = self.states * self.actions, super().init(key=key).q
        nothing = jnp.zeros(pairs, int)
        return Modelled(q, jnp.zeros(pairs), jnp.full(pairs, -1), jnp.zeros(pairs, bool), nothing, jnp.zeros((), int))

    def _absorb(self, state: Modelled, t: Transition, key: Key[Array, ""]) -> Modelled:
        s, next_state = t.observation.argmax(), t.next_observation.argmax()
        pair = s * self.actions + t.action
        new = state.then[pair] < 0
        tried = state.tried.at[state.known].set(jnp.where(new, pair, state.tried[state.known]))
        reward, model = state.reward.at[pair].set(t.reward), state.then.at[pair].set(next_state)
        terminated, known = state.terminated.at[pair].set(t.terminated), state.known + new

        def plan(q: Array, u: Array) -> tuple[Array, None]:
            i = tried[(u * known).astype(int)]
            return self.learned(q, i // self.actions, i % self.actions, reward[i], terminated[i], model[i]), None

        q = self.learned(state.q, s, t.action, t.reward, t.terminated, next_state)
        q, _ = jax.lax.scan(plan, q, jax.random.uniform(key, (self.planning,)))
        return Modelled(q, reward, model, terminated, tried, known)
