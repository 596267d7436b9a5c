"""What a person sees of a run: the block in a terminal, and that nothing is silent for long."""

import functools
import io
import time

import rich.console

from quickstudy.display import Live, describe, waiting

START = {"event": "start", "meta_parameters": {"weight": (3, 4)}, "step": 0, "meta_steps": 200, "devices": 1}
CURVE = [{"adaptations": n, "mean": -38.1 + n, "ci": (-38.5 + n, -37.8 + n)} for n in range(4)]


def test_what_takes_long_says_so_until_it_is_done():
    said = []
    with waiting(said.append, "compiling", every=0.02):
        while len(said) < 2:
            time.sleep(0.001)
    after = len(said)
    time.sleep(0.06)
    assert len(said) == after
    assert said[0]["event"] == "waiting" and said[0]["text"].startswith("compiling, 0 s so far")
    with waiting(said.append, "nothing", every=60.0):
        pass
    assert len(said) == after


def test_the_block_has_at_most_ten_lines_with_all_that_is_owed(monkeypatch):
    terminal = functools.partial(rich.console.Console, file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(rich.console, "Console", terminal)
    live = Live("quickstudy resume runs/a")
    metrics = {"event": "metrics", "diverged": 0, "loss": 0.5, "steps_per_second": 10.0, "memory": 3 * 2**29}
    events = [
        START,
        {"event": "compile", "stage": 0, "stages": 1},
        {"event": "waiting", "text": "compiling, 20 s so far …"},
        {"event": "compiled", "seconds": 21.0},
        {**metrics, "step": 100},
        {"event": "validation", "step": 100, "metric": "return", "curve": CURVE, "n": 100},
        {"event": "save", "step": 100},
        {"event": "waiting", "text": "steps 100 to 150, 20 s so far …"},  # does not reset the time left
        {**metrics, "step": 150},
    ]
    for event in events:
        live(event)
    lines = live.lines
    live.close()
    assert len(lines) <= 10
    assert "150/200" in lines["state"] and "s left" in lines["state"]
    assert "loss 0.5" in lines["training"] and "10 steps/s" in lines["training"]
    assert "after 1: -37.1 [-37.5, -36.8]" in lines["held out"] and "after 3" in lines["held out"]
    assert lines["memory"] == "1.5 GB at most" and lines["saved"] == "step 100"
    assert lines["resume"] == "quickstudy resume runs/a"


def test_a_run_that_goes_on_says_from_where():
    assert "going on" not in (describe(START) or "")
    assert (describe({**START, "step": 120}) or "").startswith("going on from step 120 of 200\n")
