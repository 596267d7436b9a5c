"""Rows of RESULTS.md from run folders: python benchmarks/table.py runs/A runs/B ..."""

import sys

from quickstudy.report.again import commands
from quickstudy.report.reading import Run


def main() -> None:
    for path in sys.argv[1:]:
        run = Run.read(path)
        evaluation = run.evaluation
        if evaluation is None:
            continue
        minutes = sum(line["seconds"] for line in run.timing) / 60
        show = lambda mean, ci: f"{mean:.4g} [{ci[0]:.4g}, {ci[1]:.4g}]"
        curve = " | ".join(show(p["mean"], p["ci"]) for p in evaluation["curve"] if len(evaluation["curve"]) < 7)
        print(
            f"| {run.recipe} | {run.config.get('seed', '?')} | {curve or show(evaluation['score'], evaluation['ci'])} ",
            end="",
        )
        print(f"| {evaluation['n']:,} | {run.metrics[-1]['step']:,} | {minutes:.1f} | `{commands(run.about)}` |")
        for name, baseline in evaluation["baselines"].items():
            points = baseline["curve"] or []
            along = " | ".join(show(p["mean"], p["ci"]) for p in points) if 0 < len(points) < 7 else ""
            difference = baseline["difference"]
            print(f"    {name}: {along or show(baseline['score'], baseline['ci'])}; ours minus it ", end="")
            print(show(difference["mean"], difference["ci"]))


if __name__ == "__main__":
    main()
