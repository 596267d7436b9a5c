"""RL² on the two-step task (Wang et al. 2016, section 3.2.1): a recurrent network, trained without any model, that
behaves as if it had one.

A trial is 100 choices. The stay-probability figure is computed on the held-out tasks, beside agents that have a model
and that have none.
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.rl2 import RL2, WANG

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment

DAW = (
    "Daw, Gershman, Seymour, Dayan, Dolan 2011, Model-based influences on humans' choices and striatal prediction "
    "errors, Neuron"
)
# (rate, sharpness), each the best of a grid on validation tasks.
MODEL_FREE, MODEL_BASED = (0.3, 20.0), (0.6, 20.0)


@dataclasses.dataclass(frozen=True)
class TwoStepRL2(RL2):
    meta_steps: int = 200
    meta_batch: int = 128
    minibatches: int = 4
    size: int = 48
    test_tasks: int = 2000
    choices: int = 100  # of a trial, at the first step
    learning_rate: float = 4e-3
    value: float = 0.02
    gae_lambda: float = 0.9
    discount: float = 0.9  # γ of the returns, the paper's
    curriculum: tuple[tuple[int, int], ...] = ((40, 20),)

    name = "two-step-rl2"
    description = "RL² on the two-step task: an agent trained without a model that behaves as if it had one"
    expected = "100 choices: 70.4 where the optimum has 70.5 and a model-free agent 65.4; it stays as a model-based one"
    source = WANG

    def errors(self) -> list[str]:
        wrong = super().errors()
        return wrong + self.must("be a multiple of 10, at least 10", lambda x: x >= 10 and x % 10 == 0, "choices")

    @property
    def length(self) -> int:
        return self.choices

    def build(self) -> "Experiment":
        from quickstudy.baselines.two_step import TwoStepFilter, TwoStepValues
        from quickstudy.report.behaviour import stays
        from quickstudy.tasks.two_step import TwoStep

        experiment = self.compose(
            TwoStep(),
            curve_interval=self.choices // 10,
            baselines={
                "Bayes-optimal": TwoStepFilter(),
                "model-based": TwoStepValues(*MODEL_BASED, with_model=True),
                "model-free": TwoStepValues(*MODEL_FREE, with_model=False),
            },
            behaviour=stays,
        )
        return dataclasses.replace(experiment, citations=(DAW, *experiment.citations))
