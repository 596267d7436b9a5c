"""Four corners: navigation that is felt only near the goal, after ES-MAML (Song et al. 2020) and ProMP (Rothfuss et al.
2019). Their scales are other ones.

Start at (0, 0); the goal is one of (±½, ±½); actions clipped to ±0.1 in each coordinate; the reward after the move is

    max(0, 1 − ‖x − goal‖ / radius),    radius ¼

so that a walk which never comes near a corner learns nothing, and one that visits a wrong corner learns only that.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.checks import require_whole
from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.spec import EnvironmentTasks, Spec
from quickstudy.tasks.navigation import REACH, NavigationEnvironment, distance

CORNERS = ((0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5))
RADIUS = 0.25


def nearness(position: Float[Array, "*rest 2"], goal: Float[Array, "2"]) -> Float[Array, "*rest"]:
    return jnp.maximum(0.0, 1 - distance(position, goal) / RADIUS)


class Corners(EnvironmentTasks):
    """A task is the goal."""

    episode: int = eqx.field(static=True, default=30)

    def __check_init__(self):
        require_whole(1, episode=self.episode)

    @property
    def environment(self) -> NavigationEnvironment:
        return NavigationEnvironment(self.episode, reward=nearness)

    @property
    def spec(self) -> Spec:
        return Spec(observation=2, actions=None, dims=2)

    def sample(self, *, key: Key[Array, ""]) -> Float[Array, "2"]:
        return jnp.array(CORNERS)[jax.random.randint(key, (), 0, len(CORNERS))]

    def split(self) -> Splits:
        return split_by_stream(self, "training meets every corner too: which one it is has to be found out")


def best_return(goals: Float[Array, "num 2"], episode: int) -> Float[Array, "num"]:
    """Of walking straight at full reach in each coordinate, which nothing beats."""
    steps = REACH * jnp.arange(1, episode + 1)[:, None]
    walk = lambda goal: nearness(jnp.clip(goal, -steps, steps), goal).sum()
    return jax.vmap(walk)(goals)
