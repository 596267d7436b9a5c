"""What the arrays of a picture must be, so that a damaged file is distinguished from a picture that cannot be drawn."""

from collections.abc import Mapping

from numpy.typing import NDArray


class Unfit(ValueError):
    """The arrays are not those of the picture. The message names one that is not."""


def check(arrays: Mapping[str, NDArray], shapes: Mapping[str, str]) -> None:
    """Raises Unfit unless `arrays` has every name of `shapes`, with numbers of the shape given there.

    A shape is written as "tasks pulls 2": a word is the same length wherever it stands. "tasks pulls < arms" holds
    whole numbers from 0 to below the length of `arms`.
    """
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise Unfit(f"{name} is missing")
        array, words = arrays[name], shape.partition(" <")[0].split()
        if array.dtype.kind not in "biuf" or array.ndim != len(words) or 0 in array.shape:
            raise Unfit(f"{name} is {array.dtype}{list(array.shape)}, and must be numbers [{', '.join(words)}]")
        for word, length in zip(words, array.shape, strict=True):
            expected = int(word) if word.isdigit() else lengths.setdefault(word, length)
            if expected != length:
                raise Unfit(f"{name} has {length} {word} where {expected} are expected")
    for name, shape in shapes.items():
        if bound := shape.partition(" < ")[2]:
            array = arrays[name]
            if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= lengths[bound]:
                raise Unfit(f"{name} must hold whole numbers from 0 to {lengths[bound] - 1}")
