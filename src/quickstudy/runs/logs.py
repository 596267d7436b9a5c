"""A log that grows by lines of JSON. The sum of its bytes is kept as they are written, so that a save needs no second
look at what was written before."""

import hashlib
import os
from pathlib import Path
from typing import Any

from quickstudy.runs.files import canonical, open_append, storage, write_atomic
from quickstudy.runs.reader import holds, read_log, whole_lines
from quickstudy.runs.schema import Mark


class Log:
    """One log of a run folder, written by whoever holds the folder's lock."""

    def __init__(self, path: Path):
        self.path = path
        self.sum: Any = None  # of all that is in it, once it was read
        self.size = 0

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line at the end."""
        data = canonical(line) + b"\n"
        self._known()
        with storage(f"writing {self.path}"), open_append(self.path) as file:
            file.write(data)
        self._add(data)

    def mark(self) -> Mark:
        """What was written so far."""
        self._known()
        return {"bytes": self.size, "sha256": self.sum.hexdigest()}

    def sync(self) -> None:
        """Makes what was written last."""
        if self.size:
            with open_append(self.path) as file:
                os.fsync(file.fileno())

    def rewind(self, mark: Mark | None, step: int) -> str:
        """Drops what came after `step`, whose checkpoint has this mark, and a torn last line; with None everything,
        which is kept beside. Where what came before is damaged, the damaged file is kept beside and what can be read of
        it goes on. Returns a warning for the user, or an empty text."""
        data, warning, beside = read_log(self.path, "remove it to go on without it"), "", None
        if mark is None:
            kept = b""
            if data:
                beside = self._beside("old")
                warning = f"warning: {self.path} begins anew; what was in it is kept as {beside.name}"
        else:
            sound = holds(data, mark)
            kept = data[: mark["bytes"]] if sound else b""
            before = [line["step"] for line in whole_lines(kept, self.path.name)[0][-1:]]
            lines, _ = whole_lines(data[len(kept) :], self.path.name, *before)
            lines = [line for line in lines if line["step"] <= step]
            kept += b"".join(canonical(line) + b"\n" for line in lines)
            if not sound:
                beside = self._beside("damaged")
                warning = (
                    f"warning: {self.path} is damaged; it is kept as {beside.name}, and {len(lines)} of its lines go on"
                )
        with storage(f"rewinding {self.path}"):
            if beside is not None:
                write_atomic(beside, data)
            if kept != data or not self.path.exists():  # a run has its logs from the beginning
                write_atomic(self.path, kept)
        self.sum, self.size = hashlib.sha256(kept), len(kept)
        return warning

    def _beside(self, why: str) -> Path:
        names = (self.path.with_name(f"{self.path.name}.{why}{'' if i == 1 else f'-{i}'}") for i in range(1, 10_000))
        return next(path for path in names if not os.path.lexists(path))

    def _known(self) -> None:
        if self.sum is None:
            self.sum = hashlib.sha256()
            self._add(read_log(self.path, "remove it to go on without it"))

    def _add(self, data: bytes) -> None:
        self.sum.update(data)
        self.size += len(data)
