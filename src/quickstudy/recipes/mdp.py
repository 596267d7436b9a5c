"""RL² on random tabular MDPs (Duan et al. 2016, table 2): 10 states, 5 actions, episodes of 10 steps.

n=10 episodes: random 100.1, PSRL 138.1, BEB 150.2, RL² 156.2 in the paper. BEB here plans anew after every step, which
is worth 10 of its 160; planning between episodes it has the paper's 150.
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment


# Each the best of a grid on validation tasks, at 10 episodes.
BEB_SCALE, UCRL2_SCALE, OPSRL_DRAWS = 10.0, 0.02, 2


@dataclasses.dataclass(frozen=True)
class MDPRL2(RL2):
    meta_steps: int = 2000
    meta_batch: int = 1024
    minibatches: int = 4
    episodes: int = 10
    test_tasks: int = 10_000

    name = "mdp-rl2"
    description = "RL² on random tabular MDPs: explore in the first episodes, exploit in the last"
    expected = "10 episodes: total reward about 156 (the paper's RL²)"
    source = DUAN

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.episodes < 1:
            wrong.append(f"episodes must be at least 1, got {self.episodes}")
        return wrong

    def build(self) -> "Experiment":
        from quickstudy.learners import mdps
        from quickstudy.tasks.mdps import TabularMDPs

        tasks = TabularMDPs()
        horizon = tasks.episode * self.episodes
        size = tasks.states, tasks.actions, tasks.episode
        return self.compose(
            tasks,
            ((self.meta_steps, horizon),),
            report_every=tasks.episode,
            rulers={
                "BEB": mdps.beb(*size, scale=BEB_SCALE),
                "Bayesian greedy": mdps.bayes_greedy(*size),
                "UCRL2": mdps.ucrl2(*size, scale=UCRL2_SCALE),
                "OPSRL": mdps.opsrl(*size, draws=OPSRL_DRAWS),
                "PSRL": mdps.psrl(*size),
            },
        )
