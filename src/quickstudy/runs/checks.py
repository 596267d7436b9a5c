"""Holds a value that JSON gave against a type.

A type here is what `typing` knows: int, float (finite, an integer will do), str, bool, None, unions, lists, tuples of a
fixed length, dicts of text to a type, TypedDicts, and Annotated with conditions. What a TypedDict does not list is
allowed if it is of the type that `REST` has for it, by default any `Value`.
"""

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NotRequired

Value = Any  # whatever JSON can say
REST: dict[Any, Any] = {}


@dataclasses.dataclass(frozen=True)
class Holds:
    """A condition, and how it is told."""

    what: str
    test: Callable[[Any], bool]


def check(kind: Any, value: Any, where: str = "") -> None:
    """Raises ValueError, saying where in the value it is not of this kind."""
    at = f"{where or 'it'} "
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        check(arguments[0], value, where)
        for condition in arguments[1:]:
            if not condition.test(value):
                raise ValueError(f"{at}is {_shown(value)}, not {condition.what}")
    elif kind is Value:
        return  # what a parser of JSON gives is one
    elif origin in (types.UnionType, typing.Union):
        _check_any(arguments, value, where)
    elif origin is list:
        _must(isinstance(value, list), at, "a list", value)
        for i, item in enumerate(value):
            check(arguments[0], item, f"{where}[{i}]")
    elif origin is tuple:
        _must(isinstance(value, list) and len(value) == len(arguments), at, f"a list of {len(arguments)}", value)
        for i, (item, inner) in enumerate(zip(value, arguments, strict=True)):
            check(inner, item, f"{where}[{i}]")
    elif origin is dict:
        _must(isinstance(value, dict), at, "an object", value)
        for key, item in value.items():
            check(arguments[1], item, f"{where}.{key}" if where else key)
    elif typing.is_typeddict(kind):
        _check_fields(kind, value, where)
    elif kind is float:
        _must(isinstance(value, int | float) and not isinstance(value, bool), at, "a number", value)
        if not math.isfinite(value):
            raise ValueError(f"{at}is not finite")
    elif kind is int:
        _must(isinstance(value, int) and not isinstance(value, bool), at, "an integer", value)
    else:
        _must(isinstance(value, kind), at, NAMES.get(kind, "null"), value)


NAMES = {str: "text", bool: "true or false"}


def _check_any(kinds: tuple, value: Any, where: str) -> None:
    if value is None and types.NoneType in kinds:
        return
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others:
        with contextlib.suppress(ValueError):
            check(kind, value, where)
            return
    check(last, value, where)  # whose complaint stands for all


def _check_fields(kind: Any, value: Any, where: str) -> None:
    _must(isinstance(value, dict), f"{where or 'it'} ", "an object", value)
    dot = f"{where}." if where else ""
    fields = _fields(kind)
    for name, inner in fields.items():
        if name in value:
            check(inner, value[name], f"{dot}{name}")
        elif name in kind.__required_keys__:
            raise ValueError(f"{dot}{name} is missing")
    rest = REST.get(kind, Value)
    for name in sorted(value.keys() - fields.keys()):
        check(rest, value[name], f"{dot}{name}")


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """The types of a TypedDict's fields, whether they have to be there or not."""
    hints = typing.get_type_hints(kind, include_extras=True)
    bare = lambda hint: typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint
    return {name: bare(hint) for name, hint in hints.items()}


def _must(holds: bool, at: str, what: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{at}must be {what}, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
