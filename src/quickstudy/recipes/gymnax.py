"""Classic control with physics that change from task to task, through gymnax (extra `envs`).

The agent is not told the physics: it has to feel them. Not a published table; the ranges are in tasks.gymnax.
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class CartPoleRL2(RL2):
    meta_steps: int = 300
    meta_batch: int = 64
    minibatches: int = 4
    horizon: int = 200
    learning_rate: float = 1e-3
    discount: float = 0.99
    trace: float = 0.95

    name = "cartpole-rl2"
    description = "RL² on CartPole with random pole length and force"
    expected = "reward near 200 in a trial of 200 steps"
    source = DUAN

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.horizon < 10 or self.horizon % 10:
            wrong.append(f"horizon must be a multiple of 10, got {self.horizon}")
        return wrong

    def build(self) -> "Experiment":
        from quickstudy.tasks.gymnax import GymnaxTasks, random_cartpole

        tasks = GymnaxTasks.make("CartPole-v1", random_cartpole)
        return self.compose(tasks, ((self.meta_steps, self.horizon),), report_every=self.horizon // 10, chunk=100)
