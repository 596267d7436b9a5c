"""How to test a learner."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import PyTree

from quickstudy.core import Learner, Objective


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What is recorded of held-out tasks so that they can be drawn.

    kind: names the picture (quickstudy.report.drawings); what is of no known kind is recorded and not drawn
    arrays: returns the arrays by name; what it is given depends on the field of `EvaluationConfig` it stands in
    """

    kind: str
    arrays: Callable[..., Mapping[str, Any]]

    def __call__(self, *args: Any) -> Mapping[str, Any]:
        return self.arrays(*args)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How to test.

    objective: what is measured; its trials may be longer than in training
    num_tasks, validation_tasks: held-out tasks in the test, and in each validation while training
    steps: numbers of gradient steps to rebuild the learner with, one point of the curve each
    baselines: other learners on the same tasks, by name
    eval_view: makes the learner that is tested of the one that is trained: without what only training needs, as
        exploration
    oracle_value: (tasks) -> the best possible value of each task, in the metric's units
    draw: the picture of a task, arrays(learner, config, task, rollout); of the worst, the median and the best tasks
    draw_many: the picture of the first chunk of tasks together, arrays(learner, config, tasks, rollouts)
    behaviour: measures of the learner and of each baseline, arrays(tasks, rollouts) with a leading task axis, NaN
        where a task has none; recorded are their means over tasks
    chunk: tasks that are rolled out at once; it changes no result
    seed: of the rollouts' keys
    note: a remark that is printed with every result, as that it is transductive
    """

    objective: Objective
    num_tasks: int = 1000
    validation_tasks: int = 100
    steps: tuple[int, ...] | None = None
    baselines: Mapping[str, Learner] = dataclasses.field(default_factory=dict)
    eval_view: Callable[[Learner], Learner] | None = None
    oracle_value: Callable[[PyTree], Any] | None = None
    draw: Drawing | None = None
    draw_many: Drawing | None = None
    behaviour: Drawing | None = None
    chunk: int = 100
    seed: int = 0
    note: str = ""
