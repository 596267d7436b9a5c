"""What the learners with tables share: states that come one-hot, counts, ε-greedy choice, going through a segment."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.core import State
from quickstudy.data.batches import Transition
from quickstudy.data.distributions import Categorical
from quickstudy.learners.replay import require_single_env


class Statistics(eqx.Module):
    """What a task showed of itself. Outcomes are the states and, where episodes end by themselves, the end."""

    moves: Float[Array, "*pairs outcomes"]  # how often (s, a) led there
    rewards: Float[Array, "*pairs"]  # their sum

    @staticmethod
    def none(states: int, actions: int, outcomes: int) -> "Statistics":
        return Statistics(jnp.zeros((states, actions, outcomes)), jnp.zeros((states, actions)))

    @property
    def visits(self) -> Float[Array, "*pairs"]:
        return self.moves.sum(-1)

    def add(self, t: Transition, weight: Array | float = 1.0) -> "Statistics":
        """With one more transition, which counts `weight`."""
        s, a = t.observation.argmax(), t.action
        to = outcome(t, self.moves.shape[-1])
        return Statistics(self.moves.at[s, a].add(weight * to), self.rewards.at[s, a].add(weight * t.reward))


def outcome(t: Transition, outcomes: int) -> Float[Array, "outcomes"]:
    """What one transition led to, one-hot: the next state, or the end where that is one more outcome."""
    if outcomes == t.next_observation.size:
        return t.next_observation
    return jnp.append(jnp.where(t.terminated, 0.0, t.next_observation), t.terminated.astype(float))


def one_by_one(absorb: Callable, state: State, experience: Transition, key: Key[Array, ""]) -> State:
    """The state after absorb(state, transition, key) of every transition of a segment of one stream."""
    require_single_env(experience)
    one = lambda state, given: (absorb(state, *given), None)
    return jax.lax.scan(one, state, (experience, jax.random.split(key, len(experience.reward))))[0]


def epsilon_greedy(values: Float[Array, "actions"], epsilon: Float[Array, ""] | float) -> Categorical:
    """The best action, the best ones alike where several are, but with probability ε any action."""
    best = values == values.max()
    return Categorical(jnp.log((1 - epsilon) * best / best.sum() + epsilon / values.size))


def table(initial: Array | float, states: int, actions: int) -> Float[Array, "states actions"]:
    """Initial values: of each state and action, of each action, or one for all."""
    return jnp.broadcast_to(jnp.asarray(initial, float), (states, actions))
