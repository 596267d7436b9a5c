"""Digests of values: two values of one digest are the same to whatever is computed from them."""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

DEPTH = 100  # nested values beyond this have no digest


class NoDigest(TypeError):
    """A value that cannot be digested; the message says which one and why."""


def digest(value: Any, fields: Callable[[Any], Sequence[str] | None] = lambda node: None) -> str:
    """SHA-256 of numbers, texts, arrays, containers, enumerations, objects by their class and fields, and functions by
    the module and name under which they can be found again.

    fields: of an object, the names of the fields that count; None for all

    Raises NoDigest for what has no such name: functions defined within others, and lambdas.
    """
    found = hashlib.sha256()
    for part in _parts(value, fields, "", DEPTH):
        found.update(len(part).to_bytes(8, "little") + part)  # with their lengths no two sequences of parts agree
    return found.hexdigest()


def _parts(value: Any, fields: Callable, path: str, depth: int) -> Iterable[bytes]:
    if not depth:
        raise NoDigest(f"{path or 'the value'} is nested too deeply")
    inner = lambda name, node: _parts(node, fields, f"{path}{name}", depth - 1)
    yield type(value).__qualname__.encode()
    match value:
        case None | bool() | int() | float() | complex() | str():
            yield repr(value).encode("utf-8", "surrogatepass")
        case bytes():
            yield value
        case enum.Enum():
            yield value.name.encode()
        case jax.Array() | np.ndarray() | np.generic():
            array = np.ascontiguousarray(jax.random.key_data(value) if _is_key(value) else value)  # type: ignore
            if array.dtype.hasobject:
                raise NoDigest(f"{path} is an array of Python objects")
            yield f"{array.dtype} {array.shape}".encode()
            yield array.tobytes()
        case Mapping():
            for key in sorted(value, key=repr):
                yield from inner(f"[{key!r}]", key)
                yield from inner(f"[{key!r}]", value[key])
        case list() | tuple():
            yield str(len(value)).encode()
            for i, item in enumerate(value):
                yield from inner(f"[{i}]", item)
        case set() | frozenset():
            yield from sorted(digest(item, fields).encode() for item in value)
        case functools.partial():
            yield from inner(".func", value.func)
            yield from inner(".args", value.args)
            yield from inner(".keywords", value.keywords)
        case type() | types.FunctionType() | types.BuiltinFunctionType() | jax.custom_jvp() | jax.custom_vjp():
            yield _name(value, path)
        case _:
            yield _name(type(value), path)
            chosen = fields(value)
            if chosen is None and dataclasses.is_dataclass(value):
                chosen = [field.name for field in dataclasses.fields(value)]
            if chosen is None:
                if hasattr(value, "__wrapped__") and callable(value):  # a function that a transformation wraps
                    chosen = ["__wrapped__"]
                elif hasattr(value, "__dict__"):
                    chosen = sorted(vars(value))
                else:
                    raise NoDigest(f"{path or 'the value'} is a {type(value).__name__}, of which nothing can be read")
            for name in chosen:
                yield name.encode()
                yield from inner(f".{name}", getattr(value, name))


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def _name(value: Any, path: str) -> bytes:
    name = f"{value.__module__}.{value.__qualname__}"
    if "<" in name:
        raise NoDigest(f"{path or 'the value'} is {name}, which is defined within a function: define it in a module")
    return name.encode()
