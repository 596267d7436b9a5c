"""Configurations: frozen dataclasses whose fields declare what they mean and what they may be. Imports nothing heavy.

    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the network's hidden layers"] = 64

The text is the option's help on the command line; the bounds are checked here, for all configurations.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

COUNTS, SIZES, STEPS = 10**7, 65_536, 10**9  # upper bounds, beyond which nothing can be held in memory or waited for


class ConfigError(ValueError):
    """The configuration cannot be run. `errors` holds one message for each thing that is wrong."""

    def __init__(self, errors: list[str]):
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclasses.dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included."""

    low: int | float
    high: int | float

    def __call__(self, value: Any) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"lie in [{self.low:g}, {self.high:g}]"


@dataclasses.dataclass(frozen=True)
class Inside(Between):
    """A number strictly between `low` and `high`, as where a bounded number starts to be learned."""

    def __call__(self, value: Any) -> bool:
        return self.low < value < self.high

    def __str__(self) -> str:
        return f"lie in ({self.low:g}, {self.high:g})"


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """A number from `low` to `most`."""

    low: int | float
    most: int | float = COUNTS

    def __call__(self, value: Any) -> bool:
        return self.low <= value <= self.most

    def __str__(self) -> str:
        return f"be at least {self.low:g} and at most {self.most:.10g}"


@dataclasses.dataclass(frozen=True)
class Above:
    """A number above `low`."""

    low: int | float = 0

    def __call__(self, value: Any) -> bool:
        return value > self.low

    def __str__(self) -> str:
        return f"be above {self.low:g}"


@dataclasses.dataclass(frozen=True)
class Multiple:
    """A whole number that `of` divides."""

    of: int

    def __call__(self, value: Any) -> bool:
        return value % self.of == 0

    def __str__(self) -> str:
        return f"be a multiple of {self.of}"


@dataclasses.dataclass(frozen=True)
class Declared:
    """What one field of a configuration declares of itself."""

    name: str
    kind: Any  # its type, without what it declares
    help: str
    checks: tuple[Any, ...]


def declared(config: type) -> dict[str, Declared]:
    """The fields of a dataclass by name."""
    hints = get_type_hints(config, include_extras=True)
    found = {}
    for field in dataclasses.fields(config):
        kind, *extras = (
            get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else [hints[field.name]]
        )
        text = " ".join(extra for extra in extras if isinstance(extra, str))
        found[field.name] = Declared(field.name, kind, text, tuple(extra for extra in extras if callable(extra)))
    return found


def mistyped(field: Declared, value: Any) -> list[str]:
    """What is wrong with the type of a field's value, or with a choice that is none."""
    if get_origin(field.kind) is Literal:
        choices = get_args(field.kind)
        return (
            [] if value in choices else [f"{field.name} must be one of {', '.join(map(str, choices))}, got {value!r}"]
        )
    if _fits(value, field.kind):
        return []
    name = field.kind.__name__ if isinstance(field.kind, type) else str(field.kind)
    return [f"{field.name} must be of type {name}, got {value!r}"]


def wrong(field: Declared, value: Any) -> list[str]:
    """What is wrong with the value of a field: its type, a number that is not finite, or a bound."""
    if found := mistyped(field, value):
        return found
    for leaf in leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            return [f"{field.name} must be a finite number, got {leaf}"]
    return [
        f"{field.name} must {check}, got {value}"
        for check in field.checks
        if not all(check(leaf) for leaf in leaves(value))
    ]


def leaves(value: Any) -> Iterable[Any]:
    """The numbers and words of a value that may be a tuple of tuples."""
    if isinstance(value, tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(part, inner[0]) for part in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (int, str, bool):
        return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    return True  # whatever a configuration of one's own declares


def errors_in(config: Any) -> list[str]:
    """Everything wrong with the values of a configuration: what its fields declare, then what its `errors()` adds."""
    found = [why for field in declared(type(config)).values() for why in wrong(field, getattr(config, field.name))]
    more = getattr(config, "errors", list)
    return found or more()  # a check across fields may rely on each of them


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" where one of `names` is close."""
    near = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


@dataclasses.dataclass(frozen=True)
class Training:
    """How long and on how much to meta-train.

    Logging, saving and validating never change what is learned. 0 in one of the `_every` fields means a default
    that follows `meta_steps`; they count meta-steps.
    """

    meta_steps: Annotated[
        int, AtLeast(0, STEPS), "number of meta-training steps; 0: the learner is tested as it is"
    ] = 1000
    meta_batch: Annotated[int, AtLeast(1), "number of tasks in each meta-step"] = 32
    seed: Annotated[int, AtLeast(0, 2**32 - 2), "seed of everything that is drawn at random"] = 0
    log_every: Annotated[
        int,
        AtLeast(0, STEPS),
        "meta-steps between two lines of metrics, which are means over them (0: 200 lines a run)",
    ] = 0
    save_every: Annotated[
        int, AtLeast(0, STEPS), "meta-steps between two checkpoints, saved after a line of metrics (0: 20 a run)"
    ] = 0
    validate_every: Annotated[
        int, AtLeast(-1, STEPS), "meta-steps between two tests on validation tasks (0: 5 times a run; -1: never)"
    ] = 0
    max_diverged: Annotated[
        float, Between(0, 1), "the run fails when more than this fraction of the tasks between two lines diverge"
    ] = 0.5
    keep: Annotated[int, AtLeast(1), "number of checkpoints to keep, the newest ones"] = 3
    devices: Annotated[
        int, AtLeast(0, 65_536), "devices that share the tasks of a meta-step (0: all, or as many as divide them)"
    ] = 0
    cores: Annotated[
        int, AtLeast(0, 65_536), "CPU cores to use at most (0: all; one is faster where operations are small)"
    ] = 0

    def errors(self) -> list[str]:
        """What is wrong with the values together."""
        found = []
        if 0 < self.cores < self.devices:
            found.append(
                f"devices={self.devices} do not fit on cores={self.cores}; give as many, or 0 for all there are"
            )
        for name in ("save_every", "validate_every"):
            if 0 < getattr(self, name) < self.log_every:
                found.append(
                    f"{name}={getattr(self, name)} is less than log_every={self.log_every}, and that happens after a "
                    "line of metrics: log as often"
                )
        return found

    @property
    def log_interval(self) -> int:
        asked = [every for every in (self.save_every, self.validate_every) if every > 0]
        return self.log_every or max(1, min([self.meta_steps // 200, *asked]))

    @property
    def save_interval(self) -> int:
        return self.save_every or max(1, self.meta_steps // 20)

    @property
    def validate_interval(self) -> int:
        return self.validate_every or max(1, self.meta_steps // 5)
