"""What can be wrong with a run folder. Each message names the file, what is wrong with it, and the mend."""

import os


class CheckpointRefused(Exception):
    """A file of a run folder is not what was written, or does not fit what is run."""


class FolderInUse(Exception):
    """Another run writes to this folder."""


class StorageFailed(Exception):
    """The disk refused a write. What was saved before is whole."""


def refused(path: str | os.PathLike, what: object, mend: str) -> CheckpointRefused:
    """The one error of every file of a folder that is not as it was written."""
    text = f"{os.fspath(path)} {what}; {mend}" if mend else f"{os.fspath(path)} {what}"
    return CheckpointRefused(text.encode("utf-8", "backslashreplace").decode())
