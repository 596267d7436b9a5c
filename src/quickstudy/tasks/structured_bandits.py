"""Bandits whose arms tell of each other (Wang et al. 2016, "Learning to reinforcement learn", sections 3.1.2
and 3.1.3).

    OpposedBandits       two arms that pay 1 with probabilities p and 1 − p; p ~ U[0, 1], or one of two values
    InformativeBandits   eleven arms: of the first ten one, the target, pays 5 and the others 1.1; the last pays a tenth
                         of the target's number, 0.1 to 1, which is less than any other and says it all

As in tasks.bandits nothing is observed but the reward.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.spec import EnvironmentTasks, Spec
from quickstudy.tasks.bandits import BanditEnvironment

TARGET, OTHER, UNIT = 5.0, 1.1, 0.1


class OpposedBandits(EnvironmentTasks):
    """A task is the vector of the arms' probabilities. `better`: of the better arm; None: uniform."""

    better: float | None = eqx.field(static=True, default=None)

    environment = BanditEnvironment()

    @property
    def spec(self) -> Spec:
        return Spec(observation=0, actions=2)

    def sample(self, num: int, *, key: Key[Array, ""]) -> Float[Array, "num 2"]:
        draw = jax.vmap(jax.random.uniform)(jax.random.split(key, num))
        p = draw if self.better is None else jnp.where(draw < 0.5, self.better, 1 - self.better)
        return jnp.stack([p, 1 - p], -1)

    def split(self) -> Splits:
        return split_by_stream(self, "" if self.better is None else "both tasks are met in training: which one it is")


class InformativeBandits(EnvironmentTasks):
    """A task is the vector of what the arms pay; the informative one is the last."""

    targets: int = eqx.field(static=True, default=10)

    environment = BanditEnvironment(pay=lambda worth, key: worth)

    @property
    def spec(self) -> Spec:
        return Spec(observation=0, actions=self.targets + 1)

    def sample(self, num: int, *, key: Key[Array, ""]) -> Float[Array, "num arms"]:
        target = jax.vmap(lambda k: jax.random.randint(k, (), 0, self.targets))(jax.random.split(key, num))
        pays = jnp.where(jax.nn.one_hot(target, self.targets, dtype=bool), TARGET, OTHER)
        return jnp.concatenate([pays, UNIT * (target[:, None] + 1)], 1)

    def split(self) -> Splits:
        return split_by_stream(self, "training meets every target too: which one it is has to be found out")


def best_return(tasks: Float[Array, "num arms"], pulls: int) -> Float[Array, "num"]:
    """Of asking the informative arm first and pulling the target from then on: with four pulls left or more nothing is
    better, as guessing first finds the target one time in ten."""
    return tasks[:, -1] + (pulls - 1) * TARGET
