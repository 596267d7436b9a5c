"""quickstudy: meta-train models and agents that adapt fast, test them on held-out tasks, and show it.

The names below load what they need when they are first used, so importing the package is quick.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from quickstudy._version import __version__ as __version__

if TYPE_CHECKING:
    from quickstudy.axes import num_devices as num_devices
    from quickstudy.axes import scan_replay as scan_replay
    from quickstudy.axes import sum_over_devices as sum_over_devices
    from quickstudy.config import ConfigError as ConfigError
    from quickstudy.config import Training as Training
    from quickstudy.core import Bounded as Bounded
    from quickstudy.core import Fixed as Fixed
    from quickstudy.core import HeldOut as HeldOut
    from quickstudy.core import Incompatible as Incompatible
    from quickstudy.core import Learner as Learner
    from quickstudy.core import MetaOptimizer as MetaOptimizer
    from quickstudy.core import Objective as Objective
    from quickstudy.core import Positive as Positive
    from quickstudy.core import Splits as Splits
    from quickstudy.core import TaskDistribution as TaskDistribution
    from quickstudy.core import unwrap as unwrap
    from quickstudy.data import Categorical as Categorical
    from quickstudy.data import Deterministic as Deterministic
    from quickstudy.data import Episode as Episode
    from quickstudy.data import Gaussian as Gaussian
    from quickstudy.data import Labelled as Labelled
    from quickstudy.data import Output as Output
    from quickstudy.data import Policy as Policy
    from quickstudy.data import Transition as Transition
    from quickstudy.evaluate import Evaluation as Evaluation
    from quickstudy.evaluate import Protocol as Protocol
    from quickstudy.evaluate import evaluate as evaluate
    from quickstudy.learners.adjoints import FirstOrder as FirstOrder
    from quickstudy.learners.adjoints import Implicit as Implicit
    from quickstudy.learners.adjoints import Unrolled as Unrolled
    from quickstudy.learners.gradient import Gradient as Gradient
    from quickstudy.learners.inner_losses import PolicyAndValue as PolicyAndValue
    from quickstudy.learners.inner_losses import PolicyGradient as PolicyGradient
    from quickstudy.learners.inner_losses import Supervised as Supervised
    from quickstudy.learners.matching import Matching as Matching
    from quickstudy.learners.prototypical import Prototypical as Prototypical
    from quickstudy.learners.recurrent import Recurrent as Recurrent
    from quickstudy.learners.updates import SGD as SGD
    from quickstudy.learners.updates import Optax as Optax
    from quickstudy.learners.updates import per_weight as per_weight
    from quickstudy.leaves import meta_parameters as meta_parameters
    from quickstudy.meta_optimizers.backprop import Backprop as Backprop
    from quickstudy.meta_optimizers.evolution import Evolution as Evolution
    from quickstudy.objectives.few_shot import FewShot as FewShot
    from quickstudy.objectives.online import Online as Online
    from quickstudy.objectives.reptile import Reptile as Reptile
    from quickstudy.objectives.trial import Trial as Trial
    from quickstudy.report.page import report as report
    from quickstudy.runs.load import load as load
    from quickstudy.runs.load import recipe as recipe
    from quickstudy.tasks.classes import from_arrays as from_arrays
    from quickstudy.tasks.splits import split_by_stream as split_by_stream
    from quickstudy.train import Result as Result
    from quickstudy.train import train as train

_PUBLIC = {
    "config": ["ConfigError", "Training"],
    "axes": ["num_devices", "scan_replay", "sum_over_devices"],
    "core": [
        "Bounded", "Fixed", "HeldOut", "Incompatible", "Learner", "MetaOptimizer", "Objective", "Positive", "Splits",
        "TaskDistribution", "unwrap",
    ],
    "data": ["Categorical", "Deterministic", "Episode", "Gaussian", "Labelled", "Output", "Policy", "Transition"],
    "evaluate": ["Evaluation", "Protocol", "evaluate"],
    "learners.adjoints": ["FirstOrder", "Implicit", "Unrolled"],
    "learners.gradient": ["Gradient"],
    "learners.inner_losses": ["PolicyAndValue", "PolicyGradient", "Supervised"],
    "learners.matching": ["Matching"],
    "learners.prototypical": ["Prototypical"],
    "learners.recurrent": ["Recurrent"],
    "learners.updates": ["SGD", "Optax", "per_weight"],
    "leaves": ["meta_parameters"],
    "meta_optimizers.backprop": ["Backprop"],
    "meta_optimizers.evolution": ["Evolution"],
    "objectives.few_shot": ["FewShot"],
    "objectives.online": ["Online"],
    "objectives.reptile": ["Reptile"],
    "objectives.trial": ["Trial"],
    "report.page": ["report"],
    "runs.load": ["load", "recipe"],
    "tasks.classes": ["from_arrays"],
    "tasks.splits": ["split_by_stream"],
    "train": ["Result", "train"],
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
    """`train`, `evaluate`, `report` and `load` are verbs here, whichever of the modules they live in was imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
