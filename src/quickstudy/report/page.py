"""The report: one self-contained HTML file and PNGs, from one or several run folders. Same folders, same bytes."""

import dataclasses
import html
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from quickstudy.evaluate import statistics as stats
from quickstudy.report import figures, style, task_figures
from quickstudy.runs import METRICS, CheckpointRefused, RunFolder, storage, write_atomic
from quickstudy.runs.own import is_own


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report reads of a run folder."""

    folder: RunFolder
    about: dict[str, Any]
    evaluation: dict[str, Any] | None
    arrays: dict[str, np.ndarray]
    metrics: list[dict]
    validation: list[dict]
    timing: list[dict]

    @staticmethod
    def read(path: str | os.PathLike) -> "Run":
        folder = RunFolder(path)
        about = folder.about()
        tested = (folder.path / "evaluation.json").exists()
        evaluation, arrays = folder.read_evaluation("evaluation") if tested else (None, {})
        if tested and not (isinstance(evaluation, dict) and "curve" in evaluation):
            path = folder.path / "evaluation.json"
            raise CheckpointRefused(f"{path} is damaged; test again: quickstudy evaluate {folder.path}")
        return Run(
            folder,
            about,
            evaluation,
            arrays,
            folder.lines(METRICS),
            folder.lines("validation.jsonl"),
            folder.lines("timing.jsonl"),
        )

    @property
    def recipe(self) -> str:
        name = self.about.get("recipe") or "custom run"
        return Path(name).name if ":" in name else name

    @property
    def seed(self) -> Any:
        return self.about.get("config", {}).get("seed", "?")

    @property
    def metric(self) -> str:
        return self.evaluation["metric"] if self.evaluation else "score"


def report(paths: Sequence[str | os.PathLike], out: str | os.PathLike | None = None) -> Path:
    """Writes report.html and the PNGs into `out` (default: the first run's folder) and returns the page's path."""
    runs = [Run.read(path) for path in paths]
    folder = Path(out) if out is not None else runs[0].folder.path
    with storage(f"writing the report to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        pictures: dict[str, Figure] = {}
        tested = [run for run in runs if run.evaluation]
        if tested:
            pictures["adaptation"] = figures.adaptation_curve([_curve(group, runs) for group in _groups(tested)])
        for i, run in enumerate(tested):
            if (done := figures.behaviour(_behaviour(run))) is not None:
                pictures[_numbered("behaviour", i)] = done
            drawn = task_figures.tasks(_traces(run), run.metric)
            if drawn is not None:
                pictures[_numbered("tasks", i)] = drawn
            if (seen := task_figures.survey(_traces(run))) is not None:
                pictures[_numbered("survey", i)] = seen
        if any(run.metrics for run in runs):
            pictures["training"] = figures.training_curves(
                [
                    {
                        "label": _label(run, runs),
                        "metrics": run.metrics,
                        "validation": run.validation,
                        "metric": run.metric,
                    }
                    for run in runs
                ]
            )
        for name, figure in pictures.items():
            write_atomic(folder / f"{name}.png", style.to_png(figure))
        page = folder / "report.html"
        write_atomic(page, _page(runs, pictures).encode())
    return page


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but the seed, tested on the same tasks as far into training, stand together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        evaluation, curves = run.evaluation or {}, run.arrays.get("curves")
        tested = (evaluation.get("step"), evaluation["n"], None if curves is None else curves.shape)
        groups.setdefault(str((run.recipe, sorted(_apart(run, "seed").items()), tested)), []).append(run)
    return list(groups.values())


def _apart(run: Run, *names: str) -> dict[str, Any]:
    """The configuration without these fields, and without what leaves the run as it is."""
    return {k: v for k, v in run.about.get("config", {}).items() if k not in ("devices", "cores", *names)}


def _label(run: Run, runs: Sequence[Run], *without: str) -> str:
    """The recipe, and in what the run differs from the others of that recipe."""
    same = [r for r in runs if r.recipe == run.recipe]
    mine = _apart(run, *without)
    said = [name for name, value in mine.items() if any(_apart(r).get(name, value) != value for r in same)]
    words = [f"seed {mine[name]}" if name == "seed" else f"{name}={mine[name]}" for name in sorted(said)]
    if not without and any(r is not run and _apart(r) == _apart(run) for r in same):
        words.append(run.folder.path.name)
    return ", ".join([run.recipe, *words])


def _curve(group: list[Run], runs: Sequence[Run]) -> dict[str, Any]:
    """One run's curve, or the pooled one of several seeds on the same tasks."""
    first = group[0].evaluation or {}
    curve, label = first["curve"], _label(group[0], runs)
    per_episode = abs(curve[-1]["mean"] - first["score"]) < 1e-3 * (1 + abs(first["score"]))
    pooled, left_out = _pooled(group, "curves")
    if pooled.size and pooled.shape[2] == len(curve):
        curve = [
            {**p, "mean": float(column.mean()), "ci": stats.interval_over_seeds(column)}
            for p, column in zip(curve, np.moveaxis(pooled, 2, 0), strict=True)
        ]
        without = f", {left_out:,} of {pooled.shape[1] + left_out:,} tasks left out" if left_out else ""
        label = f"{_label(group[0], runs, 'seed')} ({len(group)} seeds{without})"
    unit = "gradient steps" if "inner_steps" in group[0].about.get("config", {}) else "updates of the agent"
    return {
        "label": label, "metric": first["metric"], "curve": curve, "baselines": first["baselines"],
        "per_episode": per_episode, "unit": unit,
    }  # fmt: skip


def _pooled(group: list[Run], name: str) -> tuple[np.ndarray, int]:
    """This array of several seeds on the same tasks, [seeds, tasks, ...], and how many tasks it is without: those that
    are not finite in all. Empty where there is but one seed."""
    arrays = [run.arrays[name] for run in group if name in run.arrays]
    if not 1 < len(arrays) == len(group):
        return np.zeros(0), 0
    stacked = np.stack(arrays)
    sound = np.isfinite(stacked).all(axis=(0, *range(2, stacked.ndim)))
    return stacked[:, sound], int((~sound).sum())


def _traces(run: Run) -> dict[str, np.ndarray]:
    return {name.removeprefix("trace/"): a for name, a in run.arrays.items() if name.startswith("trace/")}


def _behaviour(run: Run) -> dict[str, Any]:
    """Of the learner and then of its baselines, by name."""
    evaluation = run.evaluation or {}
    agents = {run.recipe: evaluation, **evaluation["baselines"]}
    return {name: agent["behaviour"] for name, agent in agents.items() if "behaviour" in agent}


def _numbered(name: str, i: int) -> str:
    return name if i == 0 else f"{name}-{i + 1}"


def command(about: Mapping[str, Any]) -> str:
    """The command that makes the run again: every field that is not the recipe's own default."""
    if not about.get("recipe"):
        return "(made through the Python API)"
    if is_own(about["recipe"]):
        return shlex.join(about.get("command", []))
    from quickstudy.recipes import recipe_of

    defaults = recipe_of(about["recipe"]).values()
    words = ["quickstudy", "train", about["recipe"]]
    for name, value in about["config"].items():
        if value != _plain(defaults.get(name)):
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", *map(str, np.ravel(value))]
    return shlex.join(words)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def number(value: float) -> str:
    """Four significant digits, with a real minus sign."""
    return f"{value:,.4g}".replace("-", "−")


def _interval(mean: float, ci: Sequence[float]) -> str:
    return f"{number(mean)} <span class=ci>[{number(ci[0])}, {number(ci[1])}]</span>"


CSS = """
:root{color-scheme:light}
body{font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;color:#24292f;background:#fff;
margin:0 auto;max-width:1080px;padding:36px 28px 80px}
h1{font-size:30px;margin:0 0 4px;letter-spacing:-.02em}h2{font-size:19px;margin:44px 0 10px}
p.lead{color:#57606a;margin:0 0 26px}
.head{display:flex;gap:18px;flex-wrap:wrap;margin:8px 0 22px}
.card{border:1px solid #d8dee4;border-radius:12px;padding:14px 20px;min-width:180px;background:#f9fafb}
.card b{display:block;font-size:27px;letter-spacing:-.02em;color:#1f6feb}.card small{color:#57606a}
.ci{color:#6e7781;font-size:.86em;white-space:nowrap}
table{border-collapse:collapse;font-size:14.5px}td,th{padding:5px 18px 5px 0;text-align:left;
border-bottom:1px solid #eef1f4}
th{color:#57606a;font-weight:600}svg{max-width:100%;height:auto;display:block}
pre{background:#0d1117;color:#e6edf3;padding:14px 18px;border-radius:10px;white-space:pre-wrap;font-size:13.5px}
details summary{cursor:pointer;color:#57606a}.warn{color:#b35900}.note{color:#57606a}
footer{margin-top:50px;color:#8c959f;font-size:13px}
"""


HEADINGS = {
    "behaviour": "What it does",
    "tasks": "The worst and the best held-out tasks",
    "survey": "Held-out tasks side by side",
}


def _page(runs: Sequence[Run], pictures: Mapping[str, Figure]) -> str:
    e = html.escape
    title = " · ".join(dict.fromkeys(run.recipe for run in runs))
    out = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{e(title)} – quickstudy</title><style>{CSS}</style></head><body>",
        f"<h1>{e(title)}</h1><p class=lead>{e(_lead(runs))}</p>",
    ]
    tested = [run for run in runs if run.evaluation]
    if tested:
        out.append("<div class=head>")
        for run in tested[:6]:
            out += _cards(run, runs)
        out.append("</div>")
        out += [f"<p class=warn>{e(_label(run, runs))}: {e(said)}.</p>" for run in tested for said in _warnings(run)]
        notes = {run.evaluation["note"]: run for run in reversed(tested) if run.evaluation and run.evaluation["note"]}
        out += [f"<p class=note>{e(_label(run, runs))}: {e(note)}.</p>" for note, run in reversed(notes.items())]
        out.append("<h2>Adaptation to tasks it has never seen</h2>")
        out.append(style.to_svg(pictures["adaptation"]))
        out.append(_rulers(tested, runs))
        out += [_in_numbers(run, runs) for run in tested]
    else:
        out.append("<p class=warn>Not tested yet: run <code>quickstudy evaluate</code> on the folder.</p>")
    for i, run in enumerate(tested):
        which = f": {e(_label(run, runs))}" if len(tested) > 1 else ""
        for kind, heading in HEADINGS.items():
            if (name := _numbered(kind, i)) in pictures:
                out.append(f"<h2>{heading}{which}</h2>")
                out.append(style.to_svg(pictures[name]))
    if "training" in pictures:
        out.append("<h2>Meta-training</h2>")
        out.append(style.to_svg(pictures["training"]))
    out.append("<h2>Health</h2>")
    out.append(_health(runs))
    for run in runs:
        out.append(f"<h2>Make it again{': ' + e(_label(run, runs)) if len(runs) > 1 else ''}</h2>")
        out.append(f"<pre>{e(command(run.about))}</pre>")
        rows = "".join(f"<tr><td>{e(k)}</td><td>{e(str(v))}</td></tr>" for k, v in run.about.get("config", {}).items())
        made = ", ".join(f"{k} {v}" for k, v in run.about.get("fingerprint", {}).items())
        out.append(f"<details><summary>configuration</summary><table>{rows}</table><p>{e(made)}</p></details>")
    citations = dict.fromkeys(c for run in runs for c in run.about.get("citations", []))
    if citations:
        out.append("<h2>Please cite</h2><ul>" + "".join(f"<li>{e(c)}</li>" for c in citations) + "</ul>")
    when = "" if any(map(_early, tested)) else ", at the end of training"
    out.append(f"<footer>quickstudy – every figure is on held-out tasks{when}. Intervals are 95 % ")
    out.append("bootstrap intervals over tasks; over seeds and tasks Student's.</footer></body></html>\n")
    return "\n".join(out)


def _early(run: Run) -> str:
    """Said of a run that was tested before its end; empty for others."""
    step, end = (run.evaluation or {}).get("step"), run.about.get("config", {}).get("meta_steps")
    return f"tested after {step:,} of {end:,} meta-steps" if step is not None and end and step < end else ""


def _warnings(run: Run) -> list[str]:
    """What a reader has to know of how the run was tested before believing a figure."""
    evaluation = run.evaluation or {}
    lost = len(evaluation["diverged"])
    left_out = f"{lost:,} of {evaluation['n']:,} held-out tasks were not finite and are left out of its figures"
    return [*filter(None, [_early(run)]), *([left_out] if lost else [])]


def _lead(runs: Sequence[Run]) -> str:
    if not runs[0].about.get("recipe"):
        return "Made through the Python API."
    if is_own(runs[0].about["recipe"]):
        return "Made by a recipe outside of quickstudy."
    from quickstudy.recipes import recipe_of

    recipe = recipe_of(runs[0].about["recipe"])
    return f"{recipe.description[0].upper()}{recipe.description[1:]}. To expect: {recipe.expected}."


def _cards(run: Run, runs: Sequence[Run]) -> list[str]:
    evaluation = run.evaluation or {}
    label = f"{html.escape(_label(run, runs))}: " if len(runs) > 1 else ""
    first, last = evaluation["curve"][0], evaluation["curve"][-1]
    cards = [
        f"<div class=card><small>{label}{html.escape(run.metric)}, {evaluation['n']:,} held-out tasks</small>"
        f"<b>{number(evaluation['score'])}</b><small>95 % [{', '.join(map(number, evaluation['ci']))}]</small></div>"
    ]
    if len(runs) == 1:
        for point, name in ((first, "before adaptation"), (last, f"after {last['adaptations']}")):
            cards.append(
                f"<div class=card><small>{name}</small><b>{number(point['mean'])}</b>"
                f"<small>95 % [{', '.join(map(number, point['ci']))}]</small></div>"
            )
    return cards


def _rulers(tested: Sequence[Run], runs: Sequence[Run]) -> str:
    """A table a metric: every run, and its baselines on the tasks of its test."""
    tables: dict[tuple[str, bool], list[str]] = {}
    for run in tested:
        evaluation = run.evaluation or {}
        rows = tables.setdefault((evaluation["metric"], evaluation["lower_is_better"]), [])
        rows.append(
            f"<tr><td><b>{html.escape(_label(run, runs))}</b></td>"
            f"<td>{_interval(evaluation['score'], evaluation['ci'])}</td><td></td></tr>"
        )
        for name, baseline in evaluation["baselines"].items():
            difference = baseline["difference"]
            rows.append(
                f"<tr><td>{html.escape(name)}</td><td>{_interval(baseline['score'], baseline['ci'])}</td>"
                f"<td>{_interval(difference['mean'], difference['ci'])}</td></tr>"
            )
    for group in _groups(tested):
        pooled, _ = _pooled(group, "values")
        if pooled.size:
            evaluation = group[0].evaluation or {}
            name = f"{_label(group[0], runs, 'seed')}, {len(group)} seeds together"
            said = _interval(float(pooled.mean()), stats.interval_over_seeds(pooled))
            tables[evaluation["metric"], evaluation["lower_is_better"]].append(
                f"<tr><td><b>{html.escape(name)}</b></td><td><b>{said}</b></td><td></td></tr>"
            )
    return "".join(
        f"<table><tr><th></th><th>{html.escape(metric)} ({'lower' if lower else 'higher'} is better)</th>"
        f"<th>ours minus this, paired</th></tr>{''.join(rows)}</table>"
        for (metric, lower), rows in tables.items()
    )


def _in_numbers(run: Run, runs: Sequence[Run]) -> str:
    rows = "".join(
        f"<tr><td>{point['adaptations']}</td><td>{_interval(point['mean'], point['ci'])}</td>"
        f"<td>{_interval(point['iqm'], point['iqm_ci'])}</td></tr>"
        for point in (run.evaluation or {})["curve"]
    )
    head = "<tr><th>adaptations</th><th>mean</th><th>interquartile mean</th></tr>"
    which = html.escape(_label(run, runs))
    return f"<details><summary>the curve of {which} in numbers</summary><table>{head}{rows}</table></details>"


def _health(runs: Sequence[Run]) -> str:
    rows = ["<tr><th></th><th>meta-steps</th><th>diverged tasks</th><th>training time</th><th>steps a second</th></tr>"]
    for run in runs:
        steps = run.metrics[-1]["step"] if run.metrics else 0
        diverged = sum(line["diverged"] for line in run.metrics)
        seconds = sum(line["seconds"] for line in run.timing)
        done = sum(line["steps"] for line in run.timing)
        speed = f"{done / seconds:,.3g}" if seconds else "–"
        rows.append(
            f"<tr><td>{html.escape(_label(run, runs))}</td><td>{steps:,}</td><td>{diverged:,}</td>"
            f"<td>{seconds / 60:,.1f} min</td><td>{speed}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"
