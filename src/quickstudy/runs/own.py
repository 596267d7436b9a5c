"""Recipes that are none of quickstudy's own. A run folder is data: what it names of a person's own is imported only
when a person names it in the very command, and only if it is what made the run. It is a card, "file.py:card" or
"module:card", or tasks and a method, "file.py:Tasks+rl2" or "grid+file.py:Method".
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quickstudy.runs.errors import refused
from quickstudy.runs.files import read_regular, sha256

MOST = 2**24  # bytes of a recipe's file


def is_own(reference: str) -> bool:
    """Whether this is a class of a person's own, rather than a name that `quickstudy list` has."""
    return ":" in reference or "/" in reference or os.sep in reference or reference.endswith(".py")


def short(reference: str) -> str:
    """As run.json names it: files without their folders."""
    return "+".join(f"{Path(where).name}:{name}" if where else name for where, name in map(_file, reference.split("+")))


def digest_of(reference: str) -> str | None:
    """SHA-256 of the file that is named, of the digests of both where there are two; None for a module's, which cannot
    be found without importing it."""
    files = [where for where, _ in map(_file, reference.split("+")) if where]
    digests = [sha256(read_regular(file, MOST, "name the file of the recipe")) for file in files]
    return sha256("".join(digests).encode()) if len(digests) > 1 else next(iter(digests), None)


def _file(part: str) -> tuple[str, str]:
    """(file, name in it) of "file.py:Name"; ("", all) of anything else."""
    where, _, name = part.rpartition(":")
    return (where, name) if where.endswith(".py") else ("", part)


def recipe_of(run: Mapping[str, Any], folder: str | os.PathLike, given: str | None = None) -> str:
    """The recipe to build for a run, of which `schema.Run` is the type: the one that run.json names if it is
    quickstudy's own, else the one that the person has `given`, if it is the same. Nothing is imported.

    Raises CheckpointRefused, with the mend, ValueError where no recipe made the run, and FileNotFoundError where the
    file that was given is not there.
    """
    path, name = Path(folder, "run.json"), run["recipe"]
    if name is None:
        raise ValueError(f"{os.fspath(folder)} was not made by a recipe: give `like=`, a learner of the same structure")
    if not is_own(name):
        if given not in (None, name):
            raise refused(path, f"is of the recipe {name}, not {given}", "leave the recipe out")
        return name
    if given is None:
        how = f"with --recipe PATH/{short(name)}, or recipe=... in Python, if you trust that file"
        raise refused(path, f"is of a recipe of somebody's own, {name}", f"name it {how}")
    if short(given) != short(name):
        raise refused(path, f"is of the recipe {short(name)}, not {short(given)}", "name that one")
    expected, found = run.get("recipe_file"), digest_of(given)
    if expected is not None and found != expected:
        is_other = f"is of another {short(name)}: the file was changed since, or is another of that name"
        raise refused(path, is_other, f"give the file with the SHA-256 {expected[:16]}…")
    return given
