"""Classic control with physics that change from task to task, through gymnax (extra `envs`).

The agent is not told the physics: it has to feel them. Not a published table; the ranges are in tasks.gymnax.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class ControlRL2(RL2):
    """RL² over trials of `horizon` steps, however many episodes these are."""

    meta_steps: int = 300
    meta_batch: int = 64
    minibatches: int = 4
    trial_length: int = 500  # steps of a trial
    learning_rate: float = 1e-3
    discount: float = 0.99
    gae_lambda: float = 0.95

    environment: ClassVar[str]
    vary: ClassVar[str]  # the function of tasks.gymnax that draws physics
    episodic: ClassVar[bool] = True
    source = DUAN

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.trial_length < 10 or self.trial_length % 10:
            wrong.append(f"trial_length must be a multiple of 10, got {self.trial_length}")
        return wrong

    @property
    def length(self) -> int:
        return self.trial_length

    def build(self) -> "Experiment":
        from quickstudy.envs import gymnax

        tasks = gymnax.GymnaxTasks.make(self.environment, getattr(gymnax, self.vary))
        return self.compose(tasks, curve_interval=self.trial_length // 10, chunk=100, episodic=self.episodic)


@dataclasses.dataclass(frozen=True)
class CartPoleRL2(ControlRL2):
    meta_steps: int = 1500

    environment = "CartPole-v1"
    vary = "random_cartpole"
    name = "cartpole-rl2"
    description = "RL² on CartPole with random pole length and force"
    expected = "489 steps an episode, in trials of 500; 196 after 300 meta-steps"


@dataclasses.dataclass(frozen=True)
class AcrobotRL2(ControlRL2):
    trial_length: int = 1000
    value_scale: float = 100.0

    environment = "Acrobot-v1"
    vary = "random_acrobot"
    name = "acrobot-rl2"
    description = "RL² on Acrobot with random masses and a random lower link"
    expected = "-84.5 an episode after 400 meta-steps, from the first episode on"


@dataclasses.dataclass(frozen=True)
class PendulumRL2(ControlRL2):
    trial_length: int = 600  # three episodes
    value_scale: float = 100.0

    environment = "Pendulum-v1"
    vary = "random_pendulum"
    episodic = False  # episodes are of one length, so what the first costs the later ones may repay
    name = "pendulum-rl2"
    description = "RL² on Pendulum with random mass"
    expected = "-603 in three episodes: about -200 in each, from the first on"
