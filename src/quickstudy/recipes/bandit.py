"""RL² on Bernoulli bandits (Duan et al. 2016, table 1): total reward over n pulls of k arms.

n=10, k=5: the exact optimum is 6.660; Bayesian greedy expects 6.657 where ties go to the arm pulled least, 6.626 where
they go at random, as it is commonly played. n=100, k=5: greedy 75.5, Gittins 78.3.
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment


UCB1_SCALE = 0.2  # the best of a grid on validation tasks, at 10 and at 100 pulls


@dataclasses.dataclass(frozen=True)
class BanditRL2(RL2):
    meta_steps: int = 1500
    meta_batch: int = 2048
    test_tasks: int = 100_000
    pulls: int = 10  # of a trial
    arms: int = 5  # to choose from
    curriculum: tuple[tuple[int, int], ...] = ((300, 10), (100, 25), (100, 50))

    name = "bandit-rl2"
    description = "RL² on Bernoulli bandits: a recurrent agent that explores, then exploits"
    expected = (
        "10 pulls of 5 arms: at least 6.62 of the optimum 6.660; 100 pulls "
        "(--pulls 100 --value 0.02 --trace 0.95 --meta-batch 1024 --learning-rate 3e-3): at least 77.7"
    )
    source = DUAN

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.pulls < 2:
            wrong.append(f"pulls must be at least 2, got {self.pulls}")
        if self.arms < 2:
            wrong.append(f"arms must be at least 2, got {self.arms}")
        return wrong

    @property
    def length(self) -> int:
        return self.pulls

    def build(self) -> "Experiment":
        from quickstudy.baselines import bandits
        from quickstudy.report.traces import bandit
        from quickstudy.tasks.bandits import Bandits, optimal_return

        oracle_value = None
        if self.pulls <= 10 and self.arms <= 5:  # feasible exactly; beyond that the Gittins index is the baseline
            oracle_value = lambda tasks: optimal_return(self.arms, self.pulls)
        return self.compose(
            Bandits(self.arms),
            curve_interval=max(1, self.pulls // 10) if self.pulls % 10 == 0 else 1,
            baselines={
                "Bayesian greedy": bandits.bayes_greedy(self.arms),
                "Bayesian greedy, ties at random": bandits.bayes_greedy(self.arms, ties="random"),
                # a discount whose horizon 1/(1−γ) is the trial's
                "Gittins index": bandits.gittins(self.arms, pulls=self.pulls, discount=1 - 1 / self.pulls),
                "UCB1": bandits.ucb1(self.arms, scale=UCB1_SCALE),
                "Thompson sampling": bandits.thompson(self.arms),
            },
            oracle_value=oracle_value,
            draw=bandit,
            chunk=5000,
        )
