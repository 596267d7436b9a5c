"""What tabular learners share: counts of transitions, ε-greedy choice, and a scan over the steps of a segment."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.core import State
from quickstudy.data.batches import Transition
from quickstudy.data.distributions import Categorical
from quickstudy.learners.replay import require_single_env
from quickstudy.parameters import in_types_of


class Statistics(eqx.Module):
    """Counts of what a task showed of itself. Outcomes are the states; where a model has a prior for it, the end of an
    episode is one outcome more. What terminated counts as a visit that led to the absorbing end, which is worth 0:
    as the last outcome, or apart in `ended` where the outcomes are the states alone. What was truncated would have gone
    on, and counts as a move to its next state.
    """

    moves: Float[Array, "*pairs outcomes"]  # how often (s, a) led to each outcome
    rewards: Float[Array, "*pairs"]  # the sum of the rewards of (s, a)
    ended: Float[Array, "*pairs"]  # how often an episode terminated there, unless that is an outcome

    def __init__(self, moves: Array, rewards: Array, ended: Array | None = None):
        self.moves, self.rewards = moves, rewards
        self.ended = jnp.zeros_like(rewards) if ended is None else ended

    @staticmethod
    def none(states: int, actions: int, outcomes: int) -> "Statistics":
        """Counts of zero."""
        return Statistics(jnp.zeros((states, actions, outcomes)), jnp.zeros((states, actions)))

    @property
    def visits(self) -> Float[Array, "*pairs"]:
        """How often (s, a) was tried."""
        return self.moves.sum(-1) + self.ended

    def add(self, t: Transition, weight: Array | float = 1.0) -> "Statistics":
        """The counts with one more transition, which counts `weight`."""
        s, a = t.observation.argmax(), t.action
        to = outcome(t, self.moves.shape[-1])
        return Statistics(
            self.moves.at[s, a].add(weight * to),
            self.rewards.at[s, a].add(weight * t.reward),
            self.ended.at[s, a].add(weight * (1 - to.sum())),
        )


def outcome(t: Transition, outcomes: int) -> Float[Array, "outcomes"]:
    """The outcome of one transition, one-hot: the next state, or the end where that is one more outcome. Where it is
    none, zeros stand for the end.
    """
    to = jnp.where(t.terminated, 0.0, t.next_observation)
    return to if outcomes == to.size else jnp.append(to, t.terminated.astype(float))


def draw_transition(
    concentration: Float[Array, "*pairs outcomes"], ended: Float[Array, "*pairs"], *, key: Key[Array, ""]
) -> Float[Array, "*pairs outcomes"]:
    """Transitions ~ Dirichlet(concentration, ended) without the end's column: rows add up to 1 less its probability,
    which is 0 where `ended` is."""
    transition = jax.random.dirichlet(key, concentration)
    # The end's share of a Dirichlet is a beta variable, apart from how the others share the rest.
    observed = jnp.where(ended > 0, ended, 1.0)
    end = jax.random.beta(jax.random.fold_in(key, 1), observed, concentration.sum(-1))
    return jnp.where(ended > 0, 1 - end, 1.0)[..., None] * transition


def one_by_one(absorb: Callable, state: State, experience: Transition, key: Key[Array, ""]) -> State:
    """The state after absorb(state, transition, key) for each transition of a segment from one environment."""
    require_single_env(experience)
    one = lambda state, given: (in_types_of(state, absorb(state, *given)), None)
    return jax.lax.scan(one, state, (experience, jax.random.split(key, len(experience.reward))))[0]


def epsilon_greedy(values: Float[Array, "actions"], epsilon: Float[Array, ""] | float) -> Categorical:
    """The ε-greedy policy: a best action, each with the same probability, or with probability ε any action."""
    best = values == values.max()
    return Categorical(jnp.log((1 - epsilon) * best / best.sum() + epsilon / values.size))


def table(initial: Array | float, states: int, actions: int) -> Float[Array, "states actions"]:
    """A table of initial values, given for each state and action, for each action, or as one number for all."""
    return jnp.broadcast_to(jnp.asarray(initial, float), (states, actions))
