"""What a report reads of a run folder. The readers check every file; nothing here imports a recipe."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.runs import reader
from quickstudy.runs.schema import METRICS, TIMING, VALIDATION, flat


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
        about = reader.read_run(path)
        try:
            evaluation, arrays = reader.read_evaluation(path, run=about)
        except FileNotFoundError:  # not tested yet
            evaluation, arrays = None, {}
        logs = [reader.read_lines(path, name) for name in (METRICS, VALIDATION, TIMING)]
        return Run(Path(path), dict(about), None if evaluation is None else dict(evaluation), arrays, *logs)

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
