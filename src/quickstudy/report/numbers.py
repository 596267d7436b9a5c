"""The figures of a report as JSON, for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from quickstudy.report.grouping import groups, label
from quickstudy.report.pairing import differences
from quickstudy.report.reading import Run


def numbers(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page says in numbers: `runs`, each with what its test found or null; `groups`, runs that differ in the
    seed alone, pooled; `differences`, paired, of every two groups, each with mean, ci and n, or with `refused`."""
    tested = groups(runs)
    return {
        "runs": [_of_run(run, runs) for run in runs],
        "groups": [
            {
                "label": group.label,
                "runs": [str(run.path) for run in group.runs],
                "metric": group.runs[0].test["metric"],
                "score": group.score[0],
                "ci": list(group.score[1]),
                "curve_metric": group.runs[0].curve_metric,
                "curve": [{k: p[k] for k in ("adaptations", "mean")} | {"ci": list(p["ci"])} for p in group.points],
            }
            for group in tested
        ],
        "differences": [_of_pair(pair) for pair in differences(tested)],
    }


def _of_run(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    if run.evaluation is None:
        found = None
    else:
        names = ("step", "metric", "lower_is_better", "score", "ci", "n", "curve", "baselines", "diverged", "note")
        found = {name: run.test.get(name) for name in names} | {"curve_metric": run.curve_metric}
    step = run.metrics[-1]["step"] if run.metrics else 0
    return {"run": str(run.path), "recipe": run.about.get("recipe"), "label": label(run, runs), "meta_steps": step} | {
        "test": found
    }


def _of_pair(pair: Any) -> dict[str, Any]:
    if pair.refused:
        return {"ours": pair.ours, "theirs": pair.theirs, "refused": pair.refused}
    return {**dataclasses.asdict(pair), "ci": list(pair.ci)}
