"""2-D navigation: walk from the origin to a goal that is not shown.

Start at (0, 0); goals uniform in [−½, ½]²; actions clipped to ±0.1 in each coordinate; reward −‖x − goal‖ after
the move, as in the authors' code; 100 steps, no early end. Standing still is worth −38.1 on average, walking
straight −0.50 more or less. Finn et al. 2017, section 5.3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.core import Splits, split_by_stream
from quickstudy.tasks.environment import EnvironmentTasks, Spec, Stepped, auto_reset

REACH = 0.1


class NavigationState(eqx.Module):
    position: Float[Array, "2"]
    time: Int[Array, ""]


class NavigationEnvironment(eqx.Module):
    """The observation is the position; `params` is the goal."""

    episode: int = eqx.field(static=True, default=100)

    def reset(self, key: Key[Array, ""], params: Float[Array, "2"]):
        del key, params
        return jnp.zeros(2), NavigationState(jnp.zeros(2), jnp.zeros((), int))

    def step(
        self, key: Key[Array, ""], state: NavigationState, action: Float[Array, "2"], params: Float[Array, "2"]
    ) -> Stepped:
        position = state.position + jnp.clip(action, -REACH, REACH)
        away = position - params
        # The root has no derivative at 0, and a policy may well stand on the goal.
        reward = -jnp.sqrt((away**2).sum() + 1e-12)
        state = NavigationState(position, state.time + 1)
        after = (position, state, reward, jnp.zeros((), bool), state.time >= self.episode)
        return auto_reset(self, key, after, params)


class Navigation(EnvironmentTasks):
    """A task is the goal."""

    episode: int = eqx.field(static=True, default=100)

    @property
    def environment(self) -> NavigationEnvironment:
        return NavigationEnvironment(self.episode)

    @property
    def spec(self) -> Spec:
        return Spec(observation=2, actions=None, dims=2)

    def sample(self, num: int, *, key: Key[Array, ""]) -> Float[Array, "num 2"]:
        return jax.vmap(lambda k: jax.random.uniform(k, (2,), minval=-0.5, maxval=0.5))(jax.random.split(key, num))

    def split(self) -> Splits:
        return split_by_stream(self)


def optimal_return(goals: Float[Array, "num 2"], episode: int = 100) -> Float[Array, "num"]:
    """The return of walking straight at full reach in each coordinate, which nothing beats."""
    steps = jnp.arange(1, episode + 1)[:, None, None]
    left = jnp.maximum(jnp.abs(goals) - REACH * steps, 0.0)
    return -jnp.sqrt((left**2).sum(-1)).sum(0)
