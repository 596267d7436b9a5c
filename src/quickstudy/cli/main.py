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
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from quickstudy._version import __version__
from quickstudy.cli.commands import Changes, Output, Writers, list_recipes, resume, test, train
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
        from quickstudy.parallel.mesh import use_cores
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
        warnings.formatwarning = lambda message, *_, **__: f"quickstudy: warning: {message}\n"  # to a person
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
