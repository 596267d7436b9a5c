"""RL² on bandits whose arms tell of each other (Wang et al. 2016, sections 3.1.2 and 3.1.3).

The paper's agent, trained on anticorrelated arms, beats strategies which take arms for independent, and pulls an arm
which never pays well because it says where to pull next. How far ours get is in docs/learners/exploration.md.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

from quickstudy.recipes.rl2 import RL2, WANG

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment

BETTER = {"uniform": None, "easy": 0.9, "medium": 0.75, "hard": 0.6}  # probabilities of the better arm
UCB1_SCALE = 0.2


@dataclasses.dataclass(frozen=True)
class CorrelatedBanditRL2(RL2):
    meta_steps: int = 1200
    meta_batch: int = 128
    minibatches: int = 4
    size: int = 48
    test_tasks: int = 10_000
    pulls: int = 100  # of a trial
    arms: Literal["uniform", "easy", "medium", "hard"] = "uniform"  # how far apart they are
    learning_rate: float = 4e-3
    value: float = 0.02
    gae_lambda: float = 0.95
    curriculum: tuple[tuple[int, int], ...] = ((40, 20),)

    name = "correlated-bandit-rl2"
    description = "RL² on two arms that pay with p and 1 − p: what one arm says of the other is used"
    expected = "100 pulls, p uniform: 73.8 as the Bayes-optimal has, where Gittins, unaware, has 73.5"
    source = WANG

    def errors(self) -> list[str]:
        return super().errors() + self.must(
            "be a multiple of 10, at least 10", lambda x: x >= 10 and x % 10 == 0, "pulls"
        )

    @property
    def length(self) -> int:
        return self.pulls

    def build(self) -> "Experiment":
        from quickstudy.baselines import bandits
        from quickstudy.report.behaviour import regret
        from quickstudy.report.traces import bandit
        from quickstudy.tasks.structured_bandits import OpposedBandits

        return self.compose(
            OpposedBandits(BETTER[self.arms]),
            curve_interval=self.pulls // 10,
            baselines={
                "Bayes-optimal": bandits.anticorrelated(),
                "Gittins index, arms taken for independent": bandits.gittins(
                    2, pulls=self.pulls, discount=1 - 1 / self.pulls
                ),
                "UCB1": bandits.ucb1(2, scale=UCB1_SCALE),
                "Thompson sampling": bandits.thompson(2),
            },
            draw=bandit,
            behaviour=regret,
        )


@dataclasses.dataclass(frozen=True)
class InformativeBanditRL2(RL2):
    meta_steps: int = 3000
    meta_batch: int = 512
    minibatches: int = 4
    size: int = 48
    test_tasks: int = 10_000
    pulls: int = 5  # of a trial
    value_scale: float = 10.0
    # Without much entropy at first every agent learns to search: the arm that pays least is dropped before it is known
    # what it says, and that is a local optimum.
    warmup_entropy: float = 0.3
    curriculum: tuple[tuple[int, int], ...] = ((500, 5),)

    name = "informative-bandit-rl2"
    description = "RL² on eleven arms of which one pays least and says which pays most: to pull it first is best"
    expected = "5 pulls: 18.6 of the Bayes-optimal 20.55, searching 11.4; the informative arm is always pulled first"
    source = WANG

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 5", lambda x: x >= 5, "pulls")

    @property
    def length(self) -> int:
        return self.pulls

    def build(self) -> "Experiment":
        from quickstudy.baselines.structured_bandits import TargetSearch
        from quickstudy.report.behaviour import pulled
        from quickstudy.tasks.structured_bandits import InformativeBandits, best_return

        tasks = InformativeBandits()
        return self.compose(
            tasks,
            curve_interval=1,
            baselines={
                "asks, then pulls the target": TargetSearch(tasks.targets),
                "searches": TargetSearch(tasks.targets, asks=False),
            },
            oracle_value=lambda drawn: best_return(drawn, self.pulls),
            behaviour=pulled,
        )
