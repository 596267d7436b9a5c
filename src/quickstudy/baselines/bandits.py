"""The baselines of the Bernoulli bandit: strategies without meta-parameters, under uniform priors Beta(1, 1).

    greedy     argmax of the posterior mean (w + 1)/(w + l + 2)
    UCB1       argmax of (w + 1)/(n + 2) + c √(2 ln(t + 1)/(n + 2))       Auer et al. 2002 (c = 1, no prior)
    Thompson   argmax of a draw from each arm's posterior                 Thompson 1933
    Gittins    argmax of the index of (w, l), see baselines.gittins       Gittins 1979

w and l count an arm's ones and zeros, n = w + l, t pulls in all. UCB1 knows the prior too, as two pulls an arm had
before, or short trials would go into trying every arm once. Ties go to the arm pulled least, then to the first: of
two arms that look alike, the one less known is worth more. Greedy alone can be had with ties at random too, as it is
commonly played: over ten pulls of five arms it expects 6.626 so, and 6.657 by the rule above (computed exactly).
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.baselines.gittins import indices
from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.distributions import Deterministic
from quickstudy.learners.replay import scan_replay


class Counts(eqx.Module):
    won: Float[Array, "arms"]
    lost: Float[Array, "arms"]
    index: Float[Array, "arms"]  # the arm with the largest is pulled


class IndexStrategy(Learner):
    """Pulls the arm with the largest index(won, lost, key). The index is taken when the state is made, so that a
    strategy which draws (Thompson) draws in `init` and `adapt`, never in `apply`."""

    arms: int = eqx.field(static=True)
    index: Callable = eqx.field(static=True)
    least_first: bool = eqx.field(static=True, default=True)  # of arms that look alike

    differentiable = False

    def __check_init__(self):
        require_whole(1, arms=self.arms)

    def init(self, *, key: Key[Array, ""]) -> Counts:
        nothing = jnp.zeros(self.arms)
        return Counts(nothing, nothing, self.index(nothing, nothing, key))

    def adapt(self, state: Counts, experience: Transition, *, key: Key[Array, ""]) -> Counts:
        pulled = jax.nn.one_hot(experience.action, self.arms)
        won = state.won + experience.reward @ pulled
        lost = state.lost + (1 - experience.reward) @ pulled
        return Counts(won, lost, self.index(won, lost, key))

    def apply(self, state: Counts, x: PyTree) -> Output:
        del x
        least = state.won + state.lost if self.least_first else 0.0
        return Output(policy=Deterministic((state.index - 1e-6 * least).argmax()))

    replay = scan_replay


def bayes_greedy(arms: int, *, ties: Literal["least pulled", "random"] = "least pulled") -> IndexStrategy:
    """The arm with the largest posterior mean."""
    at_random = ties == "random"

    def index(won: Float[Array, "arms"], lost: Float[Array, "arms"], key: Key[Array, ""]) -> Float[Array, "arms"]:
        mean = (won + 1) / (won + lost + 2)
        return jnp.where(mean == mean.max(), jax.random.uniform(key, (arms,)), -1.0) if at_random else mean

    return IndexStrategy(arms, index, least_first=not at_random)


def anticorrelated() -> IndexStrategy:
    """The greedy choice between two arms that pay with p and 1 − p, so that a loss of one counts for the other. Either
    arm is as informative as the other, so it is Bayes-optimal, whatever symmetric prior p has."""
    return IndexStrategy(2, lambda won, lost, key: (won + lost[::-1] + 1) / (won.sum() + lost.sum() + 2))


def ucb1(arms: int, *, scale: float = 1.0) -> IndexStrategy:
    """`scale` is c; tune it on validation tasks for a fair baseline."""

    def index(won: Float[Array, "arms"], lost: Float[Array, "arms"], key: Key[Array, ""]) -> Float[Array, "arms"]:
        pulls = won + lost
        bonus = scale * jnp.sqrt(2 * jnp.log(pulls.sum() + 1) / (pulls + 2))
        return (won + 1) / (pulls + 2) + bonus

    return IndexStrategy(arms, index)


def thompson(arms: int) -> IndexStrategy:
    """Thompson sampling."""
    return IndexStrategy(arms, lambda won, lost, key: jax.random.beta(key, won + 1, lost + 1))


def gittins(arms: int, *, pulls: int, discount: float = 0.99) -> IndexStrategy:
    """The Gittins index strategy. `pulls` is the size of its table of indices: the longest trial that it plays by them.
    For an arm pulled more often the posterior mean stands in for its index, which nears it."""
    table = jnp.asarray(indices(pulls, discount), jnp.float32)

    def index(won: Array, lost: Array, key: Key[Array, ""]) -> Array:
        known = won + lost <= pulls
        row, column = (jnp.where(known, count, 0).astype(int) for count in (won, lost))
        return jnp.where(known, table[row, column], (won + 1) / (won + lost + 2))

    return IndexStrategy(arms, index)
