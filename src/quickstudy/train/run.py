"""Meta-training: one loop for every learner, objective and meta-optimizer, with lines of metrics, checkpoints and
validations between its steps, and a stop that loses nothing. What a step does is in `loop.py`.
"""

import contextlib
import dataclasses
import os
import time
from typing import Any

from quickstudy.config import ConfigError, Training, errors_in
from quickstudy.core import HeldOut, Learner, MetaOptimizer, Objective, TaskDistribution
from quickstudy.display.events import Listener, Plain, waiting
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.result import Evaluation
from quickstudy.evaluate.run import evaluate
from quickstudy.parallel.mesh import available, peak_memory
from quickstudy.parameters import meta_parameters
from quickstudy.runs import METRICS, RunFolder, digest
from quickstudy.runs.cache import use_compilation_cache
from quickstudy.runs.schema import PARTIAL, TIMING, VALIDATION
from quickstudy.train.checks import (
    Curriculum,
    TrainingFailed,
    all_alike,
    all_finite,
    check_kinds,
    check_line,
    checkpoint_kept,
    stages_of,
)
from quickstudy.train.interrupts import Stop, stop_requests
from quickstudy.train.lines import Line
from quickstudy.train.loop import Loop, Progress

DROWNING = 10.0  # a loss of values, from which on it is said to drown the policy's
CHUNK_SECONDS = 2.0  # that one call of the compiled steps should take: so soon is a signal answered


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
        """Meta-test on the held-out tasks; `changes` are fields of the evaluation, as `num_tasks=1000`. The outcome is
        kept in the run folder, where there is one, for the report; not so when more is changed than how many tasks are
        tested, at once or at all, because what is tested is another thing then."""
        evaluation = dataclasses.replace(self.evaluation, **changes)
        result = evaluate(self.learner, evaluation.objective, self.held_out, evaluation=evaluation)
        if self.run is not None and changes.keys() <= {"num_tasks", "chunk"}:
            summary = {"step": self.about["config"]["meta_steps"], **result.summary()}
            self.run.write_evaluation(summary, result.arrays(), "evaluation")
        return result

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
    evaluation: how to test; by default the training objective on 1,000 held-out tasks
    out: the run folder; None keeps everything in memory
    about: what to write into run.json, so that the run can be distinguished from others and repeated
    resume: go on from the checkpoint of this step in `out` (0: from the beginning)

    Raises ConfigError (nothing started), Incompatible (the parts do not fit), TrainingFailed (diverged),
    FolderInUse, StorageFailed, CheckpointRefused, and Interrupted after SIGINT or SIGTERM, when all is saved.
    """
    config, about = config or Training(), about or {"recipe": None}
    check_kinds(learner, objective, meta_optimizer, tasks)
    stages = stages_of(curriculum, objective, config)
    if wrong := errors_in(config):
        raise ConfigError(wrong)
    learned = meta_parameters(learner)
    if config.meta_steps and not learned:
        raise ConfigError([f"{type(learner).__name__} has no meta-parameters, so nothing is trained: use meta_steps=0"])
    folder = RunFolder(out) if out is not None else None
    splits = tasks.split()
    loop = Loop(learner, meta_optimizer, splits.train, stages, config)
    config = loop.config
    about = {**about, "config": {**about.get("config", {}), **dataclasses.asdict(config)}}
    evaluation = evaluation or EvaluationConfig(objective)
    listener = listener or Plain()
    use_compilation_cache()

    with folder.locked() if folder is not None else contextlib.nullcontext(), stop_requests() as stop:
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
        if config.meta_steps and all_alike(splits.train):
            text = "warning: all tasks are one and the same, so what is learned is learned for it alone"
            listener({"event": "warning", "text": text})
        run = _Run(loop, evaluation, splits.validation, folder, listener, stop)
        with stop.during("training"):
            progress = run.to_the_end(progress, step)
    digests = {name: digest(part) for name, part in progress.parts().items()}
    return Result(progress.learner, splits.test, evaluation, digests, about, folder)


class _Run:
    """From a step to the end: lines of metrics, checkpoints and validations between, and a stop that saves."""

    def __init__(
        self,
        loop: Loop,
        evaluation: EvaluationConfig,
        held_out: HeldOut,
        folder: RunFolder | None,
        listener: Listener,
        stop: Stop,
    ):
        self.loop, self.config, self.folder, self.listener, self.stop = loop, loop.config, folder, listener, stop
        self.held_out = held_out
        nothing_beside = {"baselines": {}, "oracle_value": None, "draw": None, "draw_many": None}
        num = min(evaluation.num_tasks, evaluation.validation_tasks)
        self.validation = dataclasses.replace(evaluation, num_tasks=num, **nothing_beside)  # few programs
        self.saved: int | None = None
        self.pace = 0.0  # seconds a step
        self.warned = False

    def to_the_end(self, progress: Progress, step: int) -> Progress:
        config, self.saved = self.config, step if self.folder and step in self.folder.steps() else None
        self._kept(step)
        line = self._resumed_line(step)
        if step == config.meta_steps:
            self._save(progress, step)
        while step < config.meta_steps:
            stage = self.loop.stage(step)
            self._compile(stage, progress, step)
            interval = config.log_interval
            line_end = min((step // interval + 1) * interval, self.loop.stages[stage][0], config.meta_steps)
            before, began = step, time.perf_counter()
            while step < line_end and self.stop.signum is None:
                progress, step = self._steps(progress, step, line_end, stage, line)
            if step < line_end:
                self._interrupt(progress, step, line)
            seconds = time.perf_counter() - began
            self._write(line, progress, seconds, step - before)
            last_line, line = line.first, Line(step)
            due = step // config.save_interval > last_line // config.save_interval
            if due or step == config.meta_steps or self.stop.signum is not None:
                self._save(progress, step)
            if self.stop.signum is not None:
                raise self.stop.interrupted()
            every = config.validate_interval
            if every > 0 and step < config.meta_steps and step // every > last_line // every:
                self._validate(progress, step)
        return progress

    def _compile(self, stage: int, progress: Progress, step: int) -> None:
        if stage in self.loop.programs:
            return
        if self.stop.signum is not None:
            self._save(progress, step)
            raise self.stop.interrupted()
        self.listener({"event": "compile", "stage": stage, "stages": len(self.loop.stages)})
        before = self.loop.compile_seconds
        leave = lambda: self._save(progress, step) if step else None
        with waiting(self.listener, "compiling"), self.stop.during("compiling", leave=leave):
            self.loop.program(stage, progress)
        self.listener({"event": "compiled", "seconds": round(self.loop.compile_seconds - before, 2)})

    def _steps(self, progress: Progress, step: int, line_end: int, stage: int, line: Line) -> tuple[Progress, int]:
        """As many as one call should take, so that a signal does not wait for the end of a long line."""
        fit = int(CHUNK_SECONDS / self.pace) if self.pace else 1
        beyond = min(line_end, step + max(1, min(fit, self.loop.most_steps)))
        began = time.perf_counter()
        with (
            waiting(self.listener, f"steps {step} to {beyond}"),
            self.stop.during(f"steps {step} to {beyond}"),
        ):
            new, metrics = self.loop.program(stage, progress)(progress, step, beyond)
        seconds = (time.perf_counter() - began) / (beyond - step)
        # A call says little of a step where most of it is the call itself.
        self.pace = seconds if not self.pace else max(seconds, self.pace / 8)
        line.add(metrics)
        return new, beyond

    def _write(self, line: Line, progress: Progress, seconds: float, steps: int) -> None:
        """The line, once it and the learner are found sound."""
        folder, summary = self.folder, line.summary()
        there = folder.steps() if folder is not None else []
        kept = checkpoint_kept(folder.path if folder is not None else None, self.saved or 0, there)
        check_line(summary, line.tasks, line.first, self.config, kept)
        if not all_finite((progress.learner, progress.meta_optimizer)):
            raise TrainingFailed(
                f"the learner is no longer finite after step {summary['step']}; lower the outer learning rate or "
                f"clip{kept}"
            )
        if folder is not None:
            folder.append(METRICS, summary)
            folder.append(TIMING, {"step": summary["step"], "seconds": round(seconds, 6), "steps": steps})
        self._warn_of_values(summary)
        health = {"steps_per_second": steps / seconds, "memory": peak_memory()}
        self.listener({"event": "metrics", **summary, **health})

    def _warn_of_values(self, summary: dict[str, Any]) -> None:
        """Once a run. Of targets in units of the deviation of returns the weighted loss is below 1."""
        loss = summary.get("loss/value")
        if self.warned or loss is None or loss < DROWNING:
            return
        self.warned = True
        text = (
            f"warning: the value's loss is {loss:.3g} at step {summary['step']}, and the policy's gradient may drown "
            "beside it: use Trial(normalise_values=True), or give the value less weight"
        )
        self.listener({"event": "warning", "text": text})

    def _save(self, progress: Progress, step: int) -> None:
        folder = self.folder
        if folder is None or self.saved == step:
            return
        with self.stop.during(f"saving step {step}"):
            folder.save(step, progress.parts(), keep=self.config.keep)
        self.saved = step
        self._kept(step)
        self.listener({"event": "save", "step": step, "path": str(folder.checkpoints / f"{step:08d}")})

    def _kept(self, step: int) -> None:
        if self.folder is None:
            self.stop.kept = "nothing is kept without `out`"
        elif self.saved is not None:
            self.stop.kept = f"saved at step {self.saved} in {self.folder.path}"

    def _interrupt(self, progress: Progress, step: int, line: Line) -> None:
        """Between two lines: what is known of the next one is kept, so that it will be the one it would have been."""
        if self.folder is not None and line.steps:
            self.folder.append(PARTIAL, line.partial())
        self._save(progress, step)
        raise self.stop.interrupted()

    def _resumed_line(self, step: int) -> Line:
        if self.folder is not None:
            for line in self.folder.lines(PARTIAL):
                if line["step"] == step:
                    return Line.resumed(line)
        return Line(step)

    def _validate(self, progress: Progress, step: int) -> None:
        validation, leave = self.validation, lambda: self._save(progress, step)
        try:
            with waiting(self.listener, "validating"), self.stop.during("validating", leave=leave):
                result = evaluate(progress.learner, validation.objective, self.held_out, evaluation=validation)
        except FloatingPointError as error:  # training goes on: what it learns does not depend on who looks
            self.listener({"event": "warning", "text": f"warning: validation at step {step}: {error}"})
            return
        line = {"step": step, "metric": result.metric, "unit": result.unit, "curve": result.curve, "n": result.n}
        if result.diverged:
            line["diverged"] = result.diverged
            text = f"warning: validation at step {step}: not finite in {len(result.diverged)} of {result.n} tasks"
            self.listener({"event": "warning", "text": f"{text}, which are left out"})
        if self.folder is not None:
            self.folder.append(VALIDATION, line)
        self.listener({"event": "validation", **line})


def _load(folder: RunFolder, step: int, template: Progress) -> Progress:
    parts = folder.load(step, template.parts())
    return Progress(parts["learner"], parts["meta_optimizer"], parts["objective"], parts["key"])
