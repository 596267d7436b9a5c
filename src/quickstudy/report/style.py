"""How the pictures of a report look, and how one becomes bytes: of the same data the same."""

import io
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib.figure import Figure
from numpy.typing import NDArray

OURS = ("#1f6feb", "#d4513d", "#2a9d5c", "#8a4fbf", "#c78a00", "#0e8a92")
RULERS = ("#7f7f7f", "#c06c2c", "#3f9b6c", "#9467bd", "#b8a000")
INK, FAINT = "#24292f", "#d8dee4"

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eef1f4",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "svg.hashsalt": "quickstudy",
    "svg.fonttype": "path",
    "legend.frameon": False,
}


def to_svg(figure: Figure) -> str:
    """The figure as an inline <svg>, without the date."""
    with matplotlib.rc_context(STYLE):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    with matplotlib.rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, NDArray]:
    figure = Figure(figsize=size, layout="constrained")
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def of_baseline(number: int) -> dict[str, Any]:
    """How the line of a baseline looks: other dashes where the colours have been used up."""
    again, colour = divmod(number, len(RULERS))
    return {"color": RULERS[colour], "ls": ("--", "-.", ":")[again % 3], "lw": 1.6}
