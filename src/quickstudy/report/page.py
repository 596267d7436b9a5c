"""The report: one self-contained HTML file without scripts, and PNGs, from one or several run folders. The same folders
give the same bytes."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from matplotlib.figure import Figure

from quickstudy.report import style
from quickstudy.report.adaptation import adaptation
from quickstudy.report.content import content
from quickstudy.report.drawings.behaviour import behaviour
from quickstudy.report.drawings.overview import overview
from quickstudy.report.drawings.tasks import tasks
from quickstudy.report.grouping import curve, groups, label
from quickstudy.report.pairing import differences
from quickstudy.report.reading import Run
from quickstudy.report.training import Log, in_words, training
from quickstudy.runs import CheckpointRefused, storage, write_atomic

UNDRAWN = (ValueError, IndexError, ArithmeticError, TypeError, MemoryError)  # what foreign numbers end in
LONGEST = 80  # characters of a comparison's name


def report(paths: Sequence[str | os.PathLike], out: str | os.PathLike | None = None) -> Path:
    """Writes report.html and the PNGs into `out`, and returns the page's path. By default one run's report stands in
    its folder, and that of several beside the first one, in a folder named after them all.

    Raises FileNotFoundError where there is no run, and CheckpointRefused, naming the file, for a damaged one.
    """
    return write([Run.read(path) for path in paths], out)


def write(runs: Sequence[Run], out: str | os.PathLike | None = None) -> Path:
    """`report` of runs that have been read."""
    folder = Path(out) if out is not None else default_folder([run.path for run in runs])
    logs = [Log(label(run, runs), run.metrics, run.validation, run.curve_metric) for run in runs]
    try:
        pictures, drawn = _pictures(runs, logs)
        svg, png = {}, {}
        for name, figure in pictures.items():
            svg[name], png[name] = style.to_svg(figure), style.to_png(figure)
    except UNDRAWN as error:
        where = " or ".join(str(run.path) for run in runs)
        raise CheckpointRefused(f"{where} is damaged: it holds numbers that cannot be drawn ({error})") from error
    page = render(runs, svg, drawn, in_words(logs))
    with storage(f"writing the report to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in png.items():
            write_atomic(folder / f"{name}.png", picture)
        write_atomic(folder / "report.html", page.encode(errors="replace"))
    return folder / "report.html"


def default_folder(paths: Sequence[Path]) -> Path:
    """One run's own folder; of several, report-A-B beside the first, so that no run's own report is overwritten."""
    first, *others = [Path(os.path.abspath(path)) for path in paths]
    if not others:
        return paths[0]
    above = os.path.commonpath([path.parent for path in (first, *others)])
    names = [os.path.relpath(path, above).replace(os.sep, "-") for path in (first, *others)]
    name = "-".join(["report", *names])
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return paths[0].parent / name


def _pictures(runs: Sequence[Run], logs: Sequence[Log]) -> tuple[dict[str, Figure], list[dict[str, str]]]:
    """Every figure by its name, and what stands above those of single runs."""
    found: dict[str, Figure | None] = {}
    drawn = []
    curves = [curve(group) for group in groups(runs) if group.points]
    found["adaptation"] = adaptation(curves) if curves else None
    for i, run in enumerate(run for run in runs if run.evaluation is not None):
        for which, figure in _of_run(run).items():
            name = which if i == 0 else f"{which}-{i + 1}"
            found[name] = figure
            if figure is not None:
                drawn.append({"name": name, "heading": HEADINGS[which], "label": label(run, runs)})
    found["training"] = training(logs)
    return {name: figure for name, figure in found.items() if figure is not None}, drawn


HEADINGS = {
    "behaviour": "What it does",
    "tasks": "The worst and the best held-out tasks",
    "overview": "Held-out tasks side by side",
}


def _of_run(run: Run) -> dict[str, Figure | None]:
    kinds = run.test.get("drawings") or {}
    agents = {run.recipe: run.test, **run.test["baselines"]}
    measured = {name: agent["behaviour"] for name, agent in agents.items() if agent.get("behaviour")}
    try:
        return {
            "behaviour": behaviour(kinds.get("behaviour", ""), measured),
            "tasks": tasks(*run.drawing("tasks"), run.test["metric"]),
            "overview": overview(*run.drawing("overview")),
        }
    except UNDRAWN as error:
        where = f"{run.path / 'evaluation.safetensors'} is damaged: what was recorded of the tasks cannot be drawn"
        raise CheckpointRefused(f"{where} ({error})") from error


def number(value: float | int) -> str:
    """Four significant digits, with a real minus sign."""
    return f"{value:,.4g}".replace("-", "−")


def render(runs: Sequence[Run], svg: dict[str, str], drawn: list[dict[str, str]], training: list[str]) -> str:
    """The page. Everything but the pictures is escaped by the template."""
    pictures = {name: markupsafe.Markup(text) for name, text in svg.items()}
    values: dict[str, Any] = {**content(runs), "pictures": pictures, "drawn": drawn, "training": training}
    return _template().render(values, differences=differences(groups(runs)))


@functools.cache
def _template() -> jinja2.Template:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("quickstudy.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["number"] = number
    return templates.get_template("page.html")
