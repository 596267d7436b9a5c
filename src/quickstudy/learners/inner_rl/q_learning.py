"""Q-learning and SARSA(λ) in tables, with ε-greedy choice.

    Q-learning   Q(s, a) ← Q(s, a) + α (r + γ max_a' Q(s', a') − Q(s, a))                     Watkins 1989
    SARSA(λ)     δ = r + γ Q(s', a') − Q(s, a);   e(s, a) ← 1;   Q ← Q + α δ e;   e ← γλ e
                 with replacing traces                     Rummery and Niranjan 1994; Singh and Sutton 1996

The value after a terminated episode is 0. A truncated one would have gone on, so its last step is bootstrapped: by
Q-learning as at any other step, by SARSA with the mean under its own policy, since the next action was never chosen.

The rates, ε and the initial values are leaves: as plain numbers they are constants, as `Bounded` or arrays they can be
meta-learned. ε-greedy choice has no derivative by the values, so evolution does that, and back-propagation refuses.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from quickstudy.checks import require_between, require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.learners.inner_rl.tabular import epsilon_greedy, one_by_one, table
from quickstudy.learners.replay import scan_replay
from quickstudy.parameters import unwrap


class Values(eqx.Module):
    q: Float[Array, "states actions"]


class Tabular(Learner):
    """The base of Q-learning and SARSA. Their states hold the values as `q`, and `_absorb` learns from one transition.

    rate, discount, epsilon: α, γ and ε, in [0, 1]
    initial: Q before any experience, [states, actions], [actions] or one number
    """

    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    rate: Any = 0.1
    discount: Any = 0.95
    epsilon: Any = 0.1
    initial: Any = 0.0

    differentiable = False

    def __check_init__(self):
        require_whole(1, states=self.states, actions=self.actions)
        require_between(0, 1, rate=self.rate, discount=self.discount, epsilon=self.epsilon)

    def adapt(self, state: Any, experience: Transition, *, key: Key[Array, ""]) -> Any:
        return one_by_one(self._absorb, state, experience, key)

    @abc.abstractmethod
    def _absorb(self, state: Any, t: Transition, key: Key[Array, ""]) -> Any: ...

    def apply(self, state: Any, x: Float[Array, "states"]) -> Output:
        return Output(policy=epsilon_greedy(state.q[x.argmax()], unwrap(self.epsilon)))

    replay = scan_replay


class QLearning(Tabular):
    """See `Tabular` for its fields."""

    def init(self, *, key: Key[Array, ""]) -> Values:
        del key
        return Values(table(unwrap(self.initial), self.states, self.actions))

    def _absorb(self, state: Values, t: Transition, key: Key[Array, ""]) -> Values:
        del key
        s, next_state = t.observation.argmax(), t.next_observation.argmax()
        return Values(self.learned(state.q, s, t.action, t.reward, t.terminated, next_state))

    def learned(self, q: Array, s: Array, a: Array, reward: Array, terminated: Array, next_state: Array) -> Array:
        """The values after one transition."""
        target = reward + unwrap(self.discount) * jnp.where(terminated, 0.0, q[next_state].max())
        return q.at[s, a].add(unwrap(self.rate) * (target - q[s, a]))


class Traced(eqx.Module):
    q: Float[Array, "states actions"]
    trace: Float[Array, "states actions"]
    state: Int[Array, ""]  # of the step that waits for its successor's action
    action: Int[Array, ""]
    reward: Float[Array, ""]
    waits: Bool[Array, ""]


class SARSA(Tabular):
    """decay: λ in [0, 1]; see `Tabular` for the other fields"""

    decay: Any = 0.9

    def __check_init__(self):
        require_between(0, 1, decay=self.decay)

    def init(self, *, key: Key[Array, ""]) -> Traced:
        del key
        q, zero = table(unwrap(self.initial), self.states, self.actions), jnp.zeros((), int)
        return Traced(q, jnp.zeros_like(q), zero, zero, jnp.zeros(()), jnp.zeros((), bool))

    def _absorb(self, state: Traced, t: Transition, key: Key[Array, ""]) -> Traced:
        del key
        s, next_state = t.observation.argmax(), t.next_observation.argmax()
        moved = self._step(state.q, state.trace, state.state, state.action, state.reward, state.q[s, t.action])
        q, trace = jax.tree.map(lambda new, old: jnp.where(state.waits, new, old), moved, (state.q, state.trace))
        ended = t.terminated | t.truncated
        policy = jax.nn.softmax(epsilon_greedy(q[next_state], unwrap(self.epsilon)).logits)
        next_value = jnp.where(t.terminated, 0.0, policy @ q[next_state])
        last, _ = self._step(q, trace, s, t.action, t.reward, next_value)
        return Traced(
            jnp.where(ended, last, q), jnp.where(ended, 0.0, trace), s, t.action.astype(int), t.reward, ~ended
        )

    def _step(
        self, q: Array, trace: Array, s: Array, a: Array, reward: Array, next_value: Array
    ) -> tuple[Array, Array]:
        discount = unwrap(self.discount)
        error = reward + discount * next_value - q[s, a]
        trace = trace.at[s, a].set(1.0)
        return q + unwrap(self.rate) * error * trace, discount * unwrap(self.decay) * trace
