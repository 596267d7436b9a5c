"""Bernoulli bandits: arm i pays 1 with probability p_i, p_i ~ U[0, 1]. Nothing is observed but the reward.

Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1.
"""

from collections.abc import Callable
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.checks import require_whole
from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.spec import EnvironmentTasks, Spec, Stepped


def at_times(worth: Float[Array, ""], key: Key[Array, ""]) -> Float[Array, ""]:
    """1 with this probability."""
    return jax.random.bernoulli(key, worth).astype(float)


class BanditEnvironment(eqx.Module):
    """One endless episode; the state is empty, the observation a vector of length 0, `params` what the arms are worth,
    of which pay(worth, key) is what a pull pays."""

    pay: Callable = eqx.field(static=True, default=at_times)

    def reset(self, key: Key[Array, ""], params: Float[Array, "arms"]):
        del key, params
        return jnp.zeros(0), ()

    def step(self, key: Key[Array, ""], state: tuple, action: Int[Array, ""], params: Float[Array, "arms"]) -> Stepped:
        nothing, never = jnp.zeros(0), jnp.zeros((), bool)
        return nothing, state, self.pay(params[action], key), never, never, {"final_observation": nothing}


class Bandits(EnvironmentTasks):
    """A task is the vector of the arms' probabilities."""

    arms: int = eqx.field(static=True)

    environment = BanditEnvironment()

    def __check_init__(self):
        require_whole(1, arms=self.arms)

    @property
    def spec(self) -> Spec:
        return Spec(observation=0, actions=self.arms)

    def sample(self, *, key: Key[Array, ""]) -> Float[Array, "arms"]:
        return jax.random.uniform(key, (self.arms,))

    def split(self) -> Splits:
        return split_by_stream(self)


def optimal_return(arms: int, pulls: int) -> float:
    """The expected total reward of the Bayes-optimal policy, exactly, by dynamic programming over the counts.

    States are multisets of the arms' (successes, failures): feasible up to about 15 pulls of 5 arms.
    """

    @cache
    def best(counts: tuple[tuple[int, int], ...], left: int) -> float:
        if left == 0:
            return 0.0
        values = []
        for i in range(len(counts)):
            if i and counts[i] == counts[i - 1]:
                continue  # the same arm by another name
            won, lost = counts[i]
            p = (won + 1) / (won + lost + 2)
            then = lambda new: best(tuple(sorted((*counts[:i], new, *counts[i + 1 :]))), left - 1)  # noqa: B023
            values.append(p * (1 + then((won + 1, lost))) + (1 - p) * then((won, lost + 1)))
        return max(values)

    return best(((0, 0),) * arms, pulls)
