"""What the files of a run folder hold, as types; and `check`, which holds a value against such a type.

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
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NotRequired, TypedDict

FORMAT = 2  # of the folders written here; the first edition's have other bits for the same seed
METRICS, VALIDATION, TIMING = "metrics.jsonl", "validation.jsonl", "timing.jsonl"
PARTIAL = "partial.jsonl"  # lines of metrics that were interrupted

Value = Any  # whatever JSON can say


@dataclasses.dataclass(frozen=True)
class Holds:
    """A condition, and its wording in an error."""

    what: str
    test: Callable[[Any], bool]


Count = Annotated[int, Holds("0 or more", lambda x: x >= 0)]
Word = Annotated[str, Holds("at most 1,000 characters", lambda x: len(x) <= 1000)]
Digest = Annotated[
    str, Holds("a SHA-256 in hexadecimal", lambda x: len(x) == 64 and not x.strip("0123456789abcdef"))
]  # fmt: skip
Interval = tuple[float, float]


class Config(TypedDict):
    """The part of a configuration that every run has; the rest are the recipe's own fields."""

    meta_steps: Count
    meta_batch: Count
    seed: Count
    devices: Count
    cores: Count


# Fields that may be another when a run goes on; `quickstudy resume` has an option for each.
MAY_CHANGE = frozenset(
    {
        "meta_steps", "log_every", "save_every", "validate_every", "max_diverged", "keep", "test_tasks", "devices",
        "cores",
    }
)  # fmt: skip


def flat(config: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """{"tasks": {"ways": 5}} as {"tasks.ways": 5}; fields that every run has are not named by their part."""
    fields = {}
    for name, value in config.items():
        inner = "" if name == "training" else f"{name}."
        fields |= flat(value, start + inner) if isinstance(value, dict) else {start + name: value}
    return fields


class Change(TypedDict):
    """The configuration from a step on."""

    step: Count
    config: dict[str, Value]


class Run(TypedDict):
    """run.json.

    format: of the folder
    command: the words that began it
    history: of a run that went on with another configuration, the first one and all that followed
    id: SHA-256 of what was written first, which stays when the run goes on with other fields of `MAY_CHANGE`
    recipe: a name that `quickstudy list` has, "file.py:Class" or "module:Class" of one that it has not, or None
    recipe_file: SHA-256 of the file of such a class
    """

    format: Annotated[int, Holds(f"{FORMAT}", lambda x: x == FORMAT)]
    quickstudy: Word
    id: Digest
    recipe: Word | None
    recipe_file: NotRequired[Digest | None]
    config: Config
    command: NotRequired[list[str]]
    history: NotRequired[list[Change]]
    source: NotRequired[str]
    expected: NotRequired[str]
    description: NotRequired[str]
    citations: NotRequired[list[str]]
    fingerprint: NotRequired[dict[str, Value]]


class Mark(TypedDict):
    """The first bytes of a file, or all of them."""

    bytes: Count
    sha256: Digest


class Manifest(TypedDict):
    """checkpoints/*/manifest.json.

    run, recipe, config: of the run.json that it was saved with (None: there was none)
    files: of the tensors, all
    logs: of each log up to here
    """

    format: Annotated[int, Holds(f"{FORMAT}", lambda x: x == FORMAT)]
    step: Count
    run: Digest | None
    recipe: Word | None
    config: dict[str, Value] | None
    files: dict[str, Mark]
    logs: dict[str, Mark]


class Point(TypedDict):
    """Of a curve: the mean and the interquartile mean over tasks, with 95 % intervals."""

    adaptations: Count
    mean: float
    iqm: float
    ci: Interval
    iqm_ci: Interval


class Difference(TypedDict):
    """Ours minus theirs, paired."""

    mean: float
    ci: Interval
    n: Count


class Measure(TypedDict, total=False):
    """Of behaviour; empty where no task has anything to say."""

    mean: float
    ci: Interval


Behaviour = dict[str, list[Measure]]


class Baseline(TypedDict):
    """What was tested beside the learner, on the same tasks."""

    score: float
    ci: Interval
    curve: list[Point] | None
    difference: Difference
    behaviour: NotRequired[Behaviour]


class Belongs(TypedDict):
    """What was tested: the run, the tensors of its checkpoint, and the fields that may not change."""

    run: Digest
    checkpoint: Digest
    config: Digest


class Evaluation(TypedDict):
    """evaluation.json, and the like of tests under other settings.

    curve_metric, points_per_score: what the points of `curve` count, and how many of them a score adds up
    drawings: the kinds of what was recorded to be drawn, by what they are of
    other: fields of the recipe that were another than in training
    arrays: of the .safetensors file beside it
    """

    step: Count
    metric: Word
    curve_metric: NotRequired[Word]
    points_per_score: NotRequired[Annotated[float, Holds("above 0", lambda x: x > 0)]]
    lower_is_better: bool
    score: float
    ci: Interval
    n: Annotated[int, Holds("at least 1", lambda x: x >= 1)]
    curve: Annotated[list[Point], Holds("a list with something in it", bool)]
    baselines: dict[str, Baseline]
    diverged: list[Count]
    note: str
    behaviour: NotRequired[Behaviour]
    drawings: NotRequired[dict[str, Word]]
    other: NotRequired[dict[str, Value]]
    belongs: Belongs
    arrays: Mark


class MetricsLine(TypedDict):
    """metrics.jsonl: means over the steps since the line before; `diverged_tasks` are [step, task]."""

    step: Count
    diverged: Count
    diverged_tasks: NotRequired[list[tuple[Count, Count]]]


class ValidationPoint(TypedDict):
    """Of a curve, while training."""

    adaptations: Count
    mean: float
    ci: Interval


class ValidationLine(TypedDict):
    """validation.jsonl."""

    step: Count
    metric: Word
    curve: list[ValidationPoint]
    n: Count


class TimingLine(TypedDict):
    """timing.jsonl: what the steps since the line before took."""

    step: Count
    seconds: Annotated[float, Holds("0 or more", lambda x: x >= 0)]
    steps: Count


class Holder(TypedDict):
    """lock.json."""

    pid: Count
    host: Word
    since: Word


class Spec(TypedDict):
    """Of one array in the header of a .safetensors file."""

    dtype: Word
    shape: list[Count]
    data_offsets: tuple[Count, Count]


Header = dict[str, Spec]


Moment = float | Annotated[str, Holds("nan, inf or -inf", lambda x: x in ("nan", "inf", "-inf"))]


class PartialLine(TypedDict):
    """partial.jsonl: what is known at `step` of the line that began after step `first`. Moments are those of each step:
    number, mean and sum of squared deviations, as text where they are not finite."""

    step: Count
    first: Count
    steps: Count
    tasks: Count
    diverged: Count
    where: list[tuple[Count, Count]]
    moments: dict[str, list[tuple[Moment, Moment, Moment]]]
    by_task: list[str]


LINES: dict[str, type] = {METRICS: MetricsLine, VALIDATION: ValidationLine, TIMING: TimingLine, PARTIAL: PartialLine}
REST: dict[Any, Any] = {MetricsLine: float | None}


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
