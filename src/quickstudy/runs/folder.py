"""One run's folder: what is in it is read and written here, and nowhere else."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import PyTree

from quickstudy._version import __version__
from quickstudy.runs import reader, schema, tensors
from quickstudy.runs.errors import CheckpointRefused, refused
from quickstudy.runs.files import canonical, sha256, storage, sync_folder, synced, write_atomic, write_synced
from quickstudy.runs.lock import FolderLock
from quickstudy.runs.logs import Log
from quickstudy.runs.reader import CHECKPOINTS, MANIFEST, TENSORS, changed, signed
from quickstudy.runs.schema import LINES, METRICS
from quickstudy.runs.trees import check_names, named_arrays, restore


class RunFolder:
    """Reads and writes one run's folder. Open it with `locked()` to write; a `FolderLock` that is held already may be
    given in place of a path."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.lock = path if isinstance(path, FolderLock) else FolderLock(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.logs = {name: Log(self.path / name) for name in LINES}
        self._run: dict[str, Any] | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out. Raises FolderInUse."""
        with self.lock.held():
            yield

    # --- what is run -------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return os.path.lexists(self.path / "run.json")

    def about(self) -> dict[str, Any]:
        """What run.json says: a `schema.Run`."""
        return cast(dict[str, Any], reader.read_run(self.path))

    def note(self, about: dict[str, Any], step: int = 0, *, anew: bool = False) -> dict[str, Any]:
        """Writes run.json, and returns it. Where there is one only its configuration changes, from `step` on, unless it
        is to be made `anew`: what made the run stays as it was noted."""
        config = json.loads(canonical(about["config"]))
        if anew or not self.exists:
            first = {**about, "format": schema.FORMAT, "quickstudy": __version__, "config": config}
            self._write_signed("run.json", {"id": sha256(canonical(first)), **first})
        elif (made := self.about())["config"] != config:
            history = made.get("history") or [{"step": 0, "config": made["config"]}]
            history = [*(entry for entry in history if entry["step"] < step or not entry["step"])]
            self._write_signed(
                "run.json", {**made, "config": config, "history": [*history, {"step": step, "config": config}]}
            )
        self._run = self.about()
        return self._run

    def _write_signed(self, name: str, value: dict[str, Any]) -> None:
        value = signed(json.loads(canonical(value)))
        with storage(f"writing {self.path / name}"):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode())

    # --- tests -------------------------------------------------------------------------------------------------

    def write_evaluation(self, summary: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> None:
        """The outcome of a test of the checkpoint of summary["step"]: name.json for people, name.safetensors with the
        scores of every task."""
        belongs = reader.belongs(reader.read_run(self.path), self.manifest(summary["step"]))
        packed = b"".join(tensors.pieces(arrays))
        mark = {"bytes": len(packed), "sha256": sha256(packed)}
        with storage(f"writing the evaluation to {self.path}"):
            write_atomic(self.path / f"{name}.safetensors", packed)
        self._write_signed(f"{name}.json", {**summary, "belongs": belongs, "arrays": mark})

    def read_evaluation(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `write_evaluation` wrote, a `schema.Evaluation`, of the run and the checkpoint that are here."""
        evaluation, arrays = reader.read_evaluation(self.path, name)
        return cast(dict[str, Any], evaluation), arrays

    # --- logs --------------------------------------------------------------------------------------------------

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Adds a line to a log."""
        self.logs[name].append(line)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a log; a torn last one is dropped."""
        return reader.read_lines(self.path, name)

    def rewind(self, step: int) -> list[str]:
        """Drops what came after `step`: later checkpoints, from every log the later lines, and torn ones. Says what was
        damaged, and where it is kept."""
        for later in self.steps():
            if later > step:
                with storage(f"rewinding {self.checkpoints}"):
                    self._discard(later)
        marks = self.manifest(step)["logs"] if step in self.steps() else {}
        warnings = [log.rewind(marks.get(name), step) for name, log in self.logs.items()]
        return [text for text in warnings if text]

    # --- checkpoints -------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        return reader.steps(self.path)

    def _discard(self, step: int) -> None:
        """Removes a checkpoint: it is there or not, never in part, whenever the process dies."""
        gone = self.checkpoints / f".tmp-{os.getpid()}-gone-{step:08d}"
        reader.checkpoint(self.path, step).rename(gone)
        shutil.rmtree(gone)

    def save(self, step: int, state: dict[str, PyTree], *, keep: int) -> None:
        """`state` by parts (learner, optimiser, ...), with what identifies the run it belongs to."""
        final, temporary = reader.checkpoint(self.path, step), self.checkpoints / f".tmp-{os.getpid()}-{step:08d}"
        run = self._run or (self.about() if self.exists else None)
        with storage(f"saving the checkpoint of step {step}"):
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                mark = tensors.write(temporary / TENSORS, named_arrays(state), synced)
                for log in self.logs.values():
                    log.sync()
                manifest = {
                    "format": schema.FORMAT,
                    "step": step,
                    "run": run and run["id"],
                    "recipe": run and run["recipe"],
                    "config": run and run["config"],
                    "files": {TENSORS: mark},
                    "logs": {name: log.mark() for name, log in self.logs.items()},
                }
                write_synced(temporary / MANIFEST, canonical(signed(manifest)))
                sync_folder(temporary)
                if final.exists():
                    self._discard(step)
                temporary.rename(final)
                sync_folder(self.checkpoints)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            for old in self.steps()[:-keep]:
                self._discard(old)

    def manifest(self, step: int) -> schema.Manifest:
        """The manifest of a checkpoint of the run that is here. Raises CheckpointRefused, naming the file."""
        manifest, path = reader.read_manifest(self.path, step), reader.checkpoint(self.path, step) / MANIFEST
        if not self.exists and manifest["run"] is None:
            return manifest
        run = self.about()
        mend = "put the run.json back that it was saved with"
        if manifest["recipe"] != run["recipe"]:
            raise refused(path, f"was saved by the recipe {manifest['recipe']}, run.json says {run['recipe']}", mend)
        if difference := changed(manifest["config"] or {}, run["config"], but=schema.MAY_CHANGE):
            raise refused(path, f"was saved with another configuration than that of run.json: {difference}", mend)
        if manifest["run"] != run["id"]:
            raise refused(path, "was saved by another run", mend)
        return manifest

    def load(self, step: int, template: dict[str, PyTree]) -> dict[str, PyTree]:
        """The state saved at `step`, or those parts of it that `template` has. Raises CheckpointRefused, naming the
        file, if a byte of it is wrong."""
        path = reader.checkpoint(self.path, step) / TENSORS
        wanted = tuple(f"[{part!r}]" for part in template)

        def choose(specs: dict[str, Any]) -> list[str]:
            chosen = {name: spec for name, spec in specs.items() if name.startswith(wanted)}
            check_names(template, chosen, str(path))
            return list(chosen)

        mark, mend = self.manifest(step)["files"][TENSORS], "use another checkpoint, or a copy of this one"
        try:
            return restore(template, tensors.read(path, mark, mend, choose))
        except FileNotFoundError:
            raise refused(path, "is not there", mend) from None

    def sound(self) -> list[int]:
        """Steps of the checkpoints that are whole."""
        whole = []
        for step in self.steps():
            path = reader.checkpoint(self.path, step) / TENSORS
            with contextlib.suppress(CheckpointRefused, FileNotFoundError):
                tensors.check_sum(path, self.manifest(step)["files"][TENSORS], "")
                whole.append(step)
        return whole

    def newest(self) -> int | None:
        """The step to go on from: the newest checkpoint whose log is whole, else the newest (None: there is none).

        A log that was cut is written again, bit for bit, by going back to the checkpoint before the cut.
        """
        steps = self.steps()
        log = reader.read_log(self.path / METRICS, "remove it to go on without it") if steps else b""
        for step in reversed(steps):
            mark = self.manifest(step)["logs"].get(METRICS)
            if mark is not None and reader.holds(log, mark):
                return step
        return steps[-1] if steps else None
