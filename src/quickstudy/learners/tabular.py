"""What the learners with tables share: states that come one-hot, ε-greedy choice, and going through a stretch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.axes import one_stream
from quickstudy.core import State
from quickstudy.data import Categorical, Transition


def one_by_one(absorb: Callable, state: State, experience: Transition, key: Key[Array, ""]) -> State:
    """The state after absorb(state, transition, key) of every transition of a stretch of one stream."""
    one_stream(experience)
    one = lambda state, given: (absorb(state, *given), None)
    return jax.lax.scan(one, state, (experience, jax.random.split(key, len(experience.reward))))[0]


def epsilon_greedy(values: Float[Array, "actions"], epsilon: Float[Array, ""] | float) -> Categorical:
    """The best action, the best ones alike where several are, but with probability ε any action."""
    best = values == values.max()
    return Categorical(jnp.log((1 - epsilon) * best / best.sum() + epsilon / values.size))


def table(initial: Array | float, states: int, actions: int) -> Float[Array, "states actions"]:
    """Initial values: of each state and action, of each action, or one for all."""
    return jnp.broadcast_to(jnp.asarray(initial, float), (states, actions))
