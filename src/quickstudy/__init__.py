"""quickstudy: meta-train models and agents that adapt fast, test them on held-out tasks, and show it.

The names below load what they need when they are first used, so importing the package is quick.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from quickstudy._version import __version__ as __version__

if TYPE_CHECKING:
    from quickstudy.config import ConfigError as ConfigError
    from quickstudy.config import Training as Training
    from quickstudy.core import HeldOut as HeldOut
    from quickstudy.core import Incompatible as Incompatible
    from quickstudy.core import Learner as Learner
    from quickstudy.core import MetaOptimizer as MetaOptimizer
    from quickstudy.core import Objective as Objective
    from quickstudy.core import Splits as Splits
    from quickstudy.core import TaskDistribution as TaskDistribution
    from quickstudy.core import split_by_stream as split_by_stream
    from quickstudy.data.batches import FewShotTask as FewShotTask
    from quickstudy.data.batches import Labelled as Labelled
    from quickstudy.data.batches import Output as Output
    from quickstudy.data.batches import Transition as Transition
    from quickstudy.data.distributions import Categorical as Categorical
    from quickstudy.data.distributions import Deterministic as Deterministic
    from quickstudy.data.distributions import Gaussian as Gaussian
    from quickstudy.data.distributions import Policy as Policy
    from quickstudy.evaluate.config import EvaluationConfig as EvaluationConfig
    from quickstudy.evaluate.result import Evaluation as Evaluation
    from quickstudy.evaluate.run import evaluate as evaluate
    from quickstudy.learners.gradient.adjoints import FirstOrder as FirstOrder
    from quickstudy.learners.gradient.adjoints import Implicit as Implicit
    from quickstudy.learners.gradient.adjoints import Unrolled as Unrolled
    from quickstudy.learners.gradient.inner_losses import PolicyAndValue as PolicyAndValue
    from quickstudy.learners.gradient.inner_losses import PolicyGradient as PolicyGradient
    from quickstudy.learners.gradient.inner_losses import Supervised as Supervised
    from quickstudy.learners.gradient.maml import Gradient as Gradient
    from quickstudy.learners.gradient.updates import SGD as SGD
    from quickstudy.learners.gradient.updates import Optax as Optax
    from quickstudy.learners.gradient.updates import per_weight as per_weight
    from quickstudy.learners.memory.recurrent import Recurrent as Recurrent
    from quickstudy.learners.metric.matching import Matching as Matching
    from quickstudy.learners.metric.prototypical import Prototypical as Prototypical
    from quickstudy.learners.replay import scan_replay as scan_replay
    from quickstudy.meta_optimizers.backprop import Backprop as Backprop
    from quickstudy.meta_optimizers.evolution import Evolution as Evolution
    from quickstudy.objectives.few_shot import FewShot as FewShot
    from quickstudy.objectives.online import Online as Online
    from quickstudy.objectives.reptile import Reptile as Reptile
    from quickstudy.objectives.trial import Trial as Trial
    from quickstudy.parallel.reduce import num_devices as num_devices
    from quickstudy.parallel.reduce import sum_over_devices as sum_over_devices
    from quickstudy.parameters import Bounded as Bounded
    from quickstudy.parameters import Frozen as Frozen
    from quickstudy.parameters import Positive as Positive
    from quickstudy.parameters import meta_parameters as meta_parameters
    from quickstudy.parameters import unwrap as unwrap
    from quickstudy.report.page import report as report
    from quickstudy.runs.load import load as load
    from quickstudy.runs.load import recipe as recipe
    from quickstudy.tasks.classes import from_arrays as from_arrays
    from quickstudy.train.run import Result as Result
    from quickstudy.train.run import train as train

_PUBLIC = {
    "config": ["ConfigError", "Training"],
    "core": [
        "HeldOut", "Incompatible", "Learner", "MetaOptimizer", "Objective", "Splits", "TaskDistribution",
        "split_by_stream",
    ],
    "data.batches": ["FewShotTask", "Labelled", "Output", "Transition"],
    "data.distributions": ["Categorical", "Deterministic", "Gaussian", "Policy"],
    "evaluate.config": ["EvaluationConfig"],
    "evaluate.result": ["Evaluation"],
    "evaluate.run": ["evaluate"],
    "learners.gradient.adjoints": ["FirstOrder", "Implicit", "Unrolled"],
    "learners.gradient.inner_losses": ["PolicyAndValue", "PolicyGradient", "Supervised"],
    "learners.gradient.maml": ["Gradient"],
    "learners.gradient.updates": ["Optax", "SGD", "per_weight"],
    "learners.memory.recurrent": ["Recurrent"],
    "learners.metric.matching": ["Matching"],
    "learners.metric.prototypical": ["Prototypical"],
    "learners.replay": ["scan_replay"],
    "meta_optimizers.backprop": ["Backprop"],
    "meta_optimizers.evolution": ["Evolution"],
    "objectives.few_shot": ["FewShot"],
    "objectives.online": ["Online"],
    "objectives.reptile": ["Reptile"],
    "objectives.trial": ["Trial"],
    "parallel.reduce": ["num_devices", "sum_over_devices"],
    "parameters": ["Bounded", "Frozen", "Positive", "meta_parameters", "unwrap"],
    "report.page": ["report"],
    "runs.load": ["load", "recipe"],
    "tasks.classes": ["from_arrays"],
    "train.run": ["Result", "train"],
}  # fmt: skip
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'quickstudy' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"quickstudy.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(types.ModuleType):
    """`train`, `evaluate`, `report` and `load` are functions here, whichever modules of these names were imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
