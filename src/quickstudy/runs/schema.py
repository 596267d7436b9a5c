"""What the files of a run folder hold, as types; see `checks` for what these may say."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from quickstudy.runs.checks import REST, Holds, Value

FORMAT = 2  # of the folders written here; the first edition's have other bits for the same seed
METRICS, VALIDATION, TIMING = "metrics.jsonl", "validation.jsonl", "timing.jsonl"
PARTIAL = "partial.jsonl"  # lines of metrics that were interrupted

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
REST[MetricsLine] = float | None
