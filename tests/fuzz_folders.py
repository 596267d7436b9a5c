"""Mutates every file of a run folder, then loads, reports and goes on with it.

    python tests/fuzz_folders.py 10000 [--seed 0]

None of it may be silently wrong (another learner, configuration or log than was written, without an error), end in an
exception that is none of ours, hang, or run code. Folders that were signed anew, as by somebody who means harm, count
for the last three only.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

import quickstudy
from quickstudy.cli import commands
from quickstudy.config import ConfigError
from quickstudy.core import Incompatible
from quickstudy.recipes import Recipe, configure
from quickstudy.report import style
from quickstudy.report.page import report
from quickstudy.runs import CheckpointRefused, FolderInUse, RunFolder, StorageFailed, digest
from quickstudy.runs.reader import read_evaluation, read_lines, read_run
from quickstudy.runs.schema import LINES, METRICS

OURS = (CheckpointRefused, ConfigError, Incompatible, FolderInUse, StorageFailed, FileNotFoundError)
SECONDS = 600  # that a read may take, on a busy machine, before it counts as hanging
PLANTED = "import pathlib; pathlib.Path({!r}).write_text('ran')\n"
OWN = (
    "mine.py:Mine",
    "./mine.py:Mine",
    "planted:Mine",
    "{base}/mine.py:Mine",
    "{run}/mine.py:Mine",
    "run/mine.py:Mine",
)
WORDS = ("", "<script>alert(1)</script>", "../../x", "\ud800", "1²", "é…", "x" * 2000, "nan", "sinusoid-reptile", *OWN)
NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320)
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "[" * 3000 + "]" * 3000, "{", "nul", '"\\udc00"')


@dataclasses.dataclass(frozen=True)
class Mutation:
    """What was done to a folder, and whether it was signed anew afterwards."""

    said: str
    signed: bool = False


class Stopped(Exception):
    """The run has gone on as far as it has to: it would compile now."""


class Harness:
    """A small run in `base`, and what can be done to it."""

    def __init__(self, base: Path):
        self.base, self.run, self.pwned = base, base / "run", base / "pwned"
        with contextlib.redirect_stdout(None):
            commands.train(
                configure(
                    "sinusoid-maml",
                    {
                        "meta_steps": 6, "meta_batch": 2, "hidden_size": 4, "test_tasks": 6, "log_every": 1,
                        "save_every": 2, "validate_every": 3, "devices": 1,
                    },
                ),
                self.run, commands.Output(quiet=True), commands.Writers(),
            )  # fmt: skip
        (self.run / "mine.py").write_text(PLANTED.format(str(self.pwned)))
        self.files = {p.relative_to(self.run): p.read_bytes() for p in self.run.rglob("*") if p.is_file()}
        self.config = read_run(self.run)["config"]
        self.digests = {step: self.digest(step) for step in RunFolder(self.run).steps()}
        self.drawn: set[int] = set()
        self.pictures = True
        self.answers = collections.Counter()
        for name in ("mine.py", "planted.py"):
            (base / name).write_text(PLANTED.format(str(self.pwned)))

    def digest(self, step: int | None = None) -> str:
        return digest(quickstudy.load(self.run, step=step).learner)

    def restore(self) -> None:
        """The folder as it was."""
        shutil.rmtree(self.run)
        for relative, data in self.files.items():
            path = self.run / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    # --- what is done to it ----------------------------------------------------------------------------------------

    def mutate(self, rng: random.Random) -> Mutation:
        relative = rng.choice(sorted(path for path in self.files if path.suffix not in (".html", ".png", ".py")))
        path = self.run / relative
        kinds = [self.bytes, self.place, self.folders]
        if relative.suffix in (".json", ".jsonl") and self.files[relative]:
            kinds += [self.json] * 6
        return rng.choice(kinds)(rng, path)

    def bytes(self, rng: random.Random, path: Path) -> Mutation:
        """Some of its bytes are others."""
        data = bytearray(path.read_bytes())
        how = rng.choice(["flip", "flip", "flip", "cut", "insert", "repeat", "zeros", "random"])
        at = rng.randrange(len(data)) if data else 0
        if how == "flip" and data:
            data[at] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif how == "repeat":
            data[at:at] = data[: rng.randrange(1, 200)]
        elif how == "zeros":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data = bytearray(rng.randbytes(rng.randrange(2000)))
        path.write_bytes(bytes(data))
        sign = path.suffix in (".safetensors", ".jsonl") and rng.random() < 0.5
        if sign:
            self.sign_mark(path)
        return Mutation(f"{path.relative_to(self.run)}: {how} at {at}{', signed' if sign else ''}", sign)

    def sign_mark(self, path: Path) -> None:
        """Whoever tells the sum of a file tells the new one."""
        data = path.read_bytes()
        mark = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for other in (*self.run.glob("checkpoints/*/manifest.json"), self.run / "evaluation.json"):
            value = json.loads(other.read_bytes())
            value.pop("sha256")
            if path.suffix == ".jsonl" and "logs" in value:
                value["logs"][path.name] = mark
            elif path == other.with_name("state.safetensors") and "files" in value:
                value["files"][path.name] = mark
            elif path == other.with_suffix(".safetensors"):
                value["arrays"] = mark
            value["sha256"] = _sum(value)
            other.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False))

    def place(self, rng: random.Random, path: Path) -> Mutation:
        """Something else stands in its place."""
        others = sorted(self.run / other for other in self.files)
        other = rng.choice(others)
        path.unlink()
        how, replace = rng.choice(
            [
                ("gone", lambda: None),
                ("pipe", lambda: os.mkfifo(path)),
                ("folder", lambda: path.mkdir()),
                ("zeros", lambda: path.symlink_to("/dev/zero")),
                ("terminal", lambda: path.symlink_to("/dev/tty")),
                ("loop", lambda: path.symlink_to(path)),
                ("dangling", lambda: path.symlink_to("nowhere")),
                ("huge", lambda: (path.write_bytes(b"{"), os.truncate(path, 2**36))),
                (f"a link to {other.name}", lambda: path.symlink_to(other)),
                (f"a copy of {other.name}", lambda: other.exists() and shutil.copyfile(other, path)),
            ]
        )
        replace()
        return Mutation(f"{path.relative_to(self.run)}: {how}")

    def folders(self, rng: random.Random, path: Path) -> Mutation:
        """Checkpoints are renamed, copied, swapped or gone."""
        checkpoints = self.run / "checkpoints"
        a, b = rng.sample(sorted(checkpoints.iterdir()), 2)
        name = rng.choice(["0000001²", "00000007", "00000099", "-0000001", "9" * 30, "٠٠٠٠٠٠٠٧", "00000004 ", "x"])
        how = rng.choice(["rename", "copy", "swap", "remove", "remove all", "link", "file"])
        if how in ("rename", "copy") and not (checkpoints / name).exists():
            {"rename": os.rename, "copy": shutil.copytree}[how](a, checkpoints / name)
        elif how == "swap":
            spare = checkpoints / "spare"
            a.rename(spare), b.rename(a), spare.rename(b)
        elif how == "link":
            shutil.rmtree(a)
            a.symlink_to(rng.choice([b, checkpoints, Path("/"), a]))
        elif how in ("remove", "file"):
            shutil.rmtree(a)
            if how == "file":
                a.write_bytes(b"5")
        else:
            shutil.rmtree(checkpoints)
            if rng.random() < 0.5:
                checkpoints.symlink_to(rng.choice(["/proc", "/dev", "."]))
        return Mutation(f"checkpoints: {how} {a.name}, {b.name}, {name}")

    def json(self, rng: random.Random, path: Path) -> Mutation:
        """A value is another, of any type; half of the time the file is signed anew."""
        data = path.read_bytes()
        lines = data.split(b"\n")[:-1] if path.suffix == ".jsonl" else [data]
        which = rng.randrange(len(lines))
        value = json.loads(lines[which])
        said, raw = self.change(rng, value)
        sign = rng.random() < 0.5
        if path.suffix == ".json" and sign:
            value.pop("sha256", None)
            value["sha256"] = _sum(value)
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        if raw is not None:
            text = text.replace('"RAW"', raw, 1)
        lines[which] = text.encode("utf-8", "surrogatepass")
        path.write_bytes(b"\n".join(lines) + (b"\n" if path.suffix == ".jsonl" else b""))
        if sign and path.suffix == ".jsonl":
            self.sign_mark(path)
        elif sign and rng.random() < 0.5:
            self.sign_all(value, path)
        return Mutation(f"{path.relative_to(self.run)}: {said}{', signed' if sign else ''}", sign)

    def sign_all(self, value: dict[str, Any], path: Path) -> None:
        """Every checkpoint of a run that was changed says the same, as a stranger's folder would."""
        if path.name != "run.json":
            return
        for manifest in self.run.glob("checkpoints/*/manifest.json"):
            told = json.loads(manifest.read_bytes())
            told.pop("sha256")
            told |= {"run": value.get("id"), "recipe": value.get("recipe"), "config": value.get("config")}
            told["sha256"] = _sum(told)
            text = json.dumps(told, sort_keys=True, ensure_ascii=False)
            manifest.write_bytes(text.encode("utf-8", "surrogatepass"))

    def change(self, rng: random.Random, value: Any) -> tuple[str, str | None]:
        """Changes something within a value. (What, and the text that stands for "RAW" in it.)"""
        places = [place for place in _places(value) if place[1] != "sha256"]
        parent, key = rng.choice(places)
        how = rng.choice(["replace", "replace", "replace", "raw", "delete", "rename", "nest", "swap", "add", "digit"])
        raw = None
        if how == "replace":
            parent[key] = self.value(rng)
        elif how == "raw":
            parent[key], raw = "RAW", rng.choice(RAW)
        elif how == "digit" and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            parent[key] += rng.choice([1, -1, 10, 0.125])
        elif how == "delete":
            del parent[key]
        elif how == "rename" and isinstance(parent, dict):
            parent[f"{key}{rng.choice(['s', '²', ' '])}"] = parent.pop(key)
        elif how == "nest":
            for _ in range(rng.choice([1, 10, 31, 200])):
                parent[key] = rng.choice([[parent[key]], {"a": parent[key]}])
        elif how == "add" and isinstance(parent, dict):
            parent[rng.choice(WORDS)] = self.value(rng)
        else:
            other, at = rng.choice(places)
            with contextlib.suppress(KeyError, IndexError):
                one, two = parent[key], other[at]
                if not _within(two, parent) and not _within(one, other):
                    parent[key], other[at] = two, one
        return f"{how} {key}", raw

    def value(self, rng: random.Random) -> Any:
        word = rng.choice(WORDS).format(base=self.base, run=self.run)
        return rng.choice([None, True, [], {}, [[]], [1, 2], {"mean": 1}, word, rng.choice(NUMBERS), rng.random()])

    # --- and what comes of it --------------------------------------------------------------------------------------

    def load(self) -> str:
        loaded = quickstudy.load(self.run)
        same = digest(loaded.learner) == self.digests.get(loaded.step)
        config = json.loads(json.dumps(loaded.experiment.recipe.values())) if loaded.experiment else None
        return "" if same and config == self.config else "another learner or configuration was loaded"

    def report(self) -> str:
        """Draws only what was not drawn before."""
        run = read_run(self.run)
        tested = os.path.lexists(self.run / "evaluation.json")
        evaluation, arrays = read_evaluation(self.run, run=run) if tested else (None, {})
        lines = [read_lines(self.run, name) for name in LINES]
        seen = hash(repr((run, evaluation, {name: array.tobytes() for name, array in arrays.items()}, lines)))
        if seen not in self.drawn:
            drawn = contextlib.nullcontext() if self.pictures else _replaced(style, "to_svg", lambda *_, **__: "")
            with drawn:
                page = report([self.run], self.base / "page").read_text(errors="surrogatepass")
            if "<script" in page.lower():
                return "a script is in the page"
            self.drawn.add(seen)
        return "" if run["config"] == self.config else "the report is of another configuration"

    def resume(self) -> str:
        """As far as the first compilation, or to the end where there is nothing to train."""

        said = []

        def listen(event):
            said.append(event["event"])
            if event["event"] == "compile":
                raise Stopped

        before, output = read_log(self.run / METRICS), commands.Output(quiet=True)
        with _replaced(commands.Output, "listener", lambda self, again: listen), contextlib.suppress(Stopped):
            commands.resume(self.run, output, step=None, changes=commands.Changes(), writers=commands.Writers())
        config = read_run(self.run)["config"]
        if config != self.config:
            return f"the run would go on with another configuration: {config}"
        after, whole = read_log(self.run / METRICS), self.files[Path(METRICS)]
        beside = list(self.run.glob(f"{METRICS}.*"))
        if not whole.startswith(after) and not beside:
            return "the log is another"
        if len(after) < len(before) and not beside and len(after) < whole.find(b'"step": 2'):
            return "the log was emptied"
        steps = RunFolder(self.run).steps()
        return "" if all(self.digest(s) == self.digests[s] for s in steps[-1:]) else "another learner would go on"

    def once(self, seed: int) -> list[tuple[str, str]]:
        """One mutation, and what was wrong with what came of it: (kind, description)."""
        rng = random.Random(seed)
        mutation, wrong = self.mutate(rng), []
        self.pictures = seed % 5 == 0  # which take the longest
        for name, read in (("load", self.load), ("report", self.report), ("resume", self.resume)):
            kind, what = _tried(read)
            self.answers[f"{name}: {kind or what or 'accepted'}"] += 1
            if kind and not (kind == "silently wrong" and mutation.signed):
                wrong.append((kind, f"seed {seed}, {name} after {mutation.said}: {what}"))
            if self.pwned.exists():
                wrong.append(("code run", f"seed {seed}, {name} after {mutation.said}"))
                self.pwned.unlink()
        self.restore()
        return wrong


def read_log(path: Path) -> bytes:
    """What a log holds, where it is a file of a sensible size."""
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size < 2**20:
            return path.read_bytes()
    return b""


def _tried(read: Callable[[], str]) -> tuple[str, str]:
    """(The kind of fault, what it is): an empty kind where all is as it should be."""

    def hangs(*_):
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(None):
            what = read()
        return ("silently wrong", what) if what else ("", "")
    except OURS as error:
        return ("", "refused") if str(error) else ("foreign exception", f"{type(error).__name__} says nothing")
    except TimeoutError as error:
        return "hangs", str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "foreign exception", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _sum(value: Any) -> str:
    """As `reader.signed` has it, also of what no run writes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(parent, key) of all that is within a value."""
    for key, inner in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _within(value: Any, parent: Any) -> bool:
    places = _places(value) if isinstance(value, dict | list) else ()
    return value is parent or any(holder[key] is parent for holder, key in places)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Learners are built once for each configuration, nothing is tested again, and no picture is made."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(Recipe, "build", functools.lru_cache(4)(Recipe.build)))
        stack.enter_context(_replaced(commands, "test", lambda *_, **__: None))
        stack.enter_context(_replaced(style, "to_png", lambda figure: b""))
        yield


def fuzz(
    base: Path, count: int, first: int = 0, tell: Callable[[str], None] = lambda text: None
) -> collections.Counter:
    """Tries `count` mutations, and counts by kind what was wrong; each is told."""
    harness, found = Harness(base), collections.Counter()
    before = os.getcwd()
    os.chdir(base)
    sys.path.insert(0, str(base))
    try:
        with quick(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(first, first + count):
                if seed % 200 == 0:
                    jax.clear_caches()  # what the many configurations compiled
                    gc.collect()
                for kind, what in harness.once(seed):
                    found[kind] += 1
                    tell(f"{kind}: {what}")
                if (seed + 1 - first) % 500 == 0 or seed + 1 == first + count:
                    tell(f"{seed + 1 - first} mutations: {dict(found) or 'nothing wrong'} {dict(harness.answers)}")
    finally:
        os.chdir(before)
        sys.path.remove(str(base))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        found = fuzz(Path(base), options.count, options.seed, functools.partial(print, flush=True))
    print(f"{options.count:,} mutations: {dict(found) or 'nothing silently wrong, foreign, hanging or run'}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
