"""R-MAX: what has been tried less than m times is as good as can be, until it is known.

    Q(s, a) = r̂(s, a) + γ Σ_s' p̂(s'|s, a) max_a' Q(s', a')     where (s, a) was tried m times
            = R_max / (1 − γ)                                   elsewhere

Brafman and Tennenholtz 2002. Acting greedily, the agent either earns about what the best policy does or meets an
unknown pair, which happens m·S·A times at most.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from quickstudy.axes import scan_replay
from quickstudy.core import Learner, unwrap
from quickstudy.data import Output, Transition
from quickstudy.learners.tabular import epsilon_greedy, one_by_one
from quickstudy.rl.planning import only_when, value_iteration


class Counted(eqx.Module):
    moves: Float[Array, "states actions states"]  # those that did not end the episode
    rewards: Float[Array, "states actions"]  # their sum
    visits: Float[Array, "states actions"]
    q: Float[Array, "states actions"]


class RMax(Learner):
    """visits: m; discount: γ in [0, 1); most: R_max, the largest reward there is"""

    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    visits: int = eqx.field(static=True, default=1)
    discount: Any = 0.95
    most: Any = 1.0

    differentiable = False

    def init(self, *, key: Key[Array, ""]) -> Counted:
        del key
        pairs = (self.states, self.actions)
        return Counted(
            jnp.zeros((*pairs, self.states)), jnp.zeros(pairs), jnp.zeros(pairs), jnp.full(pairs, self._unknown())
        )

    def adapt(self, state: Counted, experience: Transition, *, key: Key[Array, ""]) -> Counted:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Counted, t: Transition, key: Key[Array, ""]) -> Counted:
        del key
        s, a = t.observation.argmax(), t.action
        learning = state.visits[s, a] < self.visits  # what is known is known: later visits do not count
        went = learning & ~t.terminated
        moves = state.moves.at[s, a].add(went * t.next_observation)
        rewards = state.rewards.at[s, a].add(learning * t.reward)
        visits = state.visits.at[s, a].add(learning)
        found = learning & (visits[s, a] >= self.visits)
        given = moves, rewards, visits, visits >= self.visits, jnp.asarray(unwrap(self.discount)), self._unknown()
        return Counted(moves, rewards, visits, only_when(found, optimistic, given, state.q))

    def _unknown(self) -> Array:
        return jnp.asarray(unwrap(self.most) / (1 - unwrap(self.discount)), float)

    def apply(self, state: Counted, x: Float[Array, "states"]) -> Output:
        return Output(policy=epsilon_greedy(state.q[x.argmax()], 0.0))

    replay = scan_replay


def optimistic(
    moves: Float[Array, "states actions states"],
    rewards: Float[Array, "states actions"],
    visits: Float[Array, "states actions"],
    known: Bool[Array, "states actions"],
    discount: Float[Array, ""],
    unknown: Float[Array, ""],
) -> Float[Array, "states actions"]:
    """Q where an unknown pair is worth `unknown` for good."""
    tries = jnp.maximum(visits, 1)
    reward = jnp.where(known, rewards / tries, unknown)
    return value_iteration(reward, jnp.where(known[..., None], moves / tries[..., None], 0.0), discount)
