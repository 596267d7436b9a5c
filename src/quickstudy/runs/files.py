"""Bytes on a disk: written whole or not at all, and read from nothing but regular files of a bounded size."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from quickstudy.runs.errors import StorageFailed, refused

# Where a system has no such flag there is no such file either.
_NONBLOCK, _NOFOLLOW = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder"}


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON that is the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


@contextlib.contextmanager
def storage(doing: str) -> Iterator[None]:
    """Names what failed when the disk says no."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{doing} failed: {error.strerror or error} ({error.filename or 'no file'})") from error


def write_synced(path: Path, data: bytes) -> None:
    """A new file, which is on the disk when this returns."""
    with open(path, "xb") as file:
        file.write(data)
        synced(file)


def synced(file: BinaryIO) -> None:
    """What was written to it is on the disk when this returns."""
    file.flush()
    os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """The file holds the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        write_synced(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Makes a rename within `path` last; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """A file, a link or a folder with all that is in it. A link is removed, not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_append(path: Path) -> BinaryIO:
    """To write at the end of a regular file. A link is refused, so that no folder makes us write outside of it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NONBLOCK | _NOFOLLOW | _BINARY
    descriptor = os.open(path, flags, 0o666)
    file = os.fdopen(descriptor, "ab")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(None, "not a regular file", str(path))
    return file


@contextlib.contextmanager
def open_regular(path: str | os.PathLike, limit: int, mend: str) -> Iterator[tuple[BufferedReader, int]]:
    """(the file, its size). Nothing but a regular file of at most `limit` bytes is opened, so that a pipe or a device
    in its place neither hangs nor fills the memory. Raises FileNotFoundError, and CheckpointRefused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{os.fspath(path)} is not there") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise refused(path, f"cannot be read: {getattr(error, 'strerror', None) or error}", mend) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
            raise refused(path, f"is {kind}, not a regular file", mend)
        if status.st_size > limit:
            raise refused(path, f"has {status.st_size:,} bytes, more than the {limit:,} that it may have", mend)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file, status.st_size
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror or error}", mend) from None
    finally:
        os.close(descriptor)


def read_regular(path: str | os.PathLike, limit: int, mend: str) -> bytes:
    """The bytes of a regular file, at most `limit`; see `open_regular`."""
    with open_regular(path, limit, mend) as (file, _):
        data = file.read(limit + 1)
    if len(data) > limit:  # it grew meanwhile
        raise refused(path, f"has more than the {limit:,} bytes that it may have", mend)
    return data
