"""The command line: list, train, resume, evaluate, report.

Exit codes: 0 done; 2 bad command, configuration or data, nothing started; 3 the run failed; 4 checkpoint refused;
5 folder in use; 6 storage; 7 device or memory; 130 Ctrl-C and 143 SIGTERM, both after saving. One clear message,
no traceback without --debug. Nothing here imports JAX until there is something to compute.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from quickstudy import display
from quickstudy._version import __version__
from quickstudy.config import ConfigError
from quickstudy.recipes import all_recipes, get
from quickstudy.recipes.base import Recipe
from quickstudy.recipes.terms import explained

EXIT = {
    "ConfigError": 2, "Incompatible": 2, "DataError": 2,
    "FileNotFoundError": 2, "ImportError": 2, "ModuleNotFoundError": 2,
    "TrainingFailed": 3, "FloatingPointError": 3,
    "CheckpointRefused": 4, "FolderInUse": 5, "StorageFailed": 6,
    "MemoryError": 7, "XlaRuntimeError": 7, "JaxRuntimeError": 7,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Output:
    """How to speak. These options stand after the command."""

    json: bool = False
    """Every line on stdout is a JSON object; the last one is the result."""
    quiet: bool = False
    """Only the result."""
    debug: bool = False
    """Show tracebacks."""

    def listener(self, resume: str | None = None) -> display.Listener:
        if self.quiet:
            return display.quiet
        if self.json:
            return display.Json()
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            return display.Live(resume)
        return display.Plain()


@dataclasses.dataclass(frozen=True)
class Writers:
    """Where metrics go beside the run folder."""

    tensorboard: bool = False
    """Also write TensorBoard events into the run folder (extra `tensorboard`)."""
    wandb: str | None = None
    """Also log to Weights & Biases, under this project (extra `wandb`)."""

    def add(self, listener: display.Listener, folder: Path, config: dict[str, Any]) -> display.Listener:
        extra: list[display.Listener] = []
        if self.tensorboard:
            extra.append(display.TensorBoard(str(folder / "tensorboard")))
        if self.wandb:
            extra.append(display.WeightsAndBiases(project=self.wandb, config=config))
        return display.together(listener, *extra) if extra else listener


# --- the commands ------------------------------------------------------------------------------------------------


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
    from quickstudy.devices import use_cores
    from quickstudy.train import use_compilation_cache

    again = f"quickstudy resume {shlex.quote(str(folder))}"
    speak = output.listener(again)
    _hello(output, f"quickstudy {__version__}: {recipe.name}, seed {recipe.seed}, into {folder}")
    try:
        recipe.check()
        use_cores(recipe.devices, recipe.cores)
        use_compilation_cache()  # a learner is made by dozens of small programs
        experiment = recipe.build()
        listener = writers.add(speak, folder, dataclasses.asdict(recipe))
        experiment.train(folder, resume=resume, listener=listener)
    finally:
        close = getattr(speak, "close", None)
        if close:
            close()
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
    assert loaded.experiment is not None and loaded.protocol is not None
    name = loaded.experiment.recipe.name
    changes: dict[str, Any] = {} if tasks is None else {"num_tasks": tasks, "chunk": min(tasks, loaded.protocol.chunk)}
    count = changes.get("num_tasks", loaded.protocol.num_tasks)
    _hello(output, f"testing on {count:,} held-out tasks …")
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
    print(f"{result.n:,} held-out tasks, 95 % interval\n  {display.curve_line(result.curve, 11)}")
    for ruler, theirs in result.rulers.items():
        gap = theirs["difference"]
        low, high = gap["ci"]
        print(f"  {ruler}: {theirs['score']:.4g}; ours minus it {gap['mean']:+.4g} [{low:+.4g}, {high:+.4g}]")
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
    from quickstudy.devices import choose, use_cores
    from quickstudy.load import experiment_of
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
    _hello(output, f"going on from step {at} of {recipe.meta_steps}")
    made, here = about.get("fingerprint", {}), fingerprint()
    if other := ", ".join(f"{k} was {v}, is {here[k]}" for k, v in made.items() if k in here and here[k] != v):
        _hello(output, f"numerically close, not identical, to the uninterrupted run: {other}")
    train(recipe, folder, output, writers, resume=at)


# --- parsing -----------------------------------------------------------------------------------------------------


def _parsed(command: str, options: Callable, words: Sequence[str]) -> Callable[[], None]:
    """A command that reads its options from `words` when it is called."""
    return lambda: tyro.cli(options, prog=f"quickstudy {command}", args=words, config=(tyro.conf.OmitArgPrefixes,))


@contextlib.contextmanager
def _of_run(folder: Path, command: str = "resume") -> Iterator[None]:
    """What goes wrong within is of this run: `_fail` says how to go on with it."""
    try:
        yield
    except BaseException as error:
        error.folder, error.command = folder, command  # type: ignore[attr-defined]
        raise


_FOLDER = tyro.conf.arg(
    metavar="DIR",
    help="The run folder.",
    help_behavior_hint="(default: runs/RECIPE-seedN, numbered where that is taken)",
)


def _parse_train(name: str, words: Sequence[str]) -> Callable[[], None]:
    cls = get(name)
    told, kinds = explained(cls), get_type_hints(cls, include_extras=True)
    of = lambda name: Annotated[kinds[name], tyro.conf.arg(help=told[name])] if told[name] else kinds[name]
    again = lambda field: dataclasses.field(default=field.default, default_factory=field.default_factory)
    given = [field for field in dataclasses.fields(cls) if field.init]
    fields = dataclasses.make_dataclass("Fields", [(f.name, of(f.name), again(f)) for f in given], kw_only=True)

    def options(
        fields: Annotated[fields, tyro.conf.arg(name="")],  # type: ignore[valid-type]
        out: Annotated[Path | None, _FOLDER] = None,
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
        writers: Annotated[Writers, tyro.conf.arg(name="")] = Writers(),
    ) -> None:
        recipe = cls(**vars(fields))
        folder = out or _free_folder(recipe)
        with _of_run(folder):
            train(recipe, folder, output, writers)

    options.__doc__ = f"{cls.description}.\n\nExpected: {cls.expected}.\nSource: {cls.source}."
    return _parsed(f"train {name}", options, words)


def _free_folder(recipe: Recipe) -> Path:
    base = Path("runs", f"{recipe.name}-seed{recipe.seed}")
    candidates = (base if i == 1 else base.with_name(f"{base.name}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def _parse_resume(words: Sequence[str]) -> Callable[[], None]:
    def options(
        folder: Annotated[Path, tyro.conf.Positional],
        step: int | None = None,
        changes: Annotated[Changes, tyro.conf.arg(name="")] = Changes(),
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
        writers: Annotated[Writers, tyro.conf.arg(name="")] = Writers(),
    ) -> None:
        """Goes on from the newest checkpoint of a run, bit for bit as if it had never stopped.

        Args:
            folder: The run folder.
            step: Go on from this checkpoint instead of the newest; what came after it is dropped.
        """
        with _of_run(folder):
            resume(folder, output, step=step, changes=changes, writers=writers)

    return _parsed("resume", options, words)


def _parse_evaluate(words: Sequence[str]) -> Callable[[], None]:
    def options(
        folder: Annotated[Path, tyro.conf.Positional],
        step: int | None = None,
        tasks: int | None = None,
        other: tuple[str, ...] = (),
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
    ) -> None:
        """Tests what a run learned on held-out tasks, and writes its report.

        Args:
            folder: The run folder.
            step: Test this checkpoint instead of the newest.
            tasks: Number of held-out tasks (default: as the recipe says).
            other: Fields of the recipe that differ from training, as `--other ways=20 shots=5`.
        """
        from quickstudy.devices import use_cores
        from quickstudy.runs import RunFolder

        if tasks is not None and tasks < 2:
            raise ConfigError([f"tasks must be at least 2, got {tasks}"])
        with _of_run(folder, "evaluate"):
            use_cores(1, RunFolder(folder).about()["config"]["cores"])
            test(folder, output, step=step, tasks=tasks, other=_fields(other))

    return _parsed("evaluate", options, words)


def _fields(words: Sequence[str]) -> dict[str, Any]:
    """name=value, the value as JSON reads it or else as text."""
    fields = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError([f"--other takes name=value, got {word!r}"])
        try:
            fields[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            fields[name.replace("-", "_")] = value
    if "data" in fields:
        raise ConfigError(["--other leaves the data as they are; set QUICKSTUDY_DATA to move them"])
    if no := fields.keys() & {"devices", "cores"}:
        raise ConfigError([f"--other is of what is tested: {' and '.join(sorted(no))} say where"])
    return fields


def _parse_report(words: Sequence[str]) -> Callable[[], None]:
    def options(
        folders: Annotated[tuple[Path, ...], tyro.conf.Positional],
        out: Path | None = None,
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
    ) -> None:
        """Draws the report of one run, or of several side by side.

        Args:
            folders: Run folders; those that differ only in the seed are pooled.
            out: Where to write (default: the first folder).
        """
        from quickstudy.report.page import report

        if not folders:
            raise ConfigError(["report needs at least one run folder"])
        page = report(folders, out)
        print(json.dumps({"status": "ok", "report": str(page)}) if output.json else f"report: {page}")

    return _parsed("report", options, words)


def _parse_list(words: Sequence[str]) -> Callable[[], None]:
    def options(output: Annotated[Output, tyro.conf.arg(name="")] = Output()) -> None:
        """Lists the recipes, with what to expect of each."""
        list_recipes(output)

    return _parsed("list", options, words)


USAGE = """\
usage: quickstudy [-h] [--version] COMMAND ...

Meta-train models and agents that adapt fast, test them on held-out tasks, and show it.

commands:
  list                      the recipes, with what to expect of each
  train RECIPE [options]    meta-train, test on held-out tasks, write the report
  resume DIR                go on from the newest checkpoint, bit for bit
  evaluate DIR              test on held-out tasks again
  report DIR [DIR ...]      one page for one run, or several side by side

`quickstudy COMMAND --help` and `quickstudy train RECIPE --help` say more.
"""
COMMANDS = {
    "list": _parse_list, "resume": _parse_resume, "evaluate": _parse_evaluate, "report": _parse_report,
}  # fmt: skip


def _command(words: Sequence[str]) -> Callable[[], None]:
    if not words or words[0] in ("-h", "--help"):
        return lambda: print(USAGE, end="")
    if words[0] == "--version":
        return lambda: print(f"quickstudy {__version__}")
    command, *rest = words
    if command == "train":
        if not rest or rest[0] in ("-h", "--help"):
            listed = "\n".join(f"  {name:<22} {cls.description}" for name, cls in sorted(all_recipes().items()))
            text = f"usage: quickstudy train RECIPE [options]\n\nrecipes:\n{listed}\n"
            if rest:
                return lambda: print(text, end="")
            raise ConfigError([f"train needs a recipe\n{text}"])
        return _parse_train(rest[0], rest[1:])
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, [*COMMANDS, "train"], 1)
        raise ConfigError([f"there is no command {command!r}" + (f"; did you mean {near[0]}?" if near else "")])
    return COMMANDS[command](rest)


def _in_large_pages(words: Sequence[str]) -> None:
    """Starts this process anew with large pages of memory, where that is for glibc to decide: arrays of tens of
    megabytes are then up to 1.7 times as fast. glibc asks its environment once, before there is any Python."""
    works = bool(words) and words[0] in ("train", "resume", "evaluate")
    if works and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        _in_large_pages(words)
    try:
        _command(words)()
    except SystemExit as error:  # the parser's own: it has said what is wrong
        if error.code and "--json" in words:
            print(json.dumps({"status": "error", "code": 2, "message": "bad command line; see stderr"}), flush=True)
        raise
    except KeyboardInterrupt as error:
        _fail(words, 128 + getattr(error, "signum", 2), str(error) or "stopped", error)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(1)
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        code = next((EXIT[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in EXIT), None)
        message = str(error) or type(error).__name__
        if code is None:
            code = 2 if isinstance(error, ValueError | TypeError) else 3
            message = f"{type(error).__name__}: {message}"
        if code == 7:
            message = (
                f"out of memory or device trouble: {message.splitlines()[0]}; lower --meta-batch. Checkpoints are kept"
            )
        _fail(words, code, message, error)


def _fail(words: Sequence[str], code: int, message: str, error: BaseException) -> None:
    if "--json" in words:
        print(json.dumps({"status": "error", "code": code, "message": message}), flush=True)
    else:
        print(f"quickstudy: {message}", file=sys.stderr, flush=True)
        folder = getattr(error, "folder", None)
        if folder is not None and os.path.exists(folder / "run.json"):
            again = f"quickstudy {error.command} {shlex.quote(str(folder))}"  # type: ignore[attr-defined]
            if code in (3, 6, 7, 130, 143):
                print(f"go on with: {again}", file=sys.stderr, flush=True)
            elif code == 4:
                from quickstudy.runs import CheckpointRefused, RunFolder

                with contextlib.suppress(CheckpointRefused):
                    RunFolder(folder).about()  # where this is damaged no checkpoint helps
                    if whole := RunFolder(folder).sound():
                        others = ", ".join(map(str, whole))
                        print(f"whole are the checkpoints of {others}: {again} --step N", file=sys.stderr, flush=True)
    sys.exit(code)
