"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people (Lake et al. 2015, Science 350).

Characters are split before anything else is done with them; turned by right angles, a training character is four
classes.

    maml      1,200 characters drawn by SPLIT_SEED, of which 100 are for validation; the other 423 for test, as in the
              code of Finn et al. 2017 (whose own draw is not published)
    vinyals   1,028 / 172 / 423, the split of Matching and Prototypical Networks
"""

import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from quickstudy.tasks.classes import Classes, check, pool_of, unpack_bits
from quickstudy.tasks.files import DataError, data_folder
from quickstudy.tasks.omniglot_archive import FILE, build

SPLIT_SEED = 2017
Split = Literal["maml", "vinyals"]
Rendering = Literal["area", "nearest"]
SIZE = (28, 28, 1)


def omniglot(
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    training_ways: int | None = None,
    split: Split = "maml",
    rendering: Rendering = "area",
    turns: int = 4,
    test_turns: int = 1,
    shift: float = 0.0,
    warp: float = 0.0,
    stream: bool = False,
    data: str | os.PathLike | None = None,
) -> Classes:
    """Few-shot tasks of characters, as images [28, 28, 1] of bytes, 1 where there is ink.

    rendering: how the 105×105 drawings were made small: by "area" (ink where it covers 0.3) or "nearest" pixel
    turns: 4 (each right angle is a class, in training) or 1
    test_turns: the same in validation and tests, where the papers had 4 and 1 is harder
    shift, warp: training images are moved by up to `shift` pixels, and turned, scaled and sheared by up to `warp`
    training_ways: classes of a training task, where that is another number than `ways`
    stream: labelled streams with `shots` of each class, for the Online objective, instead of episodes
    data: the folder with omniglot28.npz (default: $QUICKSTUDY_DATA); it is fetched from its author when missing

    Raises DataError when there is no data, ValueError for tasks that cannot be drawn.
    """
    if not (0 <= shift < 14 and 0 <= warp < 0.5):
        raise ValueError(f"shift must lie in [0, 14) pixels and warp in [0, 0.5), got {shift} and {warp}")
    if split not in get_args(Split) or rendering not in get_args(Rendering) or {turns, test_turns} - {1, 4}:
        raise ValueError(
            f"omniglot needs split in {get_args(Split)}, rendering in {get_args(Rendering)} and turns 1 or 4, "
            f"got {split!r}, {rendering!r}, {turns}, {test_turns}"
        )
    stored = _stored(Path(data_folder(data)))
    images = stored["images" if rendering == "area" else "images_nearest"]
    characters, drawings = images.shape[:2]
    items = images.reshape(characters * drawings, -1)
    pool = pool_of(items, np.repeat(np.arange(characters), drawings))
    parts = _parts(split, stored["vinyals"])
    note = f"Omniglot, {split} split ({'/'.join(str(len(p)) for p in parts)} characters), rendering by {rendering}"
    if turns == 4:
        note += f"; training characters are turned, those of the tests are {'too' if test_turns == 4 else 'not'}"
    if shift or warp:
        note += f"; training images are moved (by up to {shift:g} pixels) and warped (by {warp:g}), which no paper does"
    return check(
        Classes(
            pool, jnp.asarray(parts[0]), ways, shots, queries, parts,
            stream=stream, training_ways=training_ways, turns=turns, test_turns=test_turns, shift=shift, warp=warp,
            decode=unpack_bits(SIZE), note=note,
        )
    )  # fmt: skip


def _stored(folder: Path) -> dict[str, np.ndarray]:
    path = folder / FILE
    if not path.exists():
        say = lambda line: print(line, file=sys.stderr, flush=True)
        say(f"there is no {path} (--data or QUICKSTUDY_DATA say where it lies), so it is made")
        build(folder, progress=say)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("images", "images_nearest", "vinyals")}
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as Omniglot ({error}); delete it, and it is fetched again") from error
    count = len(arrays["vinyals"])
    if any(arrays[name].shape != (count, 20, 98) for name in ("images", "images_nearest")):
        raise DataError(f"{path} has images of shape {arrays['images'].shape}, not ({count}, 20, 98); delete it")
    return arrays


def _parts(split: Split, vinyals: np.ndarray) -> tuple[tuple[int, ...], ...]:
    if split == "vinyals":
        return tuple(tuple(int(c) for c in np.flatnonzero(vinyals == part)) for part in range(3))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(vinyals)).tolist()
    return tuple(order[:1100]), tuple(order[1100:1200]), tuple(order[1200:])
