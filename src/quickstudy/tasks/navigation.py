"""2-D navigation: walk from the origin to a goal that is not shown.

Start at (0, 0); goals uniform in [−½, ½]²; actions clipped to ±0.1 in each coordinate; reward −‖x − goal‖ after
the move, as in the authors' code; 100 steps, no early end. Standing still is worth −38.1 on average, walking
straight −0.50 more or less. Finn et al. 2017, section 5.3.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.checks import require_above, require_between, require_whole
from quickstudy.core import TEST_STREAM, HeldOut, Splits, split_by_stream
from quickstudy.envs.device import auto_reset
from quickstudy.envs.spec import EnvironmentTasks, Spec, Stepped

REACH = 0.1


class NavigationState(eqx.Module):
    position: Float[Array, "2"]
    time: Int[Array, ""]


def distance(position: Float[Array, "*rest 2"], goal: Float[Array, "2"]) -> Float[Array, "*rest"]:
    # The root has no derivative at 0, and a policy may well stand on the goal.
    return jnp.sqrt(((position - goal) ** 2).sum(-1) + 1e-12)


class NavigationEnvironment(eqx.Module):
    """The observation is the position; `params` is the goal; actions are in units of `unit`; `reward` is of where
    a move led and of the goal."""

    episode: int = eqx.field(static=True, default=100)
    unit: float = eqx.field(static=True, default=1.0)
    reward: Callable = eqx.field(static=True, default=lambda position, goal: -distance(position, goal))

    def reset(self, key: Key[Array, ""], params: Float[Array, "2"]):
        del key, params
        return jnp.zeros(2), NavigationState(jnp.zeros(2), jnp.zeros((), int))

    def step(
        self, key: Key[Array, ""], state: NavigationState, action: Float[Array, "2"], params: Float[Array, "2"]
    ) -> Stepped:
        position = state.position + jnp.clip(self.unit * action, -REACH, REACH)
        state = NavigationState(position, state.time + 1)
        after = (position, state, self.reward(position, params), jnp.zeros((), bool), state.time >= self.episode)
        return auto_reset(self, key, after, params)


class Navigation(EnvironmentTasks):
    """A task is the goal, uniform in the square of half-width `within`, but for that of half-width `beyond`.

    shifted: test on goals of the square ring around the training range that is as wide as the range's half: [−1, 1]²
        without [−½, ½]², where a goal is up to twice as far as any that was trained on
    unit: of an action; with REACH an agent's outputs and feedback are numbers around 1
    """

    episode: int = eqx.field(static=True, default=100)
    within: float = eqx.field(static=True, default=0.5)
    beyond: float = eqx.field(static=True, default=0.0)
    shifted: bool = eqx.field(static=True, default=False)
    unit: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        require_whole(1, episode=self.episode)
        require_above(0, within=self.within, unit=self.unit)
        require_between(0, self.within, beyond=self.beyond)

    @property
    def environment(self) -> NavigationEnvironment:
        return NavigationEnvironment(self.episode, self.unit)

    @property
    def spec(self) -> Spec:
        return Spec(observation=2, actions=None, dims=2)

    def sample(self, *, key: Key[Array, ""]) -> Float[Array, "2"]:
        if not self.beyond:
            return jax.random.uniform(key, (2,), minval=-self.within, maxval=self.within)
        # On the edge of a square, whose half-width is drawn in proportion to its circumference.
        out, side, along = jax.random.split(key, 3)
        half = jnp.sqrt(jax.random.uniform(out, minval=self.beyond**2, maxval=self.within**2))
        goal = jnp.stack([half, half * jax.random.uniform(along, minval=-1.0)])
        turn = jax.random.randint(side, (), 0, 4)
        quarters = jnp.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]])
        return quarters[turn] @ goal

    def split(self) -> Splits:
        splits = split_by_stream(self)
        if not self.shifted:
            return splits
        outside = dataclasses.replace(self, within=2 * self.within, beyond=self.within)
        return splits._replace(test=HeldOut(outside, TEST_STREAM, "goals outside of the training range"))


def optimal_return(goals: Float[Array, "num 2"], episode: int = 100) -> Float[Array, "num"]:
    """The return of walking straight at full reach in each coordinate, which nothing beats."""
    steps = jnp.arange(1, episode + 1)[:, None, None]
    left = jnp.maximum(jnp.abs(goals) - REACH * steps, 0.0)
    return -jnp.sqrt((left**2).sum(-1)).sum(0)
