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
    horizon: int = 500
    learning_rate: float = 1e-3
    discount: float = 0.99
    trace: float = 0.95

    name = "cartpole-rl2"
    description = "RL² on CartPole with random pole length and force"
    expected = "episodes that last longer and longer within a trial of 500 steps: not run to a figure"
    source = DUAN

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.horizon < 10 or self.horizon % 10:
            wrong.append(f"horizon must be a multiple of 10, got {self.horizon}")
        return wrong

    @property
    def length(self) -> int:
        return self.horizon

    def build(self) -> "Experiment":
        from quickstudy.tasks.gymnax import GymnaxTasks, random_cartpole

        tasks = GymnaxTasks.make("CartPole-v1", random_cartpole)
        return self.compose(tasks, report_every=self.horizon // 10, chunk=100, episodic=True)
