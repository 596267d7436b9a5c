"""One writer a run folder. Imports no JAX, so that a second one is refused at once.

The lock is the kernel's, on a file that stays: it is gone with the process, however that ends. Who holds it stands in
lock.json. Where the kernel has none (see `filelock`), a file that is there only while it is held takes its place.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from quickstudy.runs import schema
from quickstudy.runs.errors import CheckpointRefused, FolderInUse, StorageFailed, refused
from quickstudy.runs.files import canonical, remove, storage, write_atomic
from quickstudy.runs.reader import read_json, signed

LOCK, HOLDER = "lock", "lock.json"
STALE = 600  # seconds after which a temporary file of a process that is not here is one of the dead
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "glusterfs", "fuse"}


class FolderLock(os.PathLike):
    """Keeps other runs out of a folder, within `held()`. May be given where a path to the folder is expected, and then
    stands for being inside already: `train(..., out=lock)`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.depth = 0
        self.lock = filelock.FileLock(self.path / LOCK, timeout=0, thread_local=False)

    def __fspath__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, if it is not there, and removes it again if nothing was written. Raises FolderInUse, and
        StorageFailed."""
        if not self.depth:
            self._take()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self._give_back()

    def _take(self) -> None:
        made = not self.path.exists()
        with storage(f"opening the run folder {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / LOCK
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise refused(file, "is not a regular file", "remove it")
        try:
            self.lock.acquire()
        except filelock.Timeout:  # which is an OSError too
            raise self._in_use("let it end, or take another folder") from None
        except OSError as error:
            raise StorageFailed(f"locking {self.path} failed: {error.strerror or error}") from error
        except NotImplementedError as error:
            raise FolderInUse(f"{self.path} cannot be locked ({error}); take a folder on another file system") from None
        try:
            self._refuse_another_host()
            with storage(f"opening the run folder {self.path}"):
                here = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                write_atomic(self.path / HOLDER, canonical(signed(here)))
                self._clean()
        except BaseException:
            self.lock.release()
            raise
        self.made = made

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / HOLDER).unlink()
            if self.made and {entry.name for entry in self.path.iterdir()} <= {LOCK}:
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()
        self.lock.release()

    def _holder(self) -> schema.Holder | None:
        try:
            return read_json(self.path / HOLDER, schema.Holder, "remove it")
        except (FileNotFoundError, CheckpointRefused):
            return None

    def _in_use(self, mend: str) -> FolderInUse:
        holder = self._holder()
        by = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
        return FolderInUse(f"{self.path} is in use by {by}; {mend}")

    def _refuse_another_host(self) -> None:
        """What a process left that holds no lock any more died. Not so on a network's file system: its kernel may keep
        locks to itself, and a process of another host cannot be asked for."""
        holder = self._holder()
        if holder and holder["host"] != socket.gethostname() and on_network(self.path):
            raise self._in_use(f"if that has ended there, remove {self.path / HOLDER}")

    def _clean(self) -> None:
        """Removes what processes left that died while they wrote."""
        for stale in self.path.glob("checkpoints/.tmp-*"):
            remove(stale)
        for stale in self.path.glob(".tmp-*"):  # a report takes no lock
            with contextlib.suppress(FileNotFoundError):
                old = time.time() - stale.lstat().st_mtime > STALE
                if old or not alive(stale.name.split("-")[1]):
                    remove(stale)


def alive(pid: str) -> bool:
    """Whether a process of this host has that number; where that cannot be known, yes."""
    if os.name == "nt":  # where a signal 0 is none
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def on_network(path: Path) -> bool:
    """Whether other hosts may write there too, as far as Linux knows."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    where = str(path.resolve())
    found = ("", "")
    for words in map(str.split, mounts):
        point = words[1].encode().decode("unicode_escape") if "\\" in words[1] else words[1]
        if (where == point or where.startswith(point.rstrip("/") + "/")) and len(point) >= len(found[0]):
            found = (point, words[2].split(".")[0])
    return found[1] in REMOTE
