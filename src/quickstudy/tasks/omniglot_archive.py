"""Omniglot from its author's archives: 105x105 drawings become bits at 28x28 in one file, `omniglot28.npz`.

Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning through probabilistic program induction",
Science 350(6266). MIT licence. 1,623 characters of 50 alphabets, each drawn by 20 people.

    images          characters, 20, 98   bits row by row, 1 is ink: area average over 0.3
    images_nearest  characters, 20, 98   the same with the nearest pixel
    alphabet        characters           place in alphabet_names
    character       characters           number within the alphabet, from 1
    vinyals         characters           0 train, 1 validation, 2 test (Vinyals et al. 2016, "Matching Networks")
    alphabet_names  alphabets            those of the background set first, each set in order
    background, small1, small2           alphabets: Lake's background set and the two small ones within it
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from quickstudy.tasks.files import DataError, disk, extract, fetch, replacing

FILE = "omniglot28.npz"
DRAWERS, DRAWN, SIDE = 20, 105, 28
INK_OVER = 0.3  # of a pixel's area
DRAWING = re.compile(r"character(\d{1,2})/\d+_(\d{1,2})\.png")
MEMBER_BYTES = 4096  # about ten times the largest drawing: room enough, but not for a bomb


class Source(NamedTuple):
    """One of the archives, and what is known of it before it is fetched."""

    name: str
    url: str
    sha256: str
    max_bytes: int
    characters: int
    background: bool


# The sums were recorded by TensorFlow Datasets (with these sizes) and by torchvision's prototype, which agree.
SOURCES = (
    Source(
        name="images_background",
        url="https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
        sha256="ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        max_bytes=9_464_212,
        characters=964,
        background=True,
    ),
    Source(
        name="images_evaluation",
        url="https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
        sha256="1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        max_bytes=6_462_886,
        characters=659,
        background=False,
    ),
)


class Character(NamedTuple):
    """The drawings of one character, by drawer."""

    alphabet: str
    number: int
    drawings: list[Path]


def splits() -> dict[str, Any]:
    """What the archives do not say: `background`, `small1` and `small2` name alphabets, and `vinyals` has a digit
    for every character of each alphabet: 0 train, 1 validation, 2 test."""
    return json.loads(resources.files("quickstudy.tasks").joinpath("omniglot_splits.json").read_text("utf-8"))


def _overlaps() -> np.ndarray:
    """How much of each drawn pixel lies in each of the small ones, in units of 1/SIDE: whole numbers.

    Both grids are laid on a line of DRAWN * SIDE units, on which a drawn pixel has SIDE and a small one DRAWN.
    """
    low, high = np.arange(SIDE)[:, None] * DRAWN, np.arange(DRAWN)[None] * SIDE
    return np.clip(np.minimum(low + DRAWN, high + SIDE) - np.maximum(low, high), 0, None).astype(float)


OVERLAPS = _overlaps()
NEAREST = (2 * np.arange(SIDE) + 1) * DRAWN // (2 * SIDE)  # the drawn pixel below the centre of each small one


def area_averaged(ink: np.ndarray) -> np.ndarray:
    """Where over 0.3 of a small pixel's area is ink; exact, as all sums are of whole numbers.

    Pillow's box filter takes whole pixels only, with 105/28 = 3.75 of them a side, so it is another rendering.
    """
    return OVERLAPS @ ink @ OVERLAPS.T > INK_OVER * DRAWN**2


def nearest(ink: np.ndarray) -> np.ndarray:
    """The pixel below each small one's centre."""
    return ink[..., NEAREST[:, None], NEAREST]


def _read(path: Path) -> np.ndarray:
    """Where a drawing has ink. Its size is known from its header, before any pixel is unpacked."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.size == (DRAWN, DRAWN):
                return np.asarray(image.convert("L")) < 128
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{_short(path)} is not a readable PNG file ({error}); fetch the archive again") from error
    raise DataError(f"{_short(path)} has {width}x{height} pixels, not {DRAWN}x{DRAWN}; this is another data set")


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _alphabet(folder: Path, source: Source) -> Iterator[Character]:
    """The characters of one alphabet, in order, with none and no drawing missing."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        match = DRAWING.fullmatch(path.relative_to(folder).as_posix())
        if not match:
            raise DataError(f"{source.name} has a file {_short(path)}, not characterNN/IMAGE_DRAWER.png")
        found.setdefault(int(match[1]), {})[int(match[2])] = path
    for number, drawings in sorted(found.items()):
        if sorted(drawings) != list(range(1, DRAWERS + 1)):
            raise DataError(
                f"character {number} of {folder.name} in {source.name} has {len(drawings)} drawings, not "
                f"{DRAWERS} numbered from 1; fetch the archive again"
            )
        yield Character(folder.name, number, [drawings[d] for d in sorted(drawings)])
    if sorted(found) != list(range(1, len(found) + 1)):
        raise DataError(f"the characters of {folder.name} in {source.name} are not numbered from 1 without gaps")


def _characters(folder: Path, source: Source) -> list[Character]:
    """All characters of an unpacked archive, alphabets in order."""
    top = folder / source.name
    alphabets = sorted((p for p in top.iterdir() if p.is_dir()), key=lambda p: p.name) if top.is_dir() else []
    characters = [character for alphabet in alphabets for character in _alphabet(alphabet, source)]
    if len(characters) != source.characters:
        raise DataError(
            f"{source.url} has {len(characters)} characters below {source.name}/, not {source.characters}; this is "
            f"another data set"
        )
    return characters


def _gathered(source: Source, workplace: Path, progress: Callable[[str], object]) -> list[Character]:
    """Fetches and unpacks one archive, then lists what is in it."""
    archive, unpacked = workplace / f"{source.name}.zip", workplace / f"{source.name}-unpacked"
    progress(f"fetching {source.url} (up to {source.max_bytes / 1e6:.1f} MB)")
    fetch(source.url, archive, sha256=source.sha256, max_bytes=source.max_bytes)
    members = 2 * source.characters * DRAWERS  # folders are members too
    progress(f"unpacking {source.name}")
    extract(archive, unpacked, max_members=members, max_bytes=members * MEMBER_BYTES)
    return _characters(unpacked, source)


def _vinyals(characters: Sequence[Character], table: dict[str, str]) -> list[int]:
    """The split of every character; 0 for alphabets that are not Omniglot's."""
    last = {c.alphabet: c.number for c in characters}
    for name, number in last.items():
        if name in table and len(table[name]) != number:
            raise DataError(f"{name} has {number} characters, Omniglot's has {len(table[name])}; another data set")
    return [int(table[c.alphabet][c.number - 1]) if c.alphabet in table else 0 for c in characters]


def _rendered(characters: Sequence[Character]) -> tuple[np.ndarray, np.ndarray]:
    """(area averaged, nearest) bits of all drawings."""
    packed = lambda small: np.packbits(small.reshape(DRAWERS, -1), axis=-1)
    both = [(packed(area_averaged(ink)), packed(nearest(ink))) for ink in map(_inks, characters)]
    return np.stack([area for area, _ in both]), np.stack([near for _, near in both])


def _inks(character: Character) -> np.ndarray:
    return np.stack([_read(path) for path in character.drawings])


def _arrays(gathered: list[tuple[Source, list[Character]]]) -> dict[str, Any]:
    """Everything that goes into the file."""
    table = splits()
    of = {c.alphabet: source.background for source, characters in gathered for c in characters}
    for name, background in of.items():
        if name in table["vinyals"] and (name in table["background"]) != background:
            raise DataError(f"the alphabet {name} is in the wrong one of Omniglot's archives; this is another data set")
    names = list(of)
    characters = [c for _, characters in gathered for c in characters]
    images, images_nearest = _rendered(characters)
    return {
        "images": images,
        "images_nearest": images_nearest,
        "alphabet": np.array([names.index(c.alphabet) for c in characters], np.uint8),
        "character": np.array([c.number for c in characters], np.uint8),
        "alphabet_names": np.array(names),
        "background": np.array(list(of.values())),
        "small1": np.array([name in table["small1"] for name in names]),
        "small2": np.array([name in table["small2"] for name in names]),
        "vinyals": np.array(_vinyals(characters, table["vinyals"]), np.uint8),
    }


def build(folder: Path, *, sources: Sequence[Source] = SOURCES, progress: Callable[[str], object] = print) -> Path:
    """Fetches the archives and writes `omniglot28.npz` to `folder`, which is made if need be; returns its path.

    The file appears when it is complete, in place of one that was there. Everything else is removed again, also on
    failure. Raises DataError when an archive cannot be had, is not the one that is meant or is damaged, and when
    the disk refuses.
    """
    to = folder / FILE
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=folder, prefix=".tmp-"))
    try:
        ordered = sorted(sources, key=lambda source: not source.background)
        gathered = [(source, _gathered(source, workplace, progress)) for source in ordered]
        progress(f"rendering {sum(len(c) * DRAWERS for _, c in gathered):,} drawings at {SIDE}x{SIDE}")
        arrays = _arrays(gathered)
        with disk(to), replacing(to) as file:
            np.savez_compressed(file, **arrays)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return to
