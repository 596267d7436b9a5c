"""SIGKILL at 20 moments spread over a run, each followed by a resume that must end bit for bit as if nothing had been.

    python benchmarks/kill_resume.py [--kills 20]

Each moment is a line of metrics; every second one is the line after which a checkpoint is being written, so that
the kill falls into the save. Prints a line a moment and a verdict; exits 1 unless all hold.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, LOG, SAVE = 4000, 20, 200
RECIPE = dict(
    meta_batch=26,
    devices=2,
    cores=2,
    meta_steps=STEPS,
    log_every=LOG,
    save_every=SAVE,
    validate_every=-1,
    hidden_size=16,
)


def work(out: str, resume: str) -> None:
    """The child: trains, or goes on from the newest whole checkpoint, and says where from and the digests."""
    import quickstudy
    from quickstudy.display.events import quiet
    from quickstudy.parallel.mesh import use_cores
    from quickstudy.runs import RunFolder

    use_cores(RECIPE["devices"])
    start = (RunFolder(out).newest() or 0) if resume == "resume" else None
    print(json.dumps({"start": start}), flush=True)
    result = quickstudy.recipe("sinusoid-maml", **RECIPE).train(out, resume=start, listener=quiet)
    log = hashlib.sha256(Path(out, "metrics.jsonl").read_bytes()).hexdigest()
    print(json.dumps({**result.digests, "metrics": log}), flush=True)


def child(out: Path, mode: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, __file__, "--work", str(out), mode], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int | None, dict]:
    lines = [json.loads(line) for line in process.communicate()[0].splitlines()]
    return lines[0]["start"], lines[-1]


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", nargs=2)
    options = parser.parse_args()
    if options.work:
        return work(*options.work)
    base = Path(tempfile.mkdtemp(prefix="kill-resume-"))
    _, expected = finish(child(base / "whole", "new"))
    print("uninterrupted:", {k: v[:12] for k, v in expected.items()})
    total, held = STEPS // LOG, 0
    for kill in range(options.kills):
        at = round((kill + 1) * (total - 5) / (options.kills + 1))
        if kill % 2:  # the line that a checkpoint follows
            at = max(1, round(at * LOG / SAVE)) * SAVE // LOG
        at = max(at, SAVE // LOG + 1 - kill % 2)
        out = base / f"kill-{kill}"
        process = child(out, "new")
        while lines_in(out / "metrics.jsonl") < at and process.poll() is None:
            time.sleep(0.0002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        reached = lines_in(out / "metrics.jsonl") * LOG
        torn = [p.name for p in (out / "checkpoints").glob(".tmp-*")]
        start, digests = finish(child(out, "resume"))
        lost = reached - (start or 0)
        good = bool(start) and lost <= SAVE and digests == expected
        held += good
        inside = " in a save" if torn else ""
        verdict = "same" if digests == expected else "DIFFERENT"
        print(
            f"killed at step {reached:5d}{inside:10s} resumed from {start or 0:5d} lost {lost:4d}  {verdict}",
            flush=True,
        )
    print(f"{held} of {options.kills} ended with the same SHA-256 of learner, optimiser, objective memory, key and log")
    sys.exit(held != options.kills)


if __name__ == "__main__":
    main()
