"""Bandits whose arms are informative of each other (Wang et al. 2016, "Learning to reinforcement learn", sections 3.1.2
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

from quickstudy.checks import require_between, require_whole
from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.spec import EnvironmentTasks, Spec
from quickstudy.tasks.bandits import BanditEnvironment

TARGET, OTHER, UNIT = 5.0, 1.1, 0.1


class OpposedBandits(EnvironmentTasks):
    """A task is the vector of the arms' probabilities. `better`: of the better arm; None: uniform."""

    better: float | None = eqx.field(static=True, default=None)

    environment = BanditEnvironment()

    def __check_init__(self):
        require_between(0, 1, better=self.better)

    @property
    def spec(self) -> Spec:
        return Spec(observation=0, actions=2)

    def sample(self, *, key: Key[Array, ""]) -> Float[Array, "2"]:
        draw = jax.random.uniform(key)
        p = draw if self.better is None else jnp.where(draw < 0.5, self.better, 1 - self.better)
        return jnp.stack([p, 1 - p], -1)

    def split(self) -> Splits:
        return split_by_stream(self, "" if self.better is None else "both tasks are met in training: which one it is")


class InformativeBandits(EnvironmentTasks):
    """A task is the vector of what the arms pay; the informative one is the last."""

    targets: int = eqx.field(static=True, default=10)

    environment = BanditEnvironment(pay=lambda worth, key: worth)

    def __check_init__(self):
        require_whole(1, targets=self.targets)

    @property
    def spec(self) -> Spec:
        return Spec(observation=0, actions=self.targets + 1)

    def sample(self, *, key: Key[Array, ""]) -> Float[Array, "arms"]:
        target = jax.random.randint(key, (), 0, self.targets)
        pays = jnp.where(jax.nn.one_hot(target, self.targets, dtype=bool), TARGET, OTHER)
        return jnp.append(pays, UNIT * (target + 1))

    def split(self) -> Splits:
        return split_by_stream(self, "training meets every target too: which one it is has to be found out")


def best_return(tasks: Float[Array, "num arms"], pulls: int) -> Float[Array, "num"]:
    """Of asking the informative arm first and pulling the target from then on: with four pulls left or more nothing is
    better, as guessing first finds the target one time in ten."""
    return tasks[:, -1] + (pulls - 1) * TARGET
