"""A recipe, built: the four nouns and how they are trained and tested."""

import dataclasses
import os
import platform
from typing import Any

import jax
import jaxlib

from quickstudy._version import __version__
from quickstudy.core import Learner, MetaOptimizer, Objective, TaskDistribution
from quickstudy.display.events import Listener
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.meta_optimizers.backprop import tasks_at_once
from quickstudy.nn import convolution
from quickstudy.recipes.compose import Recipe
from quickstudy.train.checks import Curriculum
from quickstudy.train.run import Result, train


@dataclasses.dataclass(frozen=True)
class Experiment:
    recipe: Recipe
    learner: Learner
    objective: Objective
    meta_optimizer: MetaOptimizer
    tasks: TaskDistribution
    evaluation: EvaluationConfig
    curriculum: Curriculum = ()
    citations: tuple[str, ...] = ()

    def train(
        self,
        out: str | os.PathLike | None = None,
        *,
        resume: int | None = None,
        listener: Listener | None = None,
    ) -> Result:
        """Meta-trains as the recipe says; see quickstudy.train."""
        return train(
            self.learner,
            self.objective,
            self.meta_optimizer,
            self.tasks,
            config=self.recipe.training,
            evaluation=self.evaluation,
            curriculum=self.curriculum,
            out=out,
            about={**self.recipe.about(), "citations": list(self.citations), "fingerprint": fingerprint()},
            resume=resume,
            listener=listener,
        )


def built(recipe: Recipe) -> Experiment:
    """The family's tasks and what the method makes of them."""
    family = recipe.tasks.build(recipe.meets, recipe.training.seed)
    made = recipe.method.build(family, recipe.training)
    num = recipe.testing.test_tasks
    chunk = made.evaluation.chunk
    if size := family.task_bytes:
        chunk = tasks_at_once(num, size) or 50
    return Experiment(
        recipe,
        made.learner,
        made.objective,
        made.meta_optimizer,
        made.tasks or family.tasks,
        dataclasses.replace(made.evaluation, num_tasks=num, chunk=min(num, chunk)),
        made.curriculum,
        tuple(dict.fromkeys((recipe.source, *made.citations, *family.citations))),
    )


def fingerprint() -> dict[str, Any]:
    """What the bits depend on beside the configuration: resuming on another one is close, not identical."""
    return {
        "quickstudy": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": jax.devices()[0].device_kind,
        "convolution": convolution.settings(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
