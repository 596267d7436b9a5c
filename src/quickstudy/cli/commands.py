"""What the command line does: list, train, test, resume. `cli.py` reads the words, and says what went wrong.

Nothing here imports JAX until there is something to compute.
"""

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from quickstudy._version import __version__
from quickstudy.config import ConfigError
from quickstudy.display import events, terminal, writers
from quickstudy.recipes import all_recipes
from quickstudy.recipes.base import Recipe


@dataclasses.dataclass(frozen=True)
class Output:
    """How to speak. These options stand after the command."""

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


def list_recipes(output: Output) -> None:
    rows = [
        {
            "name": name,
            "description": cls.description,
            "expected": cls.expected,
            "source": cls.source,
        }
        for name, cls in sorted(all_recipes().items())
    ]
    if output.json:
        print(json.dumps({"status": "ok", "recipes": rows}))
        return
    for row in rows:
        print(f"{row['name']:<22} {row['description']}\n{'':<22} to expect: {row['expected']}")


def train(recipe: Recipe, folder: Path, output: Output, writers: Writers, resume: int | None = None) -> None:
    from quickstudy.cache import use_compilation_cache
    from quickstudy.parallel.mesh import use_cores

    again = f"quickstudy resume {shlex.quote(str(folder))}"
    listener = output.listener(again)
    _hello(output, f"quickstudy {__version__}: {recipe.name}, seed {recipe.seed}, into {folder}")
    try:
        recipe.check()
        use_cores(recipe.devices, recipe.cores)
        use_compilation_cache()  # a learner is made by dozens of small programs
        experiment = recipe.build()
        listener = writers.add(listener, folder, dataclasses.asdict(recipe))
        experiment.train(folder, resume=resume, listener=listener)
    finally:
        events.close(listener)
    test(folder, output)


def test(
    folder: Path,
    output: Output,
    *,
    step: int | None = None,
    tasks: int | None = None,
    other: dict[str, Any] | None = None,
) -> None:
    """Meta-tests what a folder holds, writes the outcome and the report beside it, and says so. A test under `other`
    values of the recipe's fields than in training, or of an earlier checkpoint, leaves the run's own outcome and report
    as they are."""
    from quickstudy.load import load
    from quickstudy.report.page import report
    from quickstudy.runs import RunFolder

    other = other or {}
    run, loaded = RunFolder(folder), load(folder, step=step, **other)
    aside = dict(other) if loaded.step == run.steps()[-1] else {**other, "step": loaded.step}
    assert loaded.experiment is not None and loaded.evaluation is not None
    name = loaded.experiment.recipe.name
    changes: dict[str, Any] = (
        {} if tasks is None else {"num_tasks": tasks, "chunk": min(tasks, loaded.evaluation.chunk)}
    )
    count = changes.get("num_tasks", loaded.evaluation.num_tasks)
    _hello(output, f"testing on {count:,} held-out tasks …")
    with events.waiting(lambda event: _hello(output, event["text"]), "testing"):
        result = loaded.evaluate(**changes)
    summary = {"step": loaded.step, **result.summary(), **({"other": other} if other else {})}
    arrays = {"values": result.values, "curves": result.curves}
    arrays |= {f"trace/{key}": value for key, value in result.traces.items()}
    called = "-".join(["evaluation", *(f"{key}={value}" for key, value in aside.items())])
    run.write_evaluation(summary, arrays, called)
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
    words = ["quickstudy", "evaluate", str(folder), *(["--step", str(step)] if step is not None else [])]
    words += ["--tasks", str(tasks)] if tasks is not None else []
    words += ["--other", *(f"{key}={value}" for key, value in other.items())] if other else []
    print(f"{'outcome' if aside else 'report'}: {page}\ntest again: {shlex.join(words)}")


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


SAFE = {field.name for field in dataclasses.fields(Changes)}


def resume(folder: Path, output: Output, *, step: int | None, changes: Changes, writers: Writers) -> None:
    from quickstudy.load import experiment_of
    from quickstudy.parallel.mesh import choose, use_cores
    from quickstudy.recipes.experiment import fingerprint
    from quickstudy.runs import METRICS, CheckpointRefused, RunFolder

    run = RunFolder(folder)
    about = run.about()
    where = {**about["config"], **changes.given()}
    use_cores(where["devices"], where["cores"])
    experiment = experiment_of(run)
    recipe = experiment.recipe
    at = step if step is not None else (run.newest() or 0)
    if at and at not in run.steps():
        raise CheckpointRefused(f"{run.checkpoints} has no checkpoint of step {at}; it has {run.steps()}")
    recipe = dataclasses.replace(recipe, **changes.given())
    recipe.check()
    if changes.devices is not None:
        devices = choose(changes.devices, recipe.meta_batch, experiment.meta_optimizer.minibatches)
        recipe = dataclasses.replace(recipe, devices=devices)
    saved = run.manifest(at).get("config") if at else None
    now = json.loads(json.dumps(dataclasses.asdict(recipe)))
    changed = {key: (old, now.get(key)) for key, old in (saved or {}).items() if now.get(key) != old}
    said = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
    if changed.keys() - SAFE:
        raise ConfigError([f"the configuration is not the one that step {at} was saved with: {said}"])
    if recipe.meta_steps < at:
        raise ConfigError([f"meta_steps={recipe.meta_steps} lies before step {at}, where the run goes on"])
    if changed:
        _hello(
            output, f"changed: {said}; what follows from that, as schedules or the tasks drawn, changes from here on"
        )
    if not at and run.lines(METRICS):
        _hello(output, f"warning: {run.checkpoints} has no checkpoint left, so the run begins anew")
    made, here = about.get("fingerprint", {}), fingerprint()
    if other := ", ".join(f"{k} was {v}, is {here[k]}" for k, v in made.items() if k in here and here[k] != v):
        _hello(output, f"numerically close, not identical, to the uninterrupted run: {other}")
    train(recipe, folder, output, writers, resume=at)
