"""From a name or a folder to something that can be used."""

import dataclasses
import os
from typing import Any

from quickstudy.cache import use_compilation_cache
from quickstudy.config import ConfigError
from quickstudy.core import HeldOut, Learner
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.result import Evaluation
from quickstudy.evaluate.run import evaluate
from quickstudy.recipes import configure
from quickstudy.recipes.experiment import Experiment
from quickstudy.runs import CheckpointRefused, RunFolder


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained learner read from a folder; where a recipe made it, with the way to test it."""

    learner: Learner
    step: int
    experiment: Experiment | None

    @property
    def evaluation(self) -> EvaluationConfig | None:
        return self.experiment.evaluation if self.experiment else None

    def evaluate(self, held_out: HeldOut | None = None, **changes: Any) -> Evaluation:
        """Meta-tests as the recipe says; `changes` are fields of its protocol."""
        if self.experiment is None:
            raise ValueError("no recipe made this learner: use quickstudy.evaluate with your own objective and tasks")
        evaluation = dataclasses.replace(self.experiment.evaluation, **changes)
        held_out = held_out or self.experiment.tasks.split().test
        return evaluate(self.learner, evaluation.objective, held_out, evaluation=evaluation)


def recipe(name: str, **values: Any) -> Experiment:
    """A recipe, built, with these values of its fields: `recipe("sinusoid-maml", seed=1).train("runs/1")`."""
    return _built(name, values)


def _built(name: str, values: dict[str, Any]) -> Experiment:
    use_compilation_cache()  # a learner is made by dozens of small programs
    return configure(name, values).build()


def experiment_of(folder: RunFolder, **values: Any) -> Experiment:
    """The experiment that a run folder holds, with these values of its recipe's fields in place of its own."""
    about = folder.about()
    if not about.get("recipe"):
        raise ValueError(f"{folder.path} was not made by a recipe: give `like=`, a learner of the same structure")
    of = lambda **values: _built(about["recipe"], {**about["config"], **values})
    experiment = of(**values)
    held_out = lambda experiment: getattr(experiment.tasks, "parts", None)
    if values and held_out(experiment) != held_out(of()):
        raise ConfigError([f"{values} would test on what was trained on: leave what is held out as it was"])
    return experiment


def load(path: str | os.PathLike, *, like: Learner | None = None, step: int | None = None, **values: Any) -> Loaded:
    """The learner of a run folder, or of what `Result.save` wrote, at its newest checkpoint or that of `step`: as it is
    tested, without what only training needs.

    like: a learner of the same structure, where no recipe made it
    values: fields of the recipe that differ from training, as `ways=20` for a test on tasks of 20 classes

    Raises FileNotFoundError when there is no run, and CheckpointRefused, naming the file, when a byte of the checkpoint
    is wrong or it is of another model.
    """
    folder = RunFolder(path)
    experiment = experiment_of(folder, **values) if like is None else None
    steps = folder.steps()
    if not steps or (step is not None and step not in steps):
        raise CheckpointRefused(f"{folder.checkpoints} has no checkpoint{'' if step is None else f' of step {step}'}")
    chosen = steps[-1] if step is None else step
    template = like if like is not None else experiment.learner  # type: ignore[union-attr]
    learner = folder.load(chosen, {"learner": template})["learner"]
    if experiment is not None and experiment.evaluation.eval_view is not None:
        learner = experiment.evaluation.eval_view(learner)
    return Loaded(learner, chosen, experiment)
