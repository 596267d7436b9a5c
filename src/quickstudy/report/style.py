"""How the pictures of a report look, and how one becomes bytes: the same data give the same bytes.

Colours are those of Okabe and Ito 2008, "Color Universal Design", which stay apart for colour-blind eyes. Legends stand
outside of the axes, so that they never cover data.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
OURS, OTHER, GOOD, BETWEEN = *COLOURS[:3], COLOURS[5]
GREY = "#8a939c"
INK, FAINT = "#24292f", "#d8dee4"  # which the page's style sheet replaces in its pictures, for dark screens
DASHES = ("--", "-.", ":")
LONGEST = 60  # characters of a text in a picture

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "svg.hashsalt": "quickstudy",
    "svg.fonttype": "path",
    "legend.frameon": False,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The style, without matplotlib's warnings about letters that its font does not have."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def to_svg(figure: Figure) -> str:
    """The figure as an inline <svg>: no date, no comments (which repeat its texts), ink in the page's colours."""
    with drawing():
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", transparent=True
        )
    text = buffer.getvalue()
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")


def to_png(figure: Figure) -> bytes:
    with drawing():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many inches, and its axes by rows."""
    figure = Figure(figsize=size, layout="constrained")
    with drawing():
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes.tolist()


def legend(ax: Axes, fontsize: int = 9) -> None:
    """Below the axes, where it covers nothing; none where nothing has a label."""
    _, labels = ax.get_legend_handles_labels()
    if labels:
        columns = min(len(labels), 4 if max(map(len, labels)) < 30 else 2)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns, fontsize=fontsize)


def legend_below(figure: Figure, axes: Sequence[Axes], fontsize: int = 9) -> None:
    """One legend for several axes, below them; a label that several of them have stands once."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if found:
        columns = max(1, min(len(found), 8))
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=fontsize)


def plain(text: str) -> str:
    """One line without control characters, cut where it would be wider than a picture."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def when(adaptations: int) -> str:
    """When in the course of a task."""
    return f"after {adaptations:,} adaptation{'s' * (adaptations != 1)}" if adaptations else "before adaptation"


def of_stage(number: int, stages: int) -> str:
    """The colour of one of several stages of adaptation: grey before, blue at the end, light blue between."""
    return OURS if number == stages - 1 else GREY if number == 0 else BETWEEN


def of_run(number: int) -> dict[str, Any]:
    """How the line of a run looks: solid, with another marker where the colours have been used up."""
    again, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": "os^D"[again % 4], "lw": 2.4, "ms": 5}


def of_baseline(number: int, runs: int) -> dict[str, Any]:
    """How the line of a baseline looks: dashed, in the colours that the runs have not taken as long as there are any,
    then in theirs with other dashes."""
    colours = COLOURS[runs:] or COLOURS
    again, colour = divmod(number, len(colours))
    return {"color": colours[colour], "ls": DASHES[again % 3], "lw": 1.7}
