"""JSON as a run writes it, and nothing else."""

import json
from collections.abc import Iterator
from typing import Any

DEPTH = 30


def parse(data: bytes) -> Any:
    """JSON. Raises ValueError where it is none, or holds what no run writes: NaN, half characters, numbers of more than
    64 bits, more than `DEPTH` levels."""
    try:
        value = json.loads(data.decode(), parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"more than {DEPTH} levels deep") from None
    level = [value]
    for _ in range(DEPTH):
        level = [inner for item in level for inner in _within(item)]
        if not level:
            return value
    raise ValueError(f"more than {DEPTH} levels deep")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _within(value: Any) -> Iterator[Any]:
    """What a value holds, one level below; raises ValueError where the value itself is no good."""
    if isinstance(value, str):
        value.encode()  # half a character raises
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("a number of more than 64 bits")
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError("a number that is not finite")
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        for key, inner in value.items():
            key.encode()
            yield inner
