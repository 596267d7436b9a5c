"""Other libraries' own timing scripts, each beside the same meta-step of ours, in one sitting.

    python benchmarks/beside.py SCRIPTS --python PYTHON [--python higher=PYTHON ...]

SCRIPTS is a folder of scripts named PEER_TASK.py, TASK being one of those below. Each prints as its last line a JSON
object with `peer`, `ms_per_meta_iteration`, `cpu_ms` and `peak_rss_mb` of a whole meta-training iteration. --python
says which interpreter runs them, or with a name those whose PEER begins with it. Ours is measured before them and
after, and the slower of the two counts. Run on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from speed import ours_or_peer, slower
from speed_images import child, table

OURS = {
    "maml_sine": [],
    "maml_omniglot_1step": ["quickstudy", "maml", "pool", "1"],
    "maml_omniglot_5step": ["quickstudy", "maml", "pool", "5"],
    "fomaml_omniglot_1step": ["quickstudy", "fomaml", "pool", "1"],
    "protonet_20way": ["quickstudy", "proto", "pool", "0"],
    "matchingnet_20way": ["quickstudy", "matching", "pool", "0"],
}


def ours(task: str) -> dict:
    return child(sys.executable, *words) if (words := OURS[task]) else ours_or_peer(sys.executable, "ours")


def theirs(script: Path, python: str) -> dict:
    command = [os.path.abspath(python), "-W", "ignore", script.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent, timeout=1200)
        told = json.loads(done.stdout.splitlines()[-1])
        ms, cpu = told["ms_per_meta_iteration"], told["cpu_ms"]
        return {"who": told["peer"], "wall_ms": ms, "cpu_ms": cpu, "peak_mb": told["peak_rss_mb"]}
    except (OSError, subprocess.SubprocessError, IndexError, KeyError, TypeError, ValueError) as error:
        print(f"  {script.stem}: not measured ({type(error).__name__}: {error})")
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", type=Path)
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--tasks", nargs="+", choices=OURS, default=list(OURS))
    options = parser.parse_args()
    named = {name: python for name, _, python in (words.rpartition("=") for words in options.python)}
    for task in options.tasks:
        first, rows = ours(task), []
        for script in sorted(options.scripts.glob(f"[a-z]*_{task}.py")):
            best = max((name for name in named if script.stem.startswith(name)), key=len, default=None)
            if best is not None:
                rows.append(theirs(script, named[best]))
        table(task, [slower(first, ours(task)), *rows])


if __name__ == "__main__":
    main()
