"""The command line: list, train, resume, evaluate, report.

Exit codes: 0 done; 2 bad command, configuration or data, nothing started; 3 the run failed; 4 checkpoint refused;
5 folder in use; 6 storage; 7 device or memory; 130 Ctrl-C and 143 SIGTERM, both after saving. One clear message,
no traceback without --debug. Nothing here imports JAX until there is something to compute.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from quickstudy._version import __version__
from quickstudy.cli import limits
from quickstudy.cli.commands import Changes, Output, Writers, again, resume, test, train
from quickstudy.cli.listing import show
from quickstudy.cli.streams import make_last, refused
from quickstudy.config import ConfigError, nearest
from quickstudy.recipes import CARDS, Recipe, named
from quickstudy.runs.errors import CheckpointRefused
from quickstudy.runs.reader import read_run, steps
from quickstudy.train.interrupts import answering, stop_requests

EXIT = {
    "ConfigError": 2, "Incompatible": 2, "DataError": 2,
    "FileNotFoundError": 2, "ImportError": 2, "ModuleNotFoundError": 2,
    "TrainingFailed": 3, "FloatingPointError": 3,
    "CheckpointRefused": 4, "FolderInUse": 5, "StorageFailed": 6,
    "MemoryError": 7, "XlaRuntimeError": 7, "JaxRuntimeError": 7,
}  # fmt: skip


def _parsed(command: str, options: Callable, words: Sequence[str]) -> Callable[[], None]:
    """A command that reads its options from `words` when it is called."""
    return lambda: tyro.cli(options, prog=f"quickstudy {command}", args=words, config=(tyro.conf.OmitArgPrefixes,))


@contextlib.contextmanager
def _of_run(folder: Path, command: str = "resume", own: str | None = None) -> Iterator[None]:
    """What goes wrong within is of this run: `_fail` says how to go on with it."""
    of = {"folder": folder, "again": again(command, folder, own)}
    try:
        with stop_requests() as stop:
            stop.of = of  # an error that is raised elsewhere, while this goes on
            yield
    except BaseException as error:
        vars(error).update(of)
        raise


_FOLDER = tyro.conf.arg(
    metavar="DIR",
    help="The run folder.",
    help_behavior_hint="(default: runs/RECIPE-seedN, numbered where that is taken)",
)


def _parse_train(name: str, words: Sequence[str]) -> Callable[[], None]:
    recipe = named(name)
    given = [
        (option, Annotated[field.kind, tyro.conf.arg(help=field.help)], dataclasses.field(default=value))
        for option, (field, value) in recipe.options().items()
    ]
    fields = dataclasses.make_dataclass("Fields", given, kw_only=True)

    def options(
        fields: Annotated[fields, tyro.conf.arg(name="")],  # type: ignore[valid-type]
        out: Annotated[Path | None, _FOLDER] = None,
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
        writers: Annotated[Writers, tyro.conf.arg(name="")] = Writers(),
    ) -> None:
        chosen = recipe.changed(**vars(fields))
        folder = out or _free_folder(chosen)
        with _of_run(folder, own=chosen.reference):
            train(chosen, folder, output, writers)

    options.__doc__ = f"{recipe.description}.\n\nExpected: {recipe.expected}.\nSource: {recipe.source}."
    return _parsed(f"train {name}", options, words)


def _free_folder(recipe: Recipe) -> Path:
    base = Path("runs", f"{recipe.title}-seed{recipe.training.seed}")
    candidates = (base if i == 1 else base.with_name(f"{base.name}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def _parse_resume(words: Sequence[str]) -> Callable[[], None]:
    def options(
        folder: Annotated[Path, tyro.conf.Positional],
        step: int | None = None,
        recipe: str | None = None,
        changes: Annotated[Changes, tyro.conf.arg(name="")] = Changes(),
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
        writers: Annotated[Writers, tyro.conf.arg(name="")] = Writers(),
    ) -> None:
        """Goes on from the newest checkpoint of a run, bit for bit as if it had never stopped.

        Args:
            folder: The run folder.
            step: Go on from this checkpoint instead of the newest; what came after it is dropped.
            recipe: The recipe, as FILE.py:NAME, of a run that was made by one of your own; the file is imported.
        """
        with _of_run(folder, own=recipe):
            resume(folder, output, step=step, changes=changes, writers=writers, own=recipe)

    return _parsed("resume", options, words)


def _parse_evaluate(words: Sequence[str]) -> Callable[[], None]:
    def options(
        folder: Annotated[Path, tyro.conf.Positional],
        step: int | None = None,
        recipe: str | None = None,
        tasks: int | None = None,
        other: tuple[str, ...] = (),
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
    ) -> None:
        """Tests what a run learned on held-out tasks, and writes its report.

        Args:
            folder: The run folder.
            step: Test this checkpoint instead of the newest.
            recipe: The recipe, as FILE.py:NAME, of a run that was made by one of your own; the file is imported.
            tasks: Number of held-out tasks (default: as the recipe says).
            other: Fields of the recipe that differ from training, as `--other ways=20 shots=5`.
        """
        if tasks is not None and tasks < 2:
            raise ConfigError([f"tasks must be at least 2, got {tasks}"])
        with _of_run(folder, "evaluate", recipe):
            limits.check()
            cores = read_run(folder)["config"]["cores"]
            from quickstudy.parallel.mesh import use_cores

            use_cores(1, cores)
            test(folder, output, step=step, tasks=tasks, other=_fields(other), own=recipe)

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
            out: Where to write (default: the folder of the one run; of several, report-A-B beside the first).
        """
        from quickstudy.report.numbers import numbers
        from quickstudy.report.page import write
        from quickstudy.report.reading import Run

        if not folders:
            raise ConfigError(["report needs at least one run folder"])
        runs = [Run.read(folder) for folder in folders]
        page = write(runs, out)
        if output.json:
            print(json.dumps({"status": "ok", "report": str(page), **numbers(runs)}, allow_nan=False))
        else:
            print(f"report: {page}")

    return _parsed("report", options, words)


def _parse_list(words: Sequence[str]) -> Callable[[], None]:
    def options(
        name: Annotated[str | None, tyro.conf.Positional] = None,
        output: Annotated[Output, tyro.conf.arg(name="")] = Output(),
    ) -> None:
        """Shows which methods suit which tasks, with what to expect of those that are published.

        Args:
            name: Tasks, a method, or a recipe: all of it alone, and why it is refused.
        """
        show(name, output.json)

    return _parsed("list", options, words)


USAGE = """\
usage: quickstudy [-h] [--version] COMMAND ...

Meta-train models and agents that adapt fast, test them on held-out tasks, and show it.

commands:
  list [NAME]               tasks × methods, with what to expect; of one in full, or why it is refused
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
            listed = "\n".join(f"  {name:<26} {card.description}" for name, card in sorted(CARDS.items()))
            text = (
                "usage: quickstudy train TASKS-METHOD [options]\n\nA part of your own is named by its file, as "
                "my.py:MyTasks+rl2 "
                "or grid+my.py:MyMethod; `quickstudy list` has what\nelse is possible.\n\npublished recipes:\n"
                f"{listed}\n"
            )
            if rest:
                return lambda: print(text, end="")
            raise ConfigError([f"train needs a recipe\n{text}"])
        return _parse_train(rest[0], rest[1:])
    if command not in COMMANDS:
        raise ConfigError([f"there is no command {command!r}{nearest(command, [*COMMANDS, 'train'])}"])
    return COMMANDS[command](rest)


def _in_large_pages() -> None:
    """Starts this process anew with large pages of memory, where that is for glibc to decide: arrays of tens of
    megabytes are then up to 1.7 times as fast. glibc asks its environment once, before there is any Python."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is not None:
        _run(words)
        return
    streams = make_last()
    warnings.formatwarning = lambda message, *_, **__: f"quickstudy: warning: {message}\n"  # to a person
    if words and words[0] in ("train", "resume", "evaluate"):
        _in_large_pages()
        if (code := limits.supervise()) is not None:
            sys.exit(code)
    _run(words)
    if lost := refused(streams):
        _fail(words, 6, lost, OSError(lost))


def _run(words: Sequence[str]) -> None:
    try:
        answering(_command(words))
    except SystemExit as error:  # the parser's own: it has printed what is wrong
        if error.code and "--json" in words:
            print(json.dumps({"status": "error", "code": 2, "message": "bad command line; see stderr"}), flush=True)
        raise
    except KeyboardInterrupt as error:
        signum = getattr(error, "signum", 2)
        try:
            _fail(words, 128 + signum, str(error) or "stopped", error)
        finally:
            if threading.active_count() > 1 and getattr(error, "left", False):  # what still computes would not end
                sys.stdout.flush()
                os._exit(128 + signum)
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
            message = f"out of memory or device trouble: {_too_large(message, getattr(error, 'doing', ''))}"
        _fail(words, code, message, error)


def _too_large(message: str, doing: str) -> str:
    """What was too large, as far as it is known, and what makes it smaller."""
    first = message.splitlines()[0]
    if asked := re.search(r"allocat\w* (\d+) ?bytes", message):
        first = f"{int(asked[1]) / 1e9:.3g} GB could not be had"
    smaller = {
        "building": "make the network or the data smaller",
        "training": "lower --meta-batch, or make the network smaller",
        "testing": "test fewer tasks at once, or make the network smaller",
    }
    return f"{doing}: {first}; {smaller[doing]}" if doing else first


def _kept(folder: Path) -> str:
    """The newest checkpoint, where there is one."""
    with contextlib.suppress(CheckpointRefused):
        for step in steps(folder)[-1:]:
            return f"the checkpoint of step {step} is kept; "
    return ""


def _whole(folder: Path) -> str:
    """The checkpoints that help where another one was refused; none do where run.json is damaged."""
    from quickstudy.runs.folder import RunFolder

    with contextlib.suppress(CheckpointRefused, FileNotFoundError):
        run = RunFolder(folder)
        run.about()
        whole = run.sound()
        return ", ".join(map(str, whole)) if whole != run.steps() else ""
    return ""


def _fail(words: Sequence[str], code: int, message: str, error: BaseException) -> None:
    if "--json" in words:
        print(json.dumps({"status": "error", "code": code, "message": message}), flush=True)
    else:
        print(f"quickstudy: {message}", file=sys.stderr, flush=True)
        folder = getattr(error, "folder", None)
        if folder is not None and os.path.exists(folder / "run.json"):
            words = error.again  # type: ignore[attr-defined]
            if code in (3, 6, 7, 130, 143):
                kept = _kept(folder)
                print(f"{kept}go on with: {words}", file=sys.stderr, flush=True)
            elif code == 4 and (others := _whole(folder)):
                print(f"whole are the checkpoints of {others}: {words} --step N", file=sys.stderr, flush=True)
    sys.exit(code)
