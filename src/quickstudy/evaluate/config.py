"""How to test a learner."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, PyTree
from numpy.typing import NDArray

from quickstudy.core import Learner, Objective

Trace = Callable[[Learner, "EvaluationConfig", PyTree, PyTree], dict[str, NDArray]]
Behaviour = Callable[[PyTree, PyTree], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How to test.

    objective: what is measured (its horizon may be longer than in training)
    steps: numbers of gradient steps to rebuild the learner with, one point of the curve each
    baselines: other learners on the same tasks, by name
    tested: the learner -> as it is tested: without what only training needs, as exploration
    oracle_value: (tasks) -> the best possible value of each task, in the metric's units
    draw: (learner, protocol, task, what was lived) -> arrays that draw one task; see quickstudy.report
    survey: (learner, protocol, tasks, what was lived) -> arrays that draw the first chunk of tasks together
    behaviour: (tasks, what was lived) -> what was done, by name: arrays with a leading task axis, NaN where a task has
        nothing to say of it; of the learner and of each baseline. See quickstudy.report
    chunk: tasks lived at once
    note: what has to be said with every result, as that it is transductive
    """

    objective: Objective
    num_tasks: int = 1000
    validation_tasks: int = 100
    steps: tuple[int, ...] | None = None
    baselines: Mapping[str, Learner] = dataclasses.field(default_factory=dict)
    eval_view: Callable[[Learner], Learner] | None = None
    oracle_value: Callable[[PyTree], Any] | None = None
    draw: Trace | None = None
    draw_many: Trace | None = None
    behaviour: Behaviour | None = None
    chunk: int = 100
    seed: int = 0
    note: str = ""
