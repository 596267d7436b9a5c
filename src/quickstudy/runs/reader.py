"""Reads the files of a run folder. Each is a regular file of a bounded size, JSON of a bounded depth without NaN or
half characters, signed, and of its type in `schema`; else CheckpointRefused names the file, what is wrong and the mend.
"""

import contextlib
import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quickstudy.runs import schema
from quickstudy.runs.checks import check
from quickstudy.runs.errors import CheckpointRefused, refused
from quickstudy.runs.files import canonical, read_regular, sha256
from quickstudy.runs.strict import parse

if TYPE_CHECKING:
    import numpy as np

SMALL, LARGE = 2**20, 2**28  # bytes that a file, and a log or an evaluation, may have
SIGNED = "sha256"  # the sum of all the rest of the file
CHECKPOINTS, MANIFEST, TENSORS = "checkpoints", "manifest.json", "state.safetensors"


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """The same with the sum of all of it, by which a change is found."""
    return {**value, SIGNED: sha256(canonical(value))}


def read_json(path: Path, kind: Any, mend: str, limit: int = SMALL, exact: bool = False) -> Any:
    """A signed file of this kind, without its sum; an `exact` one has no byte too many, not even of white space. Raises
    FileNotFoundError, and CheckpointRefused."""
    data = read_regular(path, limit, mend)
    value = _parsed(path, data, mend)
    if not isinstance(value, dict):
        raise refused(path, "holds no object of JSON", mend)
    claimed = value.pop(SIGNED, None)
    if claimed != sha256(canonical(value)) or (exact and canonical({**value, SIGNED: claimed}) != data):
        raise refused(path, "is damaged, or was edited: its checksum does not match", mend)
    return _checked(path, kind, value, mend)


def _parsed(path: Path, data: bytes, mend: str) -> Any:
    try:
        return parse(data)
    except ValueError as error:
        raise refused(path, f"is not readable as JSON ({error})", mend) from None


def _checked(path: Path, kind: Any, value: Any, mend: str) -> Any:
    try:
        check(kind, value)
    except ValueError as error:
        raise refused(path, f"is not what a run writes: {error}", mend) from None
    return value


def read_run(folder: str | os.PathLike) -> schema.Run:
    """run.json. Raises FileNotFoundError where the folder is none of a run."""
    path, mend = Path(folder, "run.json"), "restore it from a copy of the folder"
    try:
        return cast(schema.Run, read_json(path, schema.Run, mend))
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(folder)} is not a run folder: it has no run.json") from None
    except CheckpointRefused:
        value = _parsed(path, read_regular(path, SMALL, mend), mend)
        if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
            raise
        if value.get("format", 1) != schema.FORMAT:
            fingerprint = value.get("fingerprint")
            by = value.get("quickstudy") or (fingerprint.get("quickstudy") if isinstance(fingerprint, dict) else None)
            made = f"quickstudy {by:.30}" if isinstance(by, str) else "another version of quickstudy"
            what, mend = f"is not of format {schema.FORMAT}", f"use the version that made it: {made}"
            raise refused(path, what, mend) from None
        return cast(schema.Run, read_json(path, schema.Run, _as_saved(Path(folder), value["config"]) or mend))


def _as_saved(folder: Path, config: dict[str, Any]) -> str:
    """How a configuration differs from that of the newest checkpoint, which says what was damaged; else empty."""
    for step in reversed(steps(folder)):
        try:
            saved = read_manifest(folder, step)["config"] or {}
        except CheckpointRefused:
            continue
        difference = changed(saved, config)
        return f"step {step} was saved when {difference}: put that back" if difference else ""
    return ""


def changed(saved: Mapping[str, Any], now: Mapping[str, Any], but: Container[str] = ()) -> str:
    """In what two configurations differ, but for these fields; empty where they do not."""
    saved, now = schema.flat(saved), schema.flat(now)
    names = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name) and name not in but)
    return ", ".join(f"{name} was {saved.get(name)}, is {now.get(name)!s:.60}" for name in names[:5])


def steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the checkpoints that are there, oldest first."""
    try:
        names = os.listdir(Path(folder, CHECKPOINTS))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise refused(Path(folder, CHECKPOINTS), f"cannot be read: {error.strerror}", "allow reading it") from None
    numbers = (int(name) for name in names if re.fullmatch(r"[0-9]{8,18}", name))
    return sorted(step for step in numbers if f"{step:08d}" in names)


def checkpoint(folder: str | os.PathLike, step: int) -> Path:
    """The folder of a checkpoint."""
    return Path(folder, CHECKPOINTS, f"{step:08d}")


def read_manifest(folder: str | os.PathLike, step: int) -> schema.Manifest:
    """The manifest of a checkpoint, after its own sum was checked."""
    path, mend = checkpoint(folder, step) / MANIFEST, "use another checkpoint, or a copy of this one"
    try:
        manifest = cast(schema.Manifest, read_json(path, schema.Manifest, mend, exact=True))
    except FileNotFoundError:
        raise refused(path, "is not there", mend) from None
    if manifest["step"] != step:
        raise refused(path, f"belongs to step {manifest['step']}, not {step}", "folders were swapped: " + mend)
    if TENSORS not in manifest["files"]:
        raise refused(path, f"says nothing of {TENSORS}", mend)
    return manifest


def belongs(run: schema.Run, manifest: schema.Manifest) -> schema.Belongs:
    """What a test of this checkpoint is a test of."""
    fixed = {name: value for name, value in schema.flat(run["config"]).items() if name not in schema.MAY_CHANGE}
    return {
        "run": run["id"],
        "checkpoint": manifest["files"][TENSORS]["sha256"],
        "config": sha256(canonical([run["recipe"], fixed])),
    }


def read_evaluation(
    folder: str | os.PathLike, name: str = "evaluation", run: schema.Run | None = None
) -> tuple[schema.Evaluation, "dict[str, np.ndarray]"]:
    """The outcome of a test and the scores of every task. Raises FileNotFoundError where there was no test, and
    CheckpointRefused where it is of another run, or of another checkpoint than the one of its step."""
    from quickstudy.runs import tensors

    path, beside = Path(folder, f"{name}.json"), Path(folder, f"{name}.safetensors")
    run = run or read_run(folder)
    # No command tests what was composed in Python.
    mend = f"test again: {f'quickstudy evaluate {os.fspath(folder)}' if run['recipe'] else 'result.evaluate()'}"
    evaluation = cast(schema.Evaluation, read_json(path, schema.Evaluation, mend, LARGE))
    own, step = evaluation["belongs"], evaluation["step"]
    if step in steps(folder):
        is_of = belongs(run, read_manifest(folder, step))
    else:  # it was dropped since
        is_of = {**belongs(run, {"files": {TENSORS: {"sha256": own["checkpoint"]}}}), "checkpoint": own["checkpoint"]}  # type: ignore[typeddict-item]
    if own != is_of:
        other = ", ".join(sorted(key for key in own if own[key] != is_of[key]))  # type: ignore[literal-required]
        raise refused(path, f"is the test of another {other}", mend)
    try:
        arrays = tensors.read(beside, evaluation["arrays"], mend, limit=2**30)
    except FileNotFoundError:
        raise refused(beside, "is not there", mend) from None
    shapes = {"values": (evaluation["n"],), "curves": (evaluation["n"],)}
    for part, shape in shapes.items():
        if part in arrays and arrays[part].shape[:1] != shape:
            raise refused(beside, f"has {part} of shape {list(arrays[part].shape)}, not of {shape[0]} tasks", mend)
    return evaluation, arrays


def read_lines(folder: str | os.PathLike, name: str) -> list[dict[str, Any]]:
    """The lines of a log, without a torn last one: of what was saved with the newest checkpoint every byte is checked.
    Empty where there is no such log."""
    path = Path(folder, name)
    mend = f"`quickstudy resume {os.fspath(folder)}` keeps the damaged file beside and goes on"
    mark, newest = None, steps(folder)[-1:]
    for step in newest:  # before the log, which may be growing
        with contextlib.suppress(CheckpointRefused):  # loading the checkpoint raises it again
            mark = read_manifest(folder, step)["logs"].get(name)
    data = read_log(path, mend)
    if mark is not None and not holds(data, mark):
        raise refused(path, f"is damaged: it is not the one that was saved at step {newest[0]}", mend)
    lines, wrong = whole_lines(data, name)
    if wrong:
        raise refused(path, wrong, mend)
    return lines


def read_log(path: Path, mend: str) -> bytes:
    """The bytes of a log; none where there is none."""
    try:
        return read_regular(path, LARGE, mend)
    except FileNotFoundError:
        return b""


def holds(data: bytes, mark: schema.Mark) -> bool:
    """Whether the data begin with what was marked."""
    return len(data) >= mark["bytes"] and sha256(memoryview(data)[: mark["bytes"]]) == mark["sha256"]


def whole_lines(data: bytes, name: str, step: int = -1) -> tuple[list[dict[str, Any]], str]:
    """(The lines of a log that are as they should be, in the order of their steps, all after `step`; what is wrong with
    the first other one). A torn last line is nothing wrong."""
    lines, wrong = [], ""
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            if len(line) > SMALL:
                raise ValueError(f"more than {SMALL:,} bytes")
            value = parse(line)
            check(schema.LINES[name], value)
            if value["step"] <= step:
                raise ValueError(f"step {value['step']} comes after step {step}")
            step = value["step"]
            lines.append(value)
        except ValueError as error:
            wrong = wrong or f"is damaged in line {number} ({error})"
    return lines, wrong
