"""Standard streams that never end a run: what has no character there is replaced, a reader that left is not missed."""

import contextlib
import io
import os
import select
import sys
from typing import Any, TextIO


class Lasting(io.FileIO):
    """Writes to a descriptor until it is refused, and from then on nowhere."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        while len(left) and self.failed is None:
            try:
                done = super().write(left)
            except OSError as error:
                self.failed = error
                break
            if done is None:  # its reader is slow and does not want us to wait
                select.select([], [self], [])
            else:
                left = left[done:]
        return memoryview(data).nbytes


def lasting(stream: TextIO | None, descriptor: int) -> tuple[TextIO, Lasting]:
    """A stream in place of this one."""
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    raw = Lasting(descriptor, "w", closefd=False)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    errors = "backslashreplace" if descriptor == 2 else "replace"
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding, errors, line_buffering=raw.isatty() or descriptor == 2), raw


def make_last() -> list[Lasting]:
    """Puts lasting streams in the place of stdout and stderr, and opens those that were closed to nowhere, so that no
    file of ours takes their number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout, out = lasting(sys.stdout, 1)
    sys.stderr, error = lasting(sys.stderr, 2)
    return [out, error]


def refused(streams: list[Lasting]) -> str:
    """Why part of the output is lost, unless its reader closed the pipe; else empty."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    lost = [stream.failed for stream in streams if stream.failed and not isinstance(stream.failed, BrokenPipeError)]
    return f"the output could not be written: {lost[0].strerror}" if lost else ""
