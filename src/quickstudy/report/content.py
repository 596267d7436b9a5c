"""What the page says, as plain values: every text is escaped where the template writes it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from quickstudy.report.again import commands
from quickstudy.report.grouping import groups, label
from quickstudy.report.reading import Run
from quickstudy.report.style import when
from quickstudy.runs.own import is_own


@dataclasses.dataclass(frozen=True)
class Tile:
    """One figure: what it is, with its unit, and its interval."""

    what: str
    value: float | int
    ci: Sequence[float | int]


def tiles(run: Run, runs: Sequence[Run]) -> list[Tile]:
    """The score; of a single run also where its curve begins and ends, unless that is the score itself. Each says its
    unit: a score may add up what the points of the curve count."""
    test = run.test
    name = f"{label(run, runs)}: " if len(runs) > 1 else ""
    found = [Tile(f"{name}{test['metric']}, {test['n']:,} held-out tasks", test["score"], test["ci"])]
    if len(runs) == 1 and test["curve"]:
        first, last = test["curve"][0], test["curve"][-1]
        for point in (first, last) if len(test["curve"]) > 1 else (first,):
            if run.curve_metric != test["metric"] or not math.isclose(point["mean"], test["score"], rel_tol=1e-6):
                found.append(Tile(f"{run.curve_metric}, {when(point['adaptations'])}", point["mean"], point["ci"]))
    return found


def early(run: Run) -> str:
    """A note on a run that was tested before its end; empty for others."""
    step = run.test.get("step") if run.evaluation else None
    end = next((v for k, v in run.config.items() if k.rsplit(".", 1)[-1] == "meta_steps"), None)
    if step is None or not isinstance(end, int) or step >= end:
        return ""
    return f"tested after {step:,} of {end:,} meta-steps"


def warnings(run: Run) -> list[str]:
    """What a reader has to know of how the run was tested before believing a figure."""
    lost = len(run.test["diverged"])
    left_out = f"{lost:,} of {run.test['n']:,} held-out tasks were not finite and are left out of its figures"
    return [*filter(None, [early(run)]), *([left_out] if lost else [])]


def untested(run: Run) -> str:
    """How a run that was not tested can be: no command knows what was composed in Python."""
    if recipe := run.about.get("recipe"):
        own = f" --recipe PATH/{recipe}" if is_own(recipe) else ""
        return f"not tested yet: quickstudy evaluate {run.path}{own}"
    return "not tested yet. It was composed in Python: result.evaluate() tests it, and keeps the outcome in the folder"


def lead(run: Run) -> str:
    """What the recipe is, and what to expect of it."""
    about = run.about
    if not about.get("recipe"):
        return "Composed in Python."
    sentences = [about.get("description") or "", f"To expect: {about['expected']}" if about.get("expected") else ""]
    return " ".join(f"{s[0].upper()}{s[1:].rstrip('.')}." for s in sentences if s)


def tables(tested: Sequence[Run], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A table a metric: every run, its baselines on the tasks of its test, and several seeds together."""
    found: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    row = lambda name, mean, ci, difference=None, ours=False: {
        "name": name, "mean": mean, "ci": ci, "difference": difference, "ours": ours
    }  # fmt: skip
    for run in tested:
        rows = found.setdefault((run.test["metric"], run.test["lower_is_better"]), [])
        rows.append(row(label(run, runs), run.test["score"], run.test["ci"], ours=True))
        rows += [row(name, b["score"], b["ci"], b["difference"]) for name, b in run.test["baselines"].items()]
    for group in groups(tested):
        if len(group.runs) > 1:
            test, (mean, ci) = group.runs[0].test, group.score
            found[test["metric"], test["lower_is_better"]].append(row(group.label, mean, ci, ours=True))
    return [{"metric": metric, "lower": lower, "rows": rows} for (metric, lower), rows in found.items()]


def health(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    """Of the training: how far, what diverged, how long and how fast."""
    seconds, done = (sum(line[name] for line in run.timing) for name in ("seconds", "steps"))
    return {
        "name": label(run, runs),
        "steps": run.metrics[-1]["step"] if run.metrics else 0,
        "diverged": sum(line.get("diverged") or 0 for line in run.metrics),
        "time": _duration(seconds),
        "speed": f"{done / seconds:,.3g}" if seconds > 0 else "–",
    }


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 60 else f"{seconds / 60:,.1f} min"


def again(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    """What makes a run again, and its settings."""
    made = ", ".join(f"{name} {value}" for name, value in (run.about.get("fingerprint") or {}).items())
    return {"name": label(run, runs), "commands": commands(run.about), "settings": run.config, "made": made}


def content(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything in the page but the pictures."""
    tested = [run for run in runs if run.evaluation is not None]
    notes = {run.test["note"]: label(run, runs) for run in reversed(tested) if run.test["note"]}
    return {
        "title": " · ".join(dict.fromkeys(run.recipe for run in runs)),
        "lead": lead(runs[0]) if len({run.recipe for run in runs}) == 1 else "",
        "several": len(runs) > 1,
        "tested": bool(tested),
        "tiles": [tile for run in tested[:6] for tile in tiles(run, runs)],
        "warnings": [f"{label(run, runs)}: {text}" for run in tested for text in warnings(run)]
        + [f"{label(run, runs)}: {untested(run)}" for run in runs if run.evaluation is None],
        "notes": [f"{name}: {note}" for note, name in reversed(notes.items())],
        "tables": tables(tested, runs),
        "curves": [
            {"name": label(run, runs), "metric": run.curve_metric, "points": run.test["curve"]} for run in tested
        ],
        "health": [health(run, runs) for run in runs],
        "again": [again(run, runs) for run in runs],
        "citations": list(dict.fromkeys(c for run in runs for c in run.about.get("citations") or [])),
        "at_the_end": not any(map(early, tested)),
    }
