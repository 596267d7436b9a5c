"""Ranges of fields, checked where an object is made, whoever makes it: one message with the name and the range.

Plain numbers are checked. Arrays and wrappers pass, which are learned or checked by their own constructors, and so does
None, which means that there is no such thing.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any


def _require(what: str, holds: Callable[[Any], bool], values: dict[str, Any]) -> None:
    plain = {name: value for name, value in values.items() if isinstance(value, numbers.Number)}
    wrong = [f"{name}={value!r}" for name, value in plain.items() if not holds(value)]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)} must {what}")


def require_whole(least: int, **values: Any) -> None:
    """Raises ValueError unless these are whole numbers of at least `least`."""
    _require(
        f"be a whole number of at least {least}", lambda x: isinstance(x, numbers.Integral) and int(x) >= least, values
    )


def require_between(low: float | int, high: float | int, **values: Any) -> None:
    """Raises ValueError unless these lie in [low, high]."""
    _require(f"lie in [{low:g}, {high:g}]", lambda x: low <= x <= high, values)


def require_at_least(low: float | int, **values: Any) -> None:
    """Raises ValueError unless these are finite numbers of at least `low`."""
    _require(f"be a finite number of at least {low:g}", lambda x: x >= low and math.isfinite(x), values)


def require_above(low: float | int, **values: Any) -> None:
    """Raises ValueError unless these are finite numbers above `low`."""
    _require(f"be a finite number above {low:g}", lambda x: x > low and math.isfinite(x), values)


def require_one_of(choices: tuple, **values: Any) -> None:
    """Raises ValueError unless these are among the choices."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
