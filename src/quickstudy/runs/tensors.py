"""Arrays by name in the safetensors format: a header of JSON, then the bytes of each array, with nothing between. Sums
are taken while the bytes go by, so that no second copy of them is made."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from quickstudy.runs import schema
from quickstudy.runs.checks import check
from quickstudy.runs.errors import refused
from quickstudy.runs.files import open_regular
from quickstudy.runs.strict import parse

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "C64": np.complex64,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
MOST = 2**40  # bytes of a file; what is read into memory is what the reader asks for
HEADER = 2**24
CHUNK = 2**20


def pieces(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The file, piece by piece. Raises TypeError for a type that the format has no name for."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # each then begins where it fits
    header, end = {}, 0
    for name in order:
        array = arrays[name]
        if array.dtype not in NAMES:
            raise TypeError(f"{name} is of type {array.dtype}, which cannot be saved; cast it to one of {list(DTYPES)}")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if arrays[name].size:
            yield np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data


def write(path: Path, arrays: Mapping[str, np.ndarray], sync: Callable[[BinaryIO], None]) -> schema.Mark:
    """Writes a file of them, and returns its size and sum."""
    total, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for piece in pieces(arrays):
            file.write(piece)
            total.update(piece)
            size += len(piece)
        sync(file)
    return {"bytes": size, "sha256": total.hexdigest()}


def check_sum(path: Path, mark: schema.Mark, mend: str) -> None:
    """Raises CheckpointRefused where the file is not the one that was marked, and FileNotFoundError."""
    with open_regular(path, MOST, mend) as (file, size):
        _check_sum(path, file, size, mark, mend)


def _check_sum(path: Path, file: BinaryIO, size: int, mark: schema.Mark, mend: str) -> None:
    total = hashlib.sha256()
    if size == mark["bytes"]:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    if size != mark["bytes"] or total.hexdigest() != mark["sha256"]:
        raise refused(path, "is damaged: its checksum does not match", mend)


def read(
    path: Path,
    mark: schema.Mark,
    mend: str,
    choose: Callable[[dict[str, Any]], list[str]] = list,
    limit: int = MOST,
) -> dict[str, np.ndarray]:
    """The arrays that `choose` picks of {name: (type, shape)}, after the file's sum was checked; `choose` may refuse
    them, before any is read. Raises CheckpointRefused, and FileNotFoundError."""
    with open_regular(path, limit, mend) as (file, size):
        _check_sum(path, file, size, mark, mend)
        file.seek(0)
        try:
            length = int.from_bytes(file.read(8), "little")
            if length > min(HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = parse(file.read(length))
            header.pop("__metadata__", None) if isinstance(header, dict) else None
            check(schema.Header, header)
            _check_offsets(header, size - 8 - length)
        except ValueError as error:
            raise refused(path, f"is not a file of arrays ({error})", mend) from None
        specs = {name: (np.dtype(DTYPES[spec["dtype"]]), tuple(spec["shape"])) for name, spec in header.items()}
        arrays = {}
        for name in choose(specs):
            dtype, shape = specs[name]
            try:
                array = np.empty(shape, dtype)
            except ValueError as error:  # no array can have that shape
                raise refused(path, f"has {name} of shape {list(shape)} ({error})", mend) from None
            file.seek(8 + length + header[name]["data_offsets"][0])
            if array.size and file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise refused(path, "is damaged: it ends too early", mend)
            arrays[name] = array
        return arrays


def _check_offsets(header: schema.Header, size: int) -> None:
    """Every byte belongs to one array, and every array has the bytes that it needs."""
    end = 0
    for name, spec in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, beyond = spec["data_offsets"]
        if spec["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of the unknown type {spec['dtype']}")
        need = math.prod(spec["shape"]) * np.dtype(DTYPES[spec["dtype"]]).itemsize
        if begin != end or beyond - begin != need or len(spec["shape"]) > 32:
            raise ValueError(f"{name} of shape {spec['shape']} is not where it should be")
        end = beyond
    if end != size:
        raise ValueError(f"{size - end} bytes belong to no array")
