"""R-MAX: a pair tried less than m times counts as the best there can be, until it is known.

    Q(s, a) = r̂(s, a) + γ Σ_s' p̂(s'|s, a) max_a' Q(s', a')     where (s, a) was tried m times
            = R_max / (1 − γ)                                   elsewhere

Brafman and Tennenholtz 2002. Acting greedily, the agent either earns about what the best policy does or meets an
unknown pair, which happens m·S·A times at most.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.checks import require_between, require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.learners.inner_rl.tabular import Statistics, epsilon_greedy, one_by_one
from quickstudy.learners.replay import scan_replay
from quickstudy.parameters import unwrap
from quickstudy.rl.planning import lazy_cond, optimal_values


class Counted(eqx.Module):
    seen: Statistics
    q: Float[Array, "states actions"]


class RMax(Learner):
    """visits: m; discount: γ in [0, 1); most: R_max, the largest reward there is

    Each plan is the exact solution of the equations above, whatever γ is.
    """

    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    visits: int = eqx.field(static=True, default=1)
    discount: Any = 0.95
    most: Any = 1.0

    differentiable = False

    def __check_init__(self):
        require_whole(1, states=self.states, actions=self.actions, visits=self.visits)
        require_between(0, 1, discount=self.discount)

    def init(self, *, key: Key[Array, ""]) -> Counted:
        del key
        unknown = jnp.full((self.states, self.actions), self._unknown())
        return Counted(Statistics.none(self.states, self.actions, self.states), unknown)

    def adapt(self, state: Counted, experience: Transition, *, key: Key[Array, ""]) -> Counted:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Counted, t: Transition, key: Key[Array, ""]) -> Counted:
        del key
        pair = t.observation.argmax(), t.action
        learning = state.seen.visits[pair] < self.visits  # what is known is known: later visits do not count
        seen = state.seen.add(t, learning)
        found = learning & (seen.visits[pair] >= self.visits)
        shortfall = jnp.asarray(1 - unwrap(self.discount), float)
        arguments = seen, jnp.asarray(self.visits), shortfall, self._unknown()
        return Counted(seen, lazy_cond(found, optimistic, arguments, state.q))

    def _unknown(self) -> Array:
        return jnp.asarray(unwrap(self.most) / (1 - unwrap(self.discount)), float)

    def apply(self, state: Counted, x: Float[Array, "states"]) -> Output:
        return Output(policy=epsilon_greedy(state.q[x.argmax()], 0.0))

    replay = scan_replay


def optimistic(
    seen: Statistics, enough: Int[Array, ""], shortfall: Float[Array, ""], unknown: Float[Array, ""]
) -> Float[Array, "states actions"]:
    """Q where a pair is worth `unknown` for good until it was visited often enough; `shortfall` is 1 − γ."""
    tries = jnp.maximum(seen.visits, 1)
    known = seen.visits >= enough
    reward = jnp.where(known, seen.rewards / tries, unknown)
    onward = jnp.where(known[..., None], seen.moves / tries[..., None], 0.0)
    return optimal_values(reward, onward, shortfall)
