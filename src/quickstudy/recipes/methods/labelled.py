"""From a learner of labelled examples to a composition."""

from typing import Any

import quickstudy as qs
from quickstudy.config import Training
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, LabelledFamily

FINN = "Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML"


def composed(
    family: LabelledFamily,
    training: Training,
    outer: Gradient | Evolution,
    learner: Any,
    *,
    objective: Any = None,
    steps: tuple[int, ...] | None = None,
    baselines: dict[str, Any] | None = None,
    citations: tuple[str, ...] = (),
) -> Composition:
    """steps: numbers of inner steps to test after; None: of learners that take none
    objective: what to train for, where it is not what is judged
    baselines: others than the family's
    """
    evaluation = qs.EvaluationConfig(
        family.objective,
        steps=steps,
        baselines=family.baselines() if baselines is None else baselines,
        draw=family.draw,
        note=family.note,
    )
    return Composition(
        learner=learner,
        objective=objective or family.objective,
        meta_optimizer=outer.meta_optimizer(training, family.task_bytes),
        evaluation=evaluation,
        citations=citations,
    )
