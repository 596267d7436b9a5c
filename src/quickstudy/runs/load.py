"""From a name or a folder to something that can be used."""

import dataclasses
import os
from typing import Any

from quickstudy.config import ConfigError
from quickstudy.core import HeldOut, Learner
from quickstudy.display.events import Listener, quiet
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.result import Evaluation
from quickstudy.evaluate.run import evaluate
from quickstudy.recipes import configure
from quickstudy.recipes.experiment import Experiment
from quickstudy.runs.cache import use_compilation_cache
from quickstudy.runs.errors import refused
from quickstudy.runs.folder import RunFolder
from quickstudy.runs.own import recipe_of


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained learner read from a folder; where a recipe made it, with the way to test it."""

    learner: Learner
    step: int
    experiment: Experiment | None

    @property
    def evaluation(self) -> EvaluationConfig | None:
        return self.experiment.evaluation if self.experiment else None

    def evaluate(self, held_out: HeldOut | None = None, *, listener: Listener = quiet, **changes: Any) -> Evaluation:
        """Meta-tests as the recipe says; `changes` are fields of its EvaluationConfig."""
        if self.experiment is None:
            raise ValueError("no recipe made this learner: use quickstudy.evaluate with your own objective and tasks")
        evaluation = dataclasses.replace(self.experiment.evaluation, **changes)
        held_out = held_out or self.experiment.tasks.split().test
        return evaluate(self.learner, evaluation.objective, held_out, evaluation=evaluation, listener=listener)


def recipe(name: str, **values: Any) -> Experiment:
    """A recipe, built, with these values of its fields: `recipe("sinusoid-maml", seed=1).train("runs/1")`. One of your
    own is named as "file.py:Class" or "module:Class", which imports it."""
    return _built(name, values)


def _built(name: str, values: dict[str, Any]) -> Experiment:
    use_compilation_cache()  # a learner is made by dozens of small programs
    return configure(name, values).build()


def experiment_of(folder: RunFolder, *, own: str | None = None, **values: Any) -> Experiment:
    """The experiment that a run folder holds, with these values of its recipe's fields in place of its own.

    own: the recipe, where it is a class outside of quickstudy, as "file.py:Class"; it is imported
    """
    about: Any = folder.about()
    name = recipe_of(about, folder.path, own)
    of = lambda **values: _built(name, {**about["config"], **values})
    experiment = of(**values)
    identity = lambda experiment: experiment.tasks.split().test.identity()
    if values and identity(experiment) != identity(of()):
        raise ConfigError([f"{values} would test on what was trained on: leave what is held out as it was"])
    return experiment


def load(
    path: str | os.PathLike,
    *,
    like: Learner | None = None,
    recipe: str | None = None,
    step: int | None = None,
    **values: Any,
) -> Loaded:
    """The learner of a run folder, or of what `Result.save` wrote, at its newest checkpoint or that of `step`: as it is
    tested, without what only training needs. A folder is data: nothing that it names is imported.

    like: a learner of the same structure, where no recipe made it
    recipe: "file.py:Class", where a class of your own made it; the file is imported, if it is the one that did
    values: fields of the recipe that differ from training, as `ways=20` for a test on tasks of 20 classes

    Raises FileNotFoundError when there is no run, and CheckpointRefused, naming the file, when a byte of the folder is
    wrong or it is of another model.
    """
    folder = RunFolder(path)
    folder.about()
    steps = folder.steps()
    if not steps or (step is not None and step not in steps):
        which, mend = "" if step is None else f" of step {step}", f"it has {steps}" if steps else "it has none"
        raise refused(folder.checkpoints, f"has no checkpoint{which}", mend)
    chosen = steps[-1] if step is None else step
    folder.manifest(chosen)  # before anything is built of what run.json says
    experiment = experiment_of(folder, own=recipe, **values) if like is None else None
    template = like if like is not None else experiment.learner  # type: ignore[union-attr]
    learner = folder.load(chosen, {"learner": template})["learner"]
    if experiment is not None and experiment.evaluation.eval_view is not None:
        learner = experiment.evaluation.eval_view(learner)
    return Loaded(learner, chosen, experiment)
