"""What the command line does: train, test, resume. `main.py` reads the words, and says what went wrong.

Nothing here imports JAX until there is something to compute.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quickstudy._version import __version__
from quickstudy.cli import limits
from quickstudy.config import ConfigError
from quickstudy.display import events, terminal, writers
from quickstudy.recipes import Recipe, configure
from quickstudy.runs.errors import CheckpointRefused
from quickstudy.runs.files import canonical
from quickstudy.runs.lock import FolderLock
from quickstudy.runs.own import recipe_of
from quickstudy.runs.reader import changed, read_run
from quickstudy.runs.schema import MAY_CHANGE, METRICS
from quickstudy.train.interrupts import stop_requests


@dataclasses.dataclass(frozen=True)
class Output:
    """What is printed. These options come after the command."""

    json: bool = False
    """Every line on stdout is a JSON object; the last one is the result."""
    quiet: bool = False
    """Only the result."""
    debug: bool = False
    """Show tracebacks."""

    def listener(self, resume: str | None = None) -> events.Listener:
        if self.quiet:
            return events.quiet
        if self.json:
            return events.Json()
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            return terminal.Live(resume)
        return events.Plain()


@dataclasses.dataclass(frozen=True)
class Writers:
    """Where metrics go beside the run folder."""

    tensorboard: bool = False
    """Also write TensorBoard events into the run folder (extra `tensorboard`)."""
    wandb: str | None = None
    """Also log to Weights & Biases, under this project (extra `wandb`)."""

    def add(self, listener: events.Listener, folder: Path, config: dict[str, Any]) -> events.Listener:
        extra: list[events.Listener] = []
        if self.tensorboard:
            extra.append(writers.TensorBoard(str(folder / "tensorboard")))
        if self.wandb:
            extra.append(writers.WeightsAndBiases(project=self.wandb, config=config))
        return events.Together(listener, *extra) if extra else listener


def train(recipe: Recipe, folder: Path, output: Output, writers: Writers) -> None:
    recipe.check()
    limits.check()
    lock = FolderLock(folder)
    with lock.held():  # before JAX is imported, so that a second writer is refused at once
        if Path(folder, "run.json").exists():
            raise ConfigError([f"{folder} already holds a run; resume it, or choose another folder"])
        _train(recipe, lock, output, writers)


def _train(recipe: Recipe, folder: FolderLock, output: Output, writers: Writers, resume: int | None = None) -> None:
    from quickstudy.parallel.mesh import use_cores
    from quickstudy.runs.cache import use_compilation_cache

    listener = output.listener(again("resume", folder.path, recipe.reference))
    _hello(output, f"quickstudy {__version__}: {recipe.title}, seed {recipe.training.seed}, into {folder.path}")
    try:
        use_cores(recipe.training.devices, recipe.training.cores)
        use_compilation_cache()  # a learner is made by dozens of small programs
        with doing("building"):
            experiment = recipe.build()
        listener = writers.add(listener, folder.path, recipe.values())
        with doing("training"):
            experiment.train(folder, resume=resume, listener=listener)
    finally:
        events.close(listener)
    test(folder.path, output, own=recipe.reference)


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """What goes wrong within went wrong while this was done."""
    try:
        yield
    except Exception as error:
        error.doing = what  # type: ignore[attr-defined]
        raise


def again(command: str, folder: Path, own: str | None = None, *words: str) -> str:
    """The command that goes on with a run. One of a recipe of a person's own has to name it again."""
    return shlex.join(["quickstudy", command, str(folder), *(["--recipe", own] if own else []), *words])


def test(
    folder: Path,
    output: Output,
    *,
    step: int | None = None,
    tasks: int | None = None,
    other: dict[str, Any] | None = None,
    own: str | None = None,
) -> None:
    """Meta-tests what a folder holds, writes the outcome and the report beside it, and says so. A test under `other`
    values of the recipe's fields than in training, or of an earlier checkpoint, leaves the run's own outcome and report
    as they are."""
    from quickstudy.report.page import report
    from quickstudy.runs.folder import RunFolder
    from quickstudy.runs.load import load

    other = other or {}
    run, loaded = RunFolder(folder), load(folder, recipe=own, step=step, **other)
    aside = dict(other) if loaded.step == run.steps()[-1] else {**other, "step": loaded.step}
    assert loaded.experiment is not None and loaded.evaluation is not None
    name = loaded.experiment.recipe.title
    changes: dict[str, Any] = (
        {} if tasks is None else {"num_tasks": tasks, "chunk": min(tasks, loaded.evaluation.chunk)}
    )
    count = changes.get("num_tasks", loaded.evaluation.num_tasks)
    _hello(output, f"testing on {count:,} held-out tasks …")
    with doing("testing"), stop_requests() as stop, stop.during("testing", leave=lambda: None):
        result = loaded.evaluate(listener=_told_while_testing(output), **changes)
    summary = {"step": loaded.step, **result.summary(), **({"other": other} if other else {})}
    called = "-".join(["evaluation", *(f"{key}={value}" for key, value in aside.items())])
    run.write_evaluation(summary, result.arrays(), called)
    page = folder / f"{called}.json" if aside else report([folder])
    if output.json:
        last = {"status": "ok", "recipe": name, "run": str(folder), **summary, "report": str(page)}
        print(json.dumps(last, allow_nan=False), flush=True)
        return
    better = "lower" if result.lower_is_better else "higher"
    print(
        f"\n{name}: {result.metric} {result.score:.4g} [{result.ci[0]:.4g}, {result.ci[1]:.4g}] ({better} is better), ",
        end="",
    )
    print(f"{result.n:,} held-out tasks, 95 % interval\n  {events.curve_line(result.curve, 11)}")
    for baseline, theirs in result.baselines.items():
        gap = theirs["difference"]
        low, high = gap["ci"]
        print(f"  {baseline}: {theirs['score']:.4g}; ours minus it {gap['mean']:+.4g} [{low:+.4g}, {high:+.4g}]")
    if result.note:
        print(f"  {result.note}")
    if result.diverged:
        print(f"  not finite, left out: tasks {result.diverged[:10]}{' …' if len(result.diverged) > 10 else ''}")
    words = ["--step", str(step)] if step is not None else []
    words += ["--tasks", str(tasks)] if tasks is not None else []
    words += ["--other", *(f"{key}={value}" for key, value in other.items())] if other else []
    print(f"{'outcome' if aside else 'report'}: {page}\ntest again: {again('evaluate', folder, own, *words)}")


def _told_while_testing(output: Output) -> events.Listener:
    """Says which learner is tested, where the ones before it took a while."""
    began = time.monotonic()

    def show(event: Mapping[str, Any]) -> None:
        if event["number"] > 1 and time.monotonic() - began > 5:
            _hello(output, f"testing {event['name']} ({event['number']} of {event['of']}) …")

    return show


def _hello(output: Output, line: str) -> None:
    if not output.quiet:
        print(json.dumps({"event": "text", "text": line}) if output.json else line, flush=True)


@dataclasses.dataclass(frozen=True)
class Changes:
    """What may be another when a run goes on; every other field stays as it was."""

    meta_steps: int | None = None
    """Train up to this step instead."""
    log_every: int | None = None
    """Meta-steps between two lines of metrics."""
    save_every: int | None = None
    """Meta-steps between two checkpoints."""
    validate_every: int | None = None
    """Meta-steps between two validations; -1: never."""
    max_diverged: float | None = None
    """Fail when more than this fraction of the tasks between two lines diverge."""
    keep: int | None = None
    """Checkpoints kept, the newest."""
    test_tasks: int | None = None
    """Held-out tasks in the final test."""
    devices: int | None = None
    """Share the tasks by so many from here on, which draw others than before."""
    cores: int | None = None
    """Use no more than so many of a CPU from here on."""

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def resume(
    folder: Path, output: Output, *, step: int | None, changes: Changes, writers: Writers, own: str | None = None
) -> None:
    limits.check()
    run = read_run(folder)  # before the lock, which makes a folder
    lock = FolderLock(folder)
    with lock.held():
        recipe, at = _to_go_on_with(lock, output, recipe_of(run, folder, own), step, changes)
        _train(recipe, lock, output, writers, resume=at)


def _to_go_on_with(
    folder: FolderLock, output: Output, name: str, step: int | None, changes: Changes
) -> tuple[Recipe, int]:
    """The recipe with its changes, and the step to go on from."""
    from quickstudy.parallel.mesh import choose, use_cores
    from quickstudy.recipes.experiment import fingerprint
    from quickstudy.runs.folder import RunFolder

    run = RunFolder(folder)
    about = run.about()
    at = step if step is not None else (run.newest() or 0)
    if at and at not in run.steps():
        raise CheckpointRefused(f"{run.checkpoints} has no checkpoint of step {at}; it has {run.steps()}")
    saved = (run.manifest(at)["config"] if at else None) or about["config"]
    where = {**about["config"], **changes.given()}
    use_cores(where["devices"], where["cores"])
    recipe = configure(name, dict(about["config"])).changed(**changes.given())
    recipe.check()
    if changes.devices is not None:
        experiment = recipe.build()
        devices = choose(changes.devices, experiment.meta_optimizer.groups(recipe.training.meta_batch))
        recipe = recipe.changed(devices=devices)
    now = json.loads(canonical(recipe.values()))
    difference = changed(*({name: config.get(name) for name in MAY_CHANGE} for config in (saved, now)))
    if recipe.training.meta_steps < at:
        raise ConfigError([f"meta_steps={recipe.training.meta_steps} lies before step {at}, where the run goes on"])
    if difference:
        _hello(
            output,
            f"changed: {difference}; what follows from that, as schedules or the tasks drawn, changes from here on",
        )
    if not at and os.path.exists(run.path / METRICS):
        _hello(output, f"warning: {run.checkpoints} has no checkpoint left, so the run begins anew")
    made, here = about.get("fingerprint", {}), fingerprint()
    if other := ", ".join(f"{k} was {v}, is {here[k]}" for k, v in made.items() if k in here and here[k] != v):
        _hello(output, f"numerically close, not identical, to the uninterrupted run: {other}")
    return recipe, at
