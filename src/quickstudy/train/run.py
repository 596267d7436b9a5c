"""Meta-training: one loop for every learner, objective and meta-optimizer, with a line of metrics after each chunk of
steps, checkpoints and validation between, and a stop that loses nothing. What a step does is in `loop.py`.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from quickstudy.config import ConfigError, Training, errors_in
from quickstudy.core import HeldOut, Learner, MetaOptimizer, Objective, TaskDistribution, drawn
from quickstudy.display.events import Listener, Plain, waiting
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.result import Evaluation
from quickstudy.evaluate.run import evaluate
from quickstudy.parallel.mesh import available, peak_memory
from quickstudy.parameters import meta_parameters
from quickstudy.runs import METRICS, RunFolder, digest, named_arrays
from quickstudy.runs.cache import use_compilation_cache
from quickstudy.train.loop import Loop, Progress

Curriculum = Sequence[tuple[int, Objective]]


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says why and what was kept."""


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal, after saving."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


@dataclasses.dataclass(frozen=True)
class Result:
    """A trained learner, and what is needed to test it on tasks it has never seen."""

    learner: Learner
    held_out: HeldOut
    evaluation: EvaluationConfig
    digests: dict[str, str]  # SHA-256 of the learner, the optimiser, the objective's memory and the key
    about: dict[str, Any]  # what run.json says
    run: RunFolder | None

    def evaluate(self, **changes: Any) -> Evaluation:
        """Meta-test on the held-out tasks; `changes` are fields of the protocol, as `num_tasks=1000`."""
        evaluation = dataclasses.replace(self.evaluation, **changes)
        return evaluate(self.learner, evaluation.objective, self.held_out, evaluation=evaluation)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the learner to a folder of its own, to be read by `quickstudy.load(path, like=...)`, or without
        `like` where a recipe made it. Raises ConfigError for the folder of a run, whose checkpoints are its own."""
        folder = RunFolder(path)
        with folder.locked():
            if (folder.path / METRICS).exists():
                raise ConfigError([f"{folder.path} holds a run; save the learner to another folder"])
            folder.note(self.about, anew=True)
            folder.save(0, {"learner": self.learner}, keep=1)


def train(
    learner: Learner,
    objective: Objective,
    meta_optimizer: MetaOptimizer,
    tasks: TaskDistribution,
    *,
    config: Training | None = None,
    evaluation: EvaluationConfig | None = None,
    curriculum: Curriculum = (),
    out: str | os.PathLike | None = None,
    about: dict[str, Any] | None = None,
    resume: int | None = None,
    listener: Listener | None = None,
) -> Result:
    """Meta-trains `learner` on the training split of `tasks`.

    curriculum: (steps, objective) pairs to train on before `objective`, within the same meta_steps
    protocol: how to test; by default the training objective on 1,000 held-out tasks
    out: the run folder; None keeps everything in memory
    about: what to write into run.json, so that the run can be told from others and made again
    resume: go on from the checkpoint of this step in `out` (0: from the beginning)

    Raises ConfigError (nothing started), Incompatible (the parts do not fit), TrainingFailed (diverged),
    FolderInUse, StorageFailed, CheckpointRefused, and Interrupted after SIGINT or SIGTERM, when all is saved.
    """
    config, about = config or Training(), about or {"recipe": None}
    _check_kinds(learner, objective, meta_optimizer, tasks)
    stages = _stages(curriculum, objective, config)
    if wrong := errors_in(config):
        raise ConfigError(wrong)
    learned = meta_parameters(learner)
    if config.meta_steps and not learned:
        raise ConfigError([f"{type(learner).__name__} has no meta-parameters, so nothing is trained: use meta_steps=0"])
    folder = RunFolder(out) if out is not None else None
    if folder is not None and resume is not None and config.devices == 0:
        config = dataclasses.replace(config, devices=folder.about()["config"]["devices"])
    splits = tasks.split()
    loop = Loop(learner, meta_optimizer, splits.train, stages, config)
    config = loop.config
    about = {**about, "config": {**about.get("config", {}), **dataclasses.asdict(config)}}
    evaluation = evaluation or EvaluationConfig(objective)
    listener = listener or Plain()
    use_compilation_cache()

    with folder.locked() if folder is not None else contextlib.nullcontext(), _signals() as stop:
        progress, step = loop.begin(), 0
        if folder is not None:
            if resume:
                progress, step = _load(folder, resume, progress), resume
            elif resume is None and folder.exists:
                raise ConfigError([f"{folder.path} already holds a run; resume it, or choose another folder"])
            elif not folder.exists and folder.steps():
                raise ConfigError([f"{folder.checkpoints} holds what no run of ours made; choose another folder"])
        # A listener that cannot start leaves the folder as it was.
        steps = {"step": step, "meta_steps": config.meta_steps}
        devices = {"devices": config.devices, "devices_there": len(available())}
        listener({"event": "start", "meta_parameters": learned, **steps, **devices})
        if folder is not None:
            folder.note(about, step)
            for text in folder.rewind(step):
                listener({"event": "warning", "text": text})
        if config.meta_steps and _all_alike(splits.train):
            text = "warning: all tasks are one and the same, so what is learned is learned for it alone"
            listener({"event": "warning", "text": text})
        validate = lambda progress, step: _validate(progress, step, evaluation, splits.validation, folder, listener)
        progress = _run(loop, progress, step, config, folder, listener, validate, stop)
    digests = {name: digest(part) for name, part in progress.parts().items()}
    return Result(progress.learner, splits.test, evaluation, digests, about, folder)


def _check_kinds(learner: Any, objective: Any, meta_optimizer: Any, tasks: Any) -> None:
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


def _all_alike(tasks: TaskDistribution, num: int = 8) -> bool:
    arrays = named_arrays(drawn(tasks, num, jax.random.key(0))).values()
    return bool(arrays) and all((array == array[:1]).all() for array in arrays)


def _stages(curriculum: Curriculum, objective: Objective, config: Training) -> list[tuple[int, Objective]]:
    """(first step beyond, objective) for each stage in turn."""
    before = sum(steps for steps, _ in curriculum)
    if curriculum and before >= config.meta_steps:
        raise ConfigError([f"the curriculum takes {before} steps: meta_steps={config.meta_steps} leaves none after it"])
    ends, total = [], 0
    for steps, stage in curriculum:
        total += steps
        ends.append((total, stage))
    return [*ends, (config.meta_steps, objective)]


def _run(
    loop: Loop,
    progress: Progress,
    step: int,
    config: Training,
    folder: RunFolder | None,
    listener: Listener,
    validate: Callable[[Progress, int], None],
    stop: list[int],
) -> Progress:
    """From `step` to the end: chunks of steps, a line of metrics after each, checkpoints between."""
    saved = step

    def save() -> None:
        nonlocal saved
        if folder is not None and (saved != step or step == 0 or not folder.steps()):
            folder.save(step, progress.parts(), keep=config.keep)
            saved = step
            listener({"event": "save", "step": step, "path": str(folder.checkpoints / f"{step:08d}")})

    if step == config.meta_steps:
        save()
    while step < config.meta_steps:
        stage = loop.stage(step)
        if stage not in loop.programs:
            listener({"event": "compile", "stage": stage, "stages": len(loop.stages)})
            before = loop.compile_seconds
            with waiting(listener, "compiling"):
                loop.program(stage, progress)
            listener({"event": "compiled", "seconds": round(loop.compile_seconds - before, 2)})
        line_end = (step // config.log_interval + 1) * config.log_interval
        beyond = min(line_end, loop.stages[stage][0], config.meta_steps)
        began = time.perf_counter()
        with waiting(listener, f"steps {step} to {beyond}"):
            new, metrics = loop.program(stage, progress)(progress, step, beyond)
        seconds = time.perf_counter() - began
        line = _summary(metrics, step, beyond)
        _check(new, line, metrics, step, config, folder, saved)
        before, progress, step = step, new, beyond
        if folder is not None:
            folder.append(METRICS, line)
            folder.append("timing.jsonl", {"step": step, "seconds": round(seconds, 6), "steps": step - before})
        health = {"steps_per_second": (step - before) / seconds, "memory": peak_memory()}
        listener({"event": "metrics", **line, **health})
        if step // config.save_interval > before // config.save_interval or step == config.meta_steps or stop:
            save()
        if stop:
            kept = f"saved at step {step} in {folder.path}" if folder is not None else "nothing is kept without `out`"
            raise Interrupted(stop[0], f"stopped by {signal.Signals(stop[0]).name} after step {step}; {kept}")
        every = config.validate_interval
        if every > 0 and step < config.meta_steps and step // every > before // every:
            validate(progress, step)
    return progress


def _summary(metrics: dict[str, np.ndarray], start: int, stop: int) -> dict[str, Any]:
    """One line: means over steps and tasks, and who diverged (as [step, task], the first ten)."""
    diverged = metrics["diverged"]
    line: dict[str, Any] = {"step": stop, "diverged": int(diverged.sum())}
    for name, values in metrics.items():
        if name == "diverged":
            continue
        values = np.asarray(values, np.float64)
        per_task = values.ndim == 2
        good = values[~diverged] if per_task else values
        line[name] = float(good.mean()) if good.size and np.isfinite(good).all() else None
        if per_task and good.size:
            line[f"{name}_std"] = float(good.std()) if np.isfinite(good).all() else None
    if line["diverged"]:
        where = np.argwhere(diverged)[:10]
        line["diverged_tasks"] = [[int(start + s), int(t)] for s, t in where]
    return line


def _check(
    progress: Progress,
    line: dict,
    metrics: dict[str, np.ndarray],
    step: int,
    config: Training,
    folder: RunFolder | None,
    saved: int,
) -> None:
    kept = ""
    if folder is not None and saved in folder.steps():
        kept = f"; the checkpoint of step {saved} in {folder.path} is kept"
    share = line["diverged"] / metrics["diverged"].size
    if share > config.max_diverged:
        raise TrainingFailed(
            f"{line['diverged']} of {metrics['diverged'].size} tasks diverged in steps {step} to {line['step']} "
            f"(the first: [step, task] {line['diverged_tasks'][0]}), more than max_diverged={config.max_diverged}; "
            f"lower the inner or outer learning rate, or look for NaN in the tasks{kept}"
        )
    leaves = jax.tree.leaves(eqx.filter((progress.learner, progress.meta_optimizer), eqx.is_inexact_array))
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves):
        raise TrainingFailed(
            f"the learner is no longer finite after step {line['step']}; lower the outer learning rate or clip{kept}"
        )


def _validate(
    progress: Progress,
    step: int,
    evaluation: EvaluationConfig,
    tasks: HeldOut,
    folder: RunFolder | None,
    listener: Listener,
) -> None:
    nothing_beside = {
        "baselines": {},
        "oracle_value": None,
        "draw": None,
        "draw_many": None,
    }  # as few programs as can be
    num = min(evaluation.num_tasks, evaluation.validation_tasks)
    small = dataclasses.replace(evaluation, num_tasks=num, **nothing_beside)
    try:
        with waiting(listener, "validating"):
            result = evaluate(progress.learner, evaluation.objective, tasks, evaluation=small)
    except FloatingPointError as error:  # training goes on: what it learns does not depend on who looks
        listener({"event": "warning", "text": f"warning: validation at step {step}: {error}"})
        return
    line = {"step": step, "metric": result.metric, "curve": result.curve, "n": result.n}
    if folder is not None:
        folder.append("validation.jsonl", line)
    listener({"event": "validation", **line})


def _load(folder: RunFolder, step: int, template: Progress) -> Progress:
    parts = folder.load(step, template.parts())
    return Progress(parts["learner"], parts["meta_optimizer"], parts["objective"], parts["key"])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that holds the first SIGINT or SIGTERM once it came; a second one stops at once."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(signum: int, frame: Any) -> None:
        if came:
            raise Interrupted(signum, "stopped at once; the last checkpoint is kept")
        came.append(signum)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
