"""The run folder: configuration, metrics as JSON lines, checkpoints. It is enough to go on, test and report.

    run.json                     what is run, with which versions
    metrics.jsonl                one line a log interval; nothing in it depends on the clock
    validation.jsonl             held-out performance while training
    timing.jsonl                 wall-clock seconds a log interval
    checkpoints/00001000/        state.safetensors, manifest.json

A checkpoint is complete or invisible: written to a temporary folder, synced, renamed. The manifest carries SHA-256
sums of the tensors, of itself and of the metrics so far, which are checked before anything is parsed. No pickle.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

TENSORS, MANIFEST, METRICS, LOCK = "state.safetensors", "manifest.json", "metrics.jsonl", "lock"


class CheckpointRefused(Exception):
    """A checkpoint is not what was written, or does not fit what is run. The message names the file."""


class FolderInUse(Exception):
    """Another run writes to this folder."""


class StorageFailed(Exception):
    """The disk refused a write. What was saved before is whole."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON that is the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Every array of a tree by its path; keys as their raw data."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array | np.ndarray):
            out[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return out


def digest(tree: PyTree) -> str:
    """SHA-256 over the names, types, shapes and bytes of every array of a tree."""
    total = hashlib.sha256()
    for name, array in sorted(named_arrays(tree).items()):
        total.update(canonical([name, str(array.dtype), list(array.shape)]))
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def restore(template: PyTree, arrays: dict[str, np.ndarray], where: str) -> PyTree:
    """`template` with every array replaced by the one of the same path."""
    expected = named_arrays(template)
    wrong = [f"{name} is missing" for name in expected.keys() - arrays.keys()]
    wrong += [f"{name} is unknown" for name in arrays.keys() - expected.keys()]
    for name in expected.keys() & arrays.keys():
        have, want = arrays[name], expected[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            wrong.append(f"{name} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}")
    if wrong:
        raise CheckpointRefused(f"{where} is of another model: {'; '.join(sorted(wrong)[:5])}")

    def replace(path, leaf):
        name = jax.tree_util.keystr(path)
        if name not in expected:
            return leaf
        array = jax.numpy.asarray(arrays[name])
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(array)
        return array

    return jax.tree_util.tree_map_with_path(replace, template)


@contextlib.contextmanager
def storage(doing: str) -> Iterator[None]:
    """Names what failed when the disk says no."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{doing} failed: {error.strerror or error} ({error.filename or 'no file'})") from error


def write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """The file holds the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunFolder:
    """Reads and writes one run's folder. Open it with `locked()` to write."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out. The lock is the kernel's, on a file that stays: it is gone with the process."""
        with storage(f"opening the run folder {self.path}"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / LOCK, "a+b")  # noqa: SIM115
        with lock:
            try:
                with storage(f"locking {self.path}"):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except StorageFailed as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                raise FolderInUse(
                    f"{self.path} is in use by {self._holder()}; let it end, or take another folder"
                ) from None
            with storage(f"opening the run folder {self.path}"):
                lock.truncate(0)
                lock.write(canonical({"pid": os.getpid(), "host": socket.gethostname()}))
                lock.flush()
                for stale in self.checkpoints.glob(".tmp-*"):  # of a process that died while it wrote
                    shutil.rmtree(stale)
                for stale in self.path.glob(".tmp-*"):
                    if not _alive(stale.name.split("-")[1]):  # a report takes no lock
                        stale.unlink(missing_ok=True)
            yield

    def _holder(self) -> str:
        try:
            holder = json.loads((self.path / LOCK).read_bytes())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    # --- what is run -------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").exists()

    def write_json(self, name: str, value: Any) -> None:
        with storage(f"writing {self.path / name}"):
            write_atomic(self.path / name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self.path} is not a run folder: it has no {name}") from None
        except OSError as error:
            raise CheckpointRefused(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise CheckpointRefused(f"{path} is not readable as JSON ({error}); the run folder is damaged") from None

    def about(self) -> dict[str, Any]:
        """What run.json says; runs from before it told how many devices share the tasks had one."""
        about = self.read_json("run.json")
        if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
            raise CheckpointRefused(f"{self.path / 'run.json'} has no configuration; the run folder is damaged")
        return {**about, "config": {"devices": 1, "cores": 0, **about["config"]}}

    def write_evaluation(self, summary: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> None:
        """The outcome of a test: name.json for people, name.safetensors with the scores of every task."""
        packed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with storage(f"writing the evaluation to {self.path}"):
            write_atomic(self.path / f"{name}.safetensors", safetensors.numpy.save(packed))
        self.write_json(f"{name}.json", summary)

    def read_evaluation(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `write_evaluation` wrote; without arrays where these are gone."""
        summary, path = self.read_json(f"{name}.json"), self.path / f"{name}.safetensors"
        try:
            return summary, safetensors.numpy.load(path.read_bytes()) if path.exists() else {}
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointRefused(
                f"{path} is damaged ({error}); test again: quickstudy evaluate {self.path}"
            ) from None

    # --- logs --------------------------------------------------------------------------------------------------

    def append(self, name: str, line: dict) -> None:
        with storage(f"writing {self.path / name}"), open(self.path / name, "ab") as file:
            file.write(canonical(line) + b"\n")

    def lines(self, name: str, *, partial: bool = False) -> list[dict]:
        """The whole lines of a log; a torn last one is dropped, and, unless `partial`, those which an interrupted run
        will go on with."""
        path = self.path / name
        if not path.exists():
            return []
        out = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                out.append(json.loads(line))
            except ValueError:
                break
        return out if partial else [line for line in out if "partial" not in line]

    def rewind(self, step: int) -> None:
        """Drops what came after `step`: later checkpoints, from every log the later lines, and torn ones."""
        for later in self.steps():
            if later > step:
                with storage(f"rewinding {self.checkpoints}"):
                    self._discard(later)
        for name in (METRICS, "validation.jsonl", "timing.jsonl"):
            kept = [line for line in self.lines(name, partial=True) if line["step"] <= step]
            with storage(f"rewinding {self.path / name}"):
                write_atomic(self.path / name, b"".join(canonical(line) + b"\n" for line in kept))

    # --- checkpoints -------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        return sorted(int(p.name) for p in self.checkpoints.glob("[0-9]*") if p.name.isdigit())

    def _discard(self, step: int) -> None:
        """Removes a checkpoint: it is there or not, never in part, whenever the process dies."""
        gone = self.checkpoints / f".tmp-{os.getpid()}-gone-{step:08d}"
        (self.checkpoints / f"{step:08d}").rename(gone)
        shutil.rmtree(gone)

    def _log_so_far(self, step: int) -> bytes:
        return b"".join(canonical(line) + b"\n" for line in self.lines(METRICS, partial=True) if line["step"] <= step)

    def save(self, step: int, state: dict[str, PyTree], *, keep: int, config: dict | None = None) -> None:
        """`state` by parts (learner, optimiser, ...); a part's digest is recorded so that runs can be compared, and
        `config` so that a change of it is noticed at a resume."""
        arrays = named_arrays(state)
        tensors = safetensors.numpy.save(arrays)
        manifest = {
            "format": 1,
            "step": step,
            "files": {TENSORS: sha256(tensors)},
            "digests": {name: digest(part) for name, part in state.items()},
            "metrics": sha256(self._log_so_far(step)),
            "config": config,
        }
        manifest["manifest"] = sha256(canonical(manifest))
        final, temporary = self.checkpoints / f"{step:08d}", self.checkpoints / f".tmp-{os.getpid()}-{step:08d}"
        with storage(f"saving the checkpoint of step {step}"):
            try:
                if (self.path / METRICS).exists():
                    with open(self.path / METRICS, "rb") as log:
                        os.fsync(log.fileno())
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                write_synced(temporary / TENSORS, tensors)
                write_synced(temporary / MANIFEST, canonical(manifest))
                _sync_folder(temporary)
                if final.exists():
                    self._discard(step)
                temporary.rename(final)
                _sync_folder(self.checkpoints)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            for old in self.steps()[:-keep]:
                self._discard(old)

    def manifest(self, step: int) -> dict:
        """The manifest of a checkpoint, after its own sum was checked."""
        path = self.checkpoints / f"{step:08d}" / MANIFEST
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointRefused(f"{path} cannot be read: {error.strerror}") from None
        try:
            manifest = json.loads(data)
            claimed = manifest.pop("manifest")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointRefused(f"{path} is damaged: it is not a manifest") from None
        # The bytes must be canonical too, so that no change, not even of white space, goes unseen.
        if claimed != sha256(canonical(manifest)) or canonical({**manifest, "manifest": claimed}) != data:
            raise CheckpointRefused(f"{path} is damaged: its checksum does not match")
        if manifest["step"] != step:
            raise CheckpointRefused(f"{path} belongs to step {manifest['step']}, not {step}: folders were swapped")
        return manifest

    def load(self, step: int, template: dict[str, PyTree]) -> dict[str, PyTree]:
        """The state saved at `step`, or those parts of it that `template` has. Raises CheckpointRefused, naming the
        file, if a byte of it is wrong."""
        arrays = safetensors.numpy.load(self._tensors(step))
        wanted = tuple(f"[{part!r}]" for part in template)
        where = str(self.checkpoints / f"{step:08d}" / TENSORS)
        return restore(template, {n: a for n, a in arrays.items() if n.startswith(wanted)}, where)

    def _tensors(self, step: int) -> bytes:
        """The bytes of a checkpoint's tensors, after its sums were checked."""
        manifest = self.manifest(step)
        path = self.checkpoints / f"{step:08d}" / TENSORS
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointRefused(f"{path} cannot be read: {error.strerror}") from None
        if sha256(data) != manifest["files"][TENSORS]:
            raise CheckpointRefused(f"{path} is damaged: its checksum does not match")
        return data

    def sound(self) -> list[int]:
        """Steps of the checkpoints that are whole."""
        whole = []
        for step in self.steps():
            with contextlib.suppress(CheckpointRefused):
                self._tensors(step)
                whole.append(step)
        return whole

    def newest(self) -> int | None:
        """The step to go on from: the newest checkpoint whose log is whole, else the newest (None: there is none).

        A log that was cut is written again, bit for bit, by going back to the checkpoint before the cut.
        """
        steps = self.steps()
        for step in reversed(steps):
            if self.manifest(step)["metrics"] == sha256(self._log_so_far(step)):
                return step
        return steps[-1] if steps else None


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True
