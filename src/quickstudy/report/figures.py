"""The curves of a report. Each function draws onto a fresh figure and returns it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quickstudy.report.style import INK, OURS, RULERS, STYLE, of_baseline, subplots


def adaptation_curve(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Performance after each adaptation: ours with 95 % bands, baselines dashed, the optimum dotted.

    A run is {label, metric, curve, baselines}; each metric has a panel; equal baselines are drawn once.
    """
    panels: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for run, colour in zip(runs, OURS * (1 + len(runs) // len(OURS)), strict=False):
        panels.setdefault(run["metric"], []).append((colour, run))
    figure, axes = subplots(len(panels), 1, (10.4, 4.4 * len(panels)))
    for ax, (metric, coloured) in zip(axes[:, 0], panels.items(), strict=True):
        with matplotlib.rc_context(STYLE):
            _adaptation(ax, metric, coloured)
    return figure


def _adaptation(ax: Axes, metric: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    for colour, run in runs:
        x = [p["adaptations"] for p in run["curve"]]
        ax.fill_between(x, *np.transpose([p["ci"] for p in run["curve"]]), color=colour, alpha=0.18, lw=0)
        ax.plot(x, [p["mean"] for p in run["curve"]], "o-", color=colour, lw=2.4, ms=5, label=run["label"], zorder=5)
    drawn: dict[str, list[float]] = {}  # names and scores: another score is that of another baseline, or on other tasks
    lines = 0
    for _, run in runs:
        for name, baseline in run["baselines"].items():
            if baseline["score"] in drawn.get(name, []):
                continue
            label = f"{name}: {run['label']}" if name in drawn else name
            drawn.setdefault(name, []).append(baseline["score"])
            look, lines = of_baseline(lines), lines + 1
            if baseline["curve"]:
                ax.plot(
                    [p["adaptations"] for p in baseline["curve"]],
                    [p["mean"] for p in baseline["curve"]],
                    label=label,
                    **look,
                )
            elif len(run["curve"]) < 7 and name == "optimum" and run["per_episode"]:
                ax.axhline(baseline["score"], color=INK, ls=":", lw=1.4, label=label)
    units = dict.fromkeys(run["unit"] for _, run in runs)
    ax.set_xlabel(f"adaptations to the new task ({' or '.join(units)})")
    ax.set_ylabel(f"{metric} on held-out tasks")
    first = runs[0][1]["curve"]
    if len(first) < 7:
        ax.set_xticks([p["adaptations"] for p in first])
    if len(runs) + lines > 5:  # which would hide the lines
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=10)
    else:
        ax.legend(loc="best", fontsize=10)


def training_curves(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Metrics over meta-steps: a run is {label, metrics: lines, validation: lines, metric}."""
    names = [n for n in ("return", "loss", "gradient_norm") if any(n in line for r in runs for line in r["metrics"])]
    if not any(line.get("return") is not None for r in runs for line in r["metrics"]):
        names = [n for n in names if n != "return"]
    validated = any(run["validation"] for run in runs)
    columns = max(1, len(names) + validated)
    figure, [axes] = subplots(1, columns, (3.7 * columns, 3.0))
    with matplotlib.rc_context(STYLE):
        for run, colour in zip(runs, OURS * (1 + len(runs) // len(OURS)), strict=False):
            for ax, name in zip(axes, names, strict=False):
                points = [(line["step"], line[name]) for line in run["metrics"] if line.get(name) is not None]
                if points:
                    ax.plot(*np.transpose(points), color=colour, lw=1.2, label=run["label"])
            for i, done in enumerate(_shown(run["validation"])):
                points = [
                    (line["step"], point["mean"])
                    for line in run["validation"] for point in line["curve"] if point["adaptations"] == done
                ]  # fmt: skip
                axes[-1].plot(
                    *np.transpose(points), "o-", ms=3, color=colour, lw=1.4, alpha=0.35 + 0.65 * (i + 1) / 4,
                    label=f"after {done}" if run is runs[0] else None,
                )  # fmt: skip
        titles = [n.replace("_", " ") for n in names] + [f"held-out {runs[0]['metric']}"] * validated
        for ax, name in zip(axes, titles, strict=True):
            ax.set_title(name)
            ax.set_xlabel("meta-steps")
        if "gradient_norm" in names:
            axes[names.index("gradient_norm")].set_yscale("log")
        if validated:
            axes[-1].legend(fontsize=8)
        if len(runs) > 1:
            axes[0].legend(fontsize=8)
    return figure


def _shown(validation: Sequence[Mapping[str, Any]]) -> list[int]:
    """Numbers of adaptations: four of all that were reached in some validation."""
    reached = sorted({point["adaptations"] for line in validation for point in line["curve"]})
    return sorted({reached[round(i * (len(reached) - 1) / 3)] for i in range(4)}) if reached else []


# --- what the learner and its baselines do, over all held-out tasks ----------------------------------------------


def _stays(axes: Sequence[Axes], agents: Mapping[str, Mapping[str, Any]]) -> None:
    """A panel an agent: how often it stays after each kind of trial."""
    for ax, (name, measured) in zip(axes, agents.items(), strict=True):
        for i, point in enumerate(measured["stays"]):
            if point:
                low, high = point["ci"]
                colour = OURS[0] if i < 2 else OURS[1]
                ax.bar(i, point["mean"], color=colour, alpha=1.0 if i % 2 == 0 else 0.45, width=0.75)
                ax.plot([i, i], [low, high], color=INK, lw=1.4)
        ax.set_title(name)
        ax.set_xticks(range(4), ["common\npaid", "common\ndid not", "rare\npaid", "rare\ndid not"], fontsize=8)
        ax.set(ylim=(0, 1), axisbelow=True)
    axes[0].set_ylabel("makes the same choice again")


def _regret(axes: Sequence[Axes], agents: Mapping[str, Mapping[str, Any]]) -> None:
    [ax] = axes
    for i, (name, measured) in enumerate(agents.items()):
        ours = i == 0
        x = np.arange(1, 1 + len(measured["regret"])) / len(measured["regret"])
        look = {"color": OURS[0], "marker": "o", "lw": 2.4} if ours else of_baseline(i - 1)
        mean = [point["mean"] for point in measured["regret"]]
        ax.plot(x, mean, ms=4, label=name, zorder=5 - ours, **look)
        if ours:
            ax.fill_between(x, *np.transpose([p["ci"] for p in measured["regret"]]), color=OURS[0], alpha=0.18, lw=0)
    ax.set(xlabel="share of the trial", ylabel="regret so far", ylim=(0, None))
    ax.legend(fontsize=9)


def _pulled(axes: Sequence[Axes], agents: Mapping[str, Mapping[str, Any]]) -> None:
    """A panel an agent: which kind of arm it pulls, pull by pull."""
    for ax, (name, measured) in zip(axes, agents.items(), strict=True):
        for kind, colour in (("informative arm", OURS[1]), ("target", OURS[0]), ("another arm", RULERS[0])):
            points = measured[kind]
            x = np.arange(1, len(points) + 1)
            ax.fill_between(x, *np.transpose([p["ci"] for p in points]), color=colour, alpha=0.18, lw=0)
            ax.plot(x, [p["mean"] for p in points], "o-", color=colour, lw=2, ms=4, label=kind)
        ax.set_title(name)
        ax.set(xlabel="pull", ylim=(-0.03, 1.03), xticks=x)
    axes[0].set_ylabel("share of the tasks")
    axes[0].legend(fontsize=8)


# what was measured: (how it is drawn, whether each agent has its own panel)
BEHAVIOURS: dict[str, tuple[Callable[[Sequence[Axes], Mapping[str, Any]], None], bool]] = {
    "stays": (_stays, True),
    "regret": (_regret, False),
    "informative arm": (_pulled, True),
}


def behaviour(agents: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """What each agent does, ours first: what was measured, by its name; None where nothing is known to draw."""
    kind = next((name for name in BEHAVIOURS if all(name in measured for measured in agents.values())), None)
    if kind is None or not agents:
        return None
    draw, apart = BEHAVIOURS[kind]
    columns = len(agents) if apart else 1
    figure, [axes] = subplots(1, columns, (2.9 * columns if apart else 8.0, 3.2))
    with matplotlib.rc_context(STYLE):
        draw(list(axes), agents)
    return figure
