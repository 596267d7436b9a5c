"""RL² on random tabular MDPs (Duan et al. 2016, table 2): 10 states, 5 actions, episodes of 10 steps; and on MDPs that
mix shared kernels.

n=10 episodes: random 100.1, PSRL 138.1, BEB 150.2, RL² 156.2 in the paper. BEB here plans anew after every step, which
is worth 10 of its 160; planning between episodes it has the paper's 150.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

from quickstudy.recipes.base import Recipe
from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.recipes.experiment import Experiment
    from quickstudy.tasks.mdps import KernelMDPs, TabularMDPs


# Each the best of a grid on validation tasks, at 10 episodes.
BEB_SCALE, UCRL2_SCALE, OPSRL_DRAWS = 10.0, 0.02, 2


@dataclasses.dataclass(frozen=True)
class MDPRL2(RL2):
    cell: Literal["gru", "lstm", "s5", "attention"] = "attention"  # a GRU's memory of 64 numbers stops at 123
    size: int = 32
    meta_steps: int = 1250
    meta_batch: int = 512
    final_rate: float = 0.03
    episodes: int = 10  # of a trial or life
    discount: float = 0.99
    value: float = 0.2
    value_scale: float = 50.0
    curriculum: tuple[tuple[int, int], ...] = ((80, 5),)
    test_tasks: int = 2000

    name = "mdp-rl2"
    description = "RL² on random tabular MDPs: explore in the first episodes, exploit in the last"
    expected = "10 episodes: total reward 159 (the paper's RL² 156.2)"
    source = DUAN

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.episodes < 1:
            wrong.append(f"episodes must be at least 1, got {self.episodes}")
        return wrong

    @property
    def length(self) -> int:
        return self.episodes

    def build(self) -> "Experiment":
        from quickstudy.baselines import mdps
        from quickstudy.tasks.mdps import TabularMDPs

        tasks = TabularMDPs()
        size = tasks.states, tasks.actions, tasks.episode
        return self.compose(
            tasks,
            unit=tasks.episode,
            curve_interval=tasks.episode,
            baselines={
                "BEB": mdps.beb(*size, scale=BEB_SCALE),
                "Bayesian greedy": mdps.bayes_greedy(*size),
                "UCRL2": mdps.ucrl2(*size, scale=UCRL2_SCALE),
                "OPSRL": mdps.opsrl(*size, draws=OPSRL_DRAWS),
                "PSRL": mdps.psrl(*size),
            },
        )


@dataclasses.dataclass(frozen=True)
class KernelsTrial(MDPRL2):
    """Trials in MDPs that mix shared kernels, remembered by a GRU."""

    cell: Literal["gru", "lstm", "s5", "attention"] = "gru"
    size: int = 64
    meta_steps: int = 300
    meta_batch: int = 64
    minibatches: int = 4
    final_rate: float = 0.01
    curriculum: tuple[tuple[int, int], ...] = ((40, 2), (40, 5))
    test_tasks: int = 1000
    test_episodes: int = 0  # of a trial in the test (0: as in training)
    # What tasks do not share, in the test: as in training, or thrice the spread of rewards and a tenth of the closeness
    # of transitions.
    test_residual: Literal["inside", "outside"] = "inside"

    def errors(self) -> list[str]:
        return super().errors() + self.must("not be negative", lambda x: x >= 0, "test_episodes")

    def baselines(self) -> "dict[str, Learner]":
        from quickstudy.baselines import mdps

        tasks = self.tasks()
        return {"PSRL, flat prior": mdps.psrl(tasks.states, tasks.actions, tasks.episode)}

    def tasks(self) -> "KernelMDPs":
        from quickstudy.tasks.mdps import KernelMDPs

        return KernelMDPs(shifted=self.test_residual == "outside")

    def build(self) -> "Experiment":
        tasks = self.tasks()
        return self.compose(
            tasks,
            unit=tasks.episode,
            curve_interval=tasks.episode,
            test_length=self.test_episodes or self.episodes,
            baselines=self.baselines(),
        )


@dataclasses.dataclass(frozen=True)
class KernelsRL2(KernelsTrial):
    name = "kernels-rl2"
    description = "RL² on MDPs that mix shared kernels, the model-free baseline of kernels-mml"
    expected = "10 episodes: 178 after 1.6 M steps, as many as kernels-mml has; 193 after 3,000 meta-steps"
    source = DUAN


@dataclasses.dataclass(frozen=True)
class MDPAlone(Recipe):
    """A learner that needs no meta-training, on the same MDPs."""

    meta_steps: int = 0
    states: int = 10  # of a task
    actions: int = 5  # of a task
    episodes: int = 10  # of a life

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 2", lambda x: x >= 2, "states", "actions")
        return wrong + self.must("be at least 1", lambda x: x >= 1, "episodes")

    def learner(self, tasks: "TabularMDPs") -> "Learner":
        raise NotImplementedError

    def build(self) -> "Experiment":
        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.meta_optimizers.untrained import Untrained
        from quickstudy.objectives.trial import Trial
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.rl.planning import best_returns
        from quickstudy.tasks.mdps import TabularMDPs

        tasks = TabularMDPs(self.states, self.actions)
        trial_length = tasks.episode * self.episodes
        trial = Trial(
            tasks.environment, trial_length=trial_length, baseline="none", normalise=False, curve_interval=tasks.episode
        )
        return Experiment(
            self,
            self.learner(tasks),
            trial,
            Untrained(),
            tasks,
            EvaluationConfig(
                trial,
                num_tasks=self.test_tasks,
                oracle_value=lambda drawn: self.episodes * best_returns(drawn, tasks.episode),
                chunk=min(500, self.test_tasks),
            ),
            citations=(self.source, DUAN),
        )


@dataclasses.dataclass(frozen=True)
class MDPPSRL(MDPAlone):
    name = "mdp-psrl"
    description = "posterior sampling on random tabular MDPs; nothing is meta-trained"
    expected = "10 episodes: 134 to 135 (the RL² paper's: 138.1)"
    source = "Osband, Russo, Van Roy 2013, (More) Efficient Reinforcement Learning via Posterior Sampling"

    def learner(self, tasks: "TabularMDPs") -> "Learner":
        from quickstudy.baselines import mdps

        return mdps.psrl(tasks.states, tasks.actions, tasks.episode)


@dataclasses.dataclass(frozen=True)
class MDPRMax(MDPAlone):
    states: int = 4
    actions: int = 3
    episodes: int = 200
    visits: int = 10  # m: a pair is known after as many
    most: float = 5.0  # R_max

    name = "mdp-r-max"
    description = "R-MAX on small random MDPs: optimism until every pair is known; nothing is meta-trained"
    expected = "close to the optimal return an episode once the m·S·A unknown visits are over"
    source = "Brafman and Tennenholtz 2002, R-MAX: A General Polynomial Time Algorithm"

    def errors(self) -> list[str]:
        wrong = super().errors() + self.must("be at least 1", lambda x: x >= 1, "visits")
        # Mean rewards are about 1: below 0, what is unknown would look worse than what is known, and stay unknown.
        return wrong + self.must("be above 0", lambda x: x > 0, "most")

    def learner(self, tasks: "TabularMDPs") -> "Learner":
        from quickstudy.learners.inner_rl.r_max import RMax

        return RMax(tasks.states, tasks.actions, visits=self.visits, most=self.most)
