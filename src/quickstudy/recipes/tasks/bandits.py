"""Bandits, whose arms are independent or informative of each other, and the two-step task.

`bandit` (Duan et al. 2016, table 1): n=10 pulls, k=5 arms: the exact optimum is 6.660; Bayesian greedy expects 6.657
where ties go to the arm pulled least, 6.626 where they go at random, as it is commonly played. n=100, k=5: greedy 75.5,
Gittins 78.3.

`correlated-bandit` and `informative-bandit` (Wang et al. 2016, sections 3.1.2 and 3.1.3): an agent that was trained on
opposed arms beats strategies which take arms for independent, or pulls an arm which never pays well because it says
where to pull next.

`two-step` (Wang et al. 2016, section 3.2.1): a recurrent network, trained without any model, behaves as if it had one.
The stay-probability figure is computed on the held-out tasks, beside agents that have a model and that have none.
"""

import dataclasses
from typing import Annotated, Any, Literal

from quickstudy.config import AtLeast, Multiple
from quickstudy.recipes.problem import EnvironmentFamily, Meets, Problem, TasksConfig, keys

DAW = (
    "Daw, Gershman, Seymour, Dayan, Dolan 2011, Model-based influences on humans' choices and striatal prediction "
    "errors, Neuron"
)
BETTER = {"uniform": None, "easy": 0.9, "medium": 0.75, "hard": 0.6}  # probabilities of the better arm
UCB1_SCALE = 0.2  # the best of a grid on validation tasks, at 10 and at 100 pulls
# (rate, sharpness), each the best of a grid on validation tasks.
MODEL_FREE, MODEL_BASED = (0.3, 20.0), (0.6, 20.0)


def _family(tasks: Any, pulls: int, seed: int, **more: Any) -> EnvironmentFamily:
    return EnvironmentFamily(tasks=tasks, key=keys(seed), segment_length=pulls, trial_length=pulls, **more)


@dataclasses.dataclass(frozen=True)
class Bandit(TasksConfig):
    pulls: Annotated[int, AtLeast(2), "pulls of a trial"] = 10
    arms: Annotated[int, AtLeast(2), "arms to choose from"] = 5

    title = "Bernoulli bandits"
    meets = "trial", "segments"
    suggests = {
        "trial": {
            "meta_steps": 1500, "meta_batch": 2048, "test_tasks": 100_000,
            "curriculum": ((300, 10), (100, 25), (100, 50)),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=self.arms, trial_length=self.pulls)

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        from quickstudy.baselines import bandits
        from quickstudy.report.traces import bandit
        from quickstudy.tasks.bandits import Bandits, optimal_return

        pulls, arms = self.pulls, self.arms
        feasible = pulls <= 10 and arms <= 5  # exactly; beyond that the Gittins index is the oracle
        return _family(
            Bandits(arms), pulls, seed,
            curve_interval=max(1, pulls // 10) if pulls % 10 == 0 else 1,
            baselines=lambda: {
                "Bayesian greedy": bandits.bayes_greedy(arms),
                "Bayesian greedy, ties at random": bandits.bayes_greedy(arms, ties="random"),
                # a discount whose horizon 1/(1−γ) is the trial's
                "Gittins index": bandits.gittins(arms, pulls=pulls, discount=1 - 1 / pulls),
                "UCB1": bandits.ucb1(arms, scale=UCB1_SCALE),
                "Thompson sampling": bandits.thompson(arms),
            },
            oracle_value=(lambda tasks, times: optimal_return(arms, pulls)) if feasible else None,
            draw=bandit,
            chunk=5000,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CorrelatedBandit(TasksConfig):
    pulls: Annotated[int, AtLeast(10), Multiple(10), "pulls of a trial"] = 100
    arms: Annotated[Literal["uniform", "easy", "medium", "hard"], "how far the two arms are apart"] = "uniform"

    title = "bandits whose two arms pay with p and 1 − p"
    meets = "trial", "segments"
    suggests = {
        "trial": {
            "meta_steps": 1200, "meta_batch": 128, "minibatches": 4, "memory_size": 48, "test_tasks": 10_000,
            "learning_rate": 4e-3, "value": 0.02, "gae_lambda": 0.95, "curriculum": ((40, 20),),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=2, trial_length=self.pulls)

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        from quickstudy.baselines import bandits
        from quickstudy.report.behaviour import regret
        from quickstudy.report.traces import bandit
        from quickstudy.tasks.structured_bandits import OpposedBandits

        gittins = lambda: bandits.gittins(2, pulls=self.pulls, discount=1 - 1 / self.pulls)
        return _family(
            OpposedBandits(BETTER[self.arms]), self.pulls, seed,
            curve_interval=self.pulls // 10,
            baselines=lambda: {
                "Bayes-optimal": bandits.anticorrelated(),
                "Gittins index, arms taken for independent": gittins(),
                "UCB1": bandits.ucb1(2, scale=UCB1_SCALE),
                "Thompson sampling": bandits.thompson(2),
            },
            draw=bandit,
            behaviour=regret,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InformativeBandit(TasksConfig):
    pulls: Annotated[int, AtLeast(5), "pulls of a trial"] = 5

    title = "bandits of eleven arms, one of which pays least and reveals which pays most"
    meets = "trial", "segments"
    # Without much entropy at first every agent learns to search: the arm that pays least is dropped before it is known
    # what it says, and that is a local optimum.
    suggests = {
        "trial": {
            "meta_steps": 3000, "meta_batch": 512, "minibatches": 4, "memory_size": 48, "test_tasks": 10_000,
            "value_scale": 10.0, "warmup_entropy": 0.3, "curriculum": ((500, 5),),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=11, trial_length=self.pulls)

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        from quickstudy.baselines.structured_bandits import TargetSearch
        from quickstudy.report.behaviour import pulled
        from quickstudy.tasks.structured_bandits import InformativeBandits, best_return

        tasks = InformativeBandits()
        return _family(
            tasks, self.pulls, seed,
            baselines=lambda: {
                "informative arm first, then the target": TargetSearch(tasks.targets),
                "search for the target": TargetSearch(tasks.targets, asks=False),
            },
            oracle_value=lambda drawn, times: best_return(drawn, self.pulls),
            behaviour=pulled,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TwoStep(TasksConfig):
    choices: Annotated[int, AtLeast(10), Multiple(10), "choices of a trial, at the first step"] = 100

    title = "the two-step task"
    meets = "trial", "segments"
    suggests = {
        "trial": {
            "meta_steps": 200, "meta_batch": 128, "minibatches": 4, "memory_size": 48, "test_tasks": 2000,
            "learning_rate": 4e-3, "value": 0.02, "gae_lambda": 0.9, "discount": 0.9, "curriculum": ((40, 20),),
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=2, trial_length=self.choices)

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        from quickstudy.baselines.two_step import TwoStepFilter, TwoStepValues
        from quickstudy.report.behaviour import stays
        from quickstudy.tasks.two_step import TwoStep

        return _family(
            TwoStep(), self.choices, seed,
            curve_interval=self.choices // 10,
            baselines=lambda: {
                "Bayes-optimal": TwoStepFilter(),
                "model-based": TwoStepValues(*MODEL_BASED, with_model=True),
                "model-free": TwoStepValues(*MODEL_FREE, with_model=False),
            },
            behaviour=stays,
            citations=(DAW,),
        )  # fmt: skip
