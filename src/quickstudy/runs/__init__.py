"""The run folder: configuration, metrics as JSON lines, checkpoints. It is enough to go on, test and report.

    run.json                     what is run, with which versions
    metrics.jsonl                one line a log interval; nothing in it depends on the clock
    validation.jsonl             held-out performance while training
    timing.jsonl                 wall-clock seconds a log interval
    checkpoints/00001000/        state.safetensors, manifest.json
    evaluation.json              the outcome of the test, with evaluation.safetensors
    lock, lock.json              who writes to the folder

A folder is data: reading it runs no code of its own, and every file is checked against `schema` before it is used.
The names below load what they need when they are first used, so that the lock can be taken before JAX is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quickstudy.runs.errors import CheckpointRefused as CheckpointRefused
    from quickstudy.runs.errors import FolderInUse as FolderInUse
    from quickstudy.runs.errors import StorageFailed as StorageFailed
    from quickstudy.runs.files import canonical as canonical
    from quickstudy.runs.files import sha256 as sha256
    from quickstudy.runs.files import storage as storage
    from quickstudy.runs.files import write_atomic as write_atomic
    from quickstudy.runs.folder import MANIFEST as MANIFEST
    from quickstudy.runs.folder import TENSORS as TENSORS
    from quickstudy.runs.folder import RunFolder as RunFolder
    from quickstudy.runs.lock import LOCK as LOCK
    from quickstudy.runs.lock import FolderLock as FolderLock
    from quickstudy.runs.schema import METRICS as METRICS
    from quickstudy.runs.trees import digest as digest
    from quickstudy.runs.trees import named_arrays as named_arrays

_PUBLIC = {
    "errors": ["CheckpointRefused", "FolderInUse", "StorageFailed"],
    "files": ["canonical", "sha256", "storage", "write_atomic"],
    "folder": ["MANIFEST", "TENSORS", "RunFolder"],
    "lock": ["LOCK", "FolderLock"],
    "schema": ["METRICS"],
    "trees": ["digest", "named_arrays"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'quickstudy.runs' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"quickstudy.runs.{_HOME[name]}"), name)
    globals()[name] = value
    return value
