"""What is checked before and while training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from quickstudy.config import ConfigError, Training
from quickstudy.core import Learner, MetaOptimizer, Objective, TaskDistribution, drawn
from quickstudy.runs import named_arrays

Curriculum = Sequence[tuple[int, Objective]]


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says why and what was kept."""


def check_kinds(learner: Any, objective: Any, meta_optimizer: Any, tasks: Any) -> None:
    """Raises ConfigError where one of the four is something else."""
    kinds = {
        "learner": (learner, Learner, ""),
        "objective": (objective, Objective, ""),
        "meta-optimizer": (meta_optimizer, MetaOptimizer, "; an optax transformation goes into Backprop(...)"),
        "task distribution": (tasks, TaskDistribution, "; held-out tasks are for tests"),
    }
    wrong = [
        f"train takes a {kind.__name__} for its {name}, got {type(value).__name__}{hint}"
        for name, (value, kind, hint) in kinds.items() if not isinstance(value, kind)
    ]  # fmt: skip
    if wrong:
        raise ConfigError(wrong)


def all_alike(tasks: TaskDistribution, num: int = 8) -> bool:
    """Whether so many tasks are one and the same."""
    arrays = named_arrays(drawn(tasks, jax.random.split(jax.random.key(0), num))).values()
    return bool(arrays) and all((array == array[:1]).all() for array in arrays)


def stages_of(curriculum: Curriculum, objective: Objective, config: Training) -> list[tuple[int, Objective]]:
    """(first step beyond, objective) for each stage in turn."""
    before = sum(steps for steps, _ in curriculum)
    if curriculum and before >= config.meta_steps:
        raise ConfigError([f"the curriculum takes {before} steps: meta_steps={config.meta_steps} leaves none after it"])
    ends, total = [], 0
    for steps, stage in curriculum:
        total += steps
        ends.append((total, stage))
    return [*ends, (config.meta_steps, objective)]


@eqx.filter_jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number of it is finite: one program and one answer for all leaves."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.ones((), bool)]).all()


def check_line(line: dict[str, Any], tasks: int, first: int, config: Training, kept: str) -> None:
    """Raises TrainingFailed where too many of the `tasks` since step `first` diverged."""
    if line["diverged"] > config.max_diverged * tasks:
        raise TrainingFailed(
            f"{line['diverged']} of {tasks} tasks diverged in steps {first} to {line['step']} "
            f"(the first: [step, task] {line['diverged_tasks'][0]}), more than max_diverged={config.max_diverged}; "
            f"lower the inner or outer learning rate, or look for NaN in the tasks{kept}"
        )


def checkpoint_kept(path: Path | None, step: int, steps: list[int]) -> str:
    """The end of a message that says which checkpoint there is."""
    return f"; the checkpoint of step {step} in {path} is kept" if path is not None and step in steps else ""
