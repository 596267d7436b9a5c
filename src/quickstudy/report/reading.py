"""What a report reads of a run folder, checked before anything is made of it. Nothing here imports a recipe."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.report.drawings.arrays import Unfit, check
from quickstudy.runs import METRICS, CheckpointRefused, RunFolder

# A schema is a type; [schema], a list; {name: schema}, a dict with these names ("name?": it may be missing or null) and
# any others; {...: schema}, one whose values are alike.
Schema = Any
MOST = 2**53  # the largest whole number that is read
PAIR = [float]
POINT = {"adaptations": int, "mean": float, "ci": PAIR}
MEASURED = {...: [{"mean?": float, "ci?": PAIR}]}
BASELINE = {
    "score": float, "ci": PAIR, "curve?": [POINT], "difference": {"mean": float, "ci": PAIR, "n": int},
    "behaviour?": MEASURED,
}  # fmt: skip
ABOUT = {
    "recipe?": str, "description?": str, "expected?": str, "command?": [str], "citations?": [str],
    "fingerprint?": dict, "config": dict, "history?": [{"step": int, "config": dict}],
}  # fmt: skip
EVALUATION = {
    "step?": int, "metric": str, "curve_metric?": str, "points_per_score?": float, "lower_is_better": bool,
    "score": float, "ci": PAIR, "n": int, "curve": [{**POINT, "iqm": float, "iqm_ci": PAIR}],
    "baselines": {...: BASELINE}, "diverged": [int], "note": str, "behaviour?": MEASURED, "drawings?": {...: str},
}  # fmt: skip
LINES = {
    METRICS: {"step": int, "diverged?": float, "loss?": float, "return?": float, "gradient_norm?": float},
    "validation.jsonl": {"step": int, "curve": [POINT]},
    "timing.jsonl": {"step": int, "steps": int, "seconds": float},
}


def faults(value: Any, schema: Schema, where: str) -> Iterator[str]:
    """What is not as the schema says, each with its place."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            yield f"{where} must be an object"
            return
        for name, inner in schema.items():
            if name is ...:
                for key, one in value.items():
                    yield from faults(one, inner, f"{where}.{key}")
            elif value.get(name.rstrip("?")) is not None:
                yield from faults(value[name.rstrip("?")], inner, f"{where}.{name.rstrip('?')}")
            elif not name.endswith("?"):
                yield f"{where}.{name} is missing"
    elif isinstance(schema, list):
        if not isinstance(value, list) or (schema is PAIR and len(value) != 2):
            yield f"{where} must be {'two numbers' if schema is PAIR else 'a list'}"
            return
        for i, one in enumerate(value):
            yield from faults(one, schema[0], f"{where}[{i}]")
    elif schema is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            yield f"{where} must be a finite number"
    elif schema is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST:
            yield f"{where} must be a whole number"
    elif not isinstance(value, schema):
        yield f"{where} must be of type {schema.__name__}"


def _finite(value: float | int) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def checked(value: Any, schema: Schema, path: Path) -> Any:
    """The value, or CheckpointRefused with the first thing that is wrong."""
    for fault in faults(value, schema, ""):
        raise CheckpointRefused(f"{path} is damaged: {fault.lstrip('.') if fault[:1] == '.' else 'it' + fault}")
    return value


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report reads of a run folder."""

    path: Path
    about: dict[str, Any]
    evaluation: dict[str, Any] | None
    arrays: dict[str, np.ndarray]
    metrics: list[dict]
    validation: list[dict]
    timing: list[dict]

    @staticmethod
    def read(path: str | os.PathLike) -> "Run":
        """Raises FileNotFoundError where there is no run, and CheckpointRefused, naming the file, for a damaged one."""
        folder = RunFolder(path)
        try:
            about = checked(folder.about(), ABOUT, folder.path / "run.json")
            logs = [
                [checked(line, schema, folder.path / name) for line in folder.lines(name)]
                for name, schema in LINES.items()
            ]
            return Run(folder.path, about, *_tested(folder), *logs)
        except RecursionError:
            raise CheckpointRefused(f"{folder.path} is damaged: one of its files is nested too deeply") from None

    @property
    def test(self) -> dict[str, Any]:
        """What evaluation.json says, of a run that was tested."""
        assert self.evaluation is not None
        return self.evaluation

    @property
    def recipe(self) -> str:
        name = self.about.get("recipe") or "custom run"
        return Path(name).name if ":" in name else name

    @property
    def config(self) -> dict[str, Any]:
        """The fields of the configuration by dotted names."""
        return flat(self.about["config"])

    @property
    def curve_metric(self) -> str:
        """What the curves count, with its unit."""
        return (self.test.get("curve_metric") or self.test["metric"]) if self.evaluation else "score"

    def drawing(self, which: str) -> tuple[str, dict[str, np.ndarray]]:
        """The declared kind of one of the drawings of the test, and its arrays; an empty kind where there is none."""
        kind = (self.test.get("drawings") or {}).get(which, "") if self.evaluation else ""
        start = f"drawing/{which}/"
        return kind, {name.removeprefix(start): a for name, a in self.arrays.items() if name.startswith(start)}


def _tested(folder: RunFolder) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """What evaluation.json and the arrays beside it hold; (None, {}) before the run was tested."""
    if not (folder.path / "evaluation.json").exists():
        return None, {}
    evaluation, arrays = folder.read_evaluation("evaluation")
    checked(evaluation, EVALUATION, folder.path / "evaluation.json")
    shapes = {"values": f"{evaluation['n']}", "tasks": f"{evaluation['n']}", "curves": f"{evaluation['n']} points"}
    try:
        check(arrays, {name: shape for name, shape in shapes.items() if name in arrays})
    except Unfit as error:
        where = f"{folder.path / 'evaluation.safetensors'} is not that of evaluation.json"
        raise CheckpointRefused(f"{where} ({error}); test again") from None
    return evaluation, arrays


def flat(config: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    fields = {}
    for name, value in config.items():
        fields |= flat(value, f"{start}{name}.") if isinstance(value, dict) else {start + name: value}
    return fields
