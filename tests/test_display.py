"""What a person sees of a run: the block in a terminal, and that nothing is silent for long."""

import functools
import io
import time

import pytest
import rich.console

from quickstudy.display.events import describe, waiting
from quickstudy.display.terminal import Live

START = {"event": "start", "meta_parameters": {"weight": (3, 4)}, "step": 0, "meta_steps": 200, "devices": 1}
CURVE = [{"adaptations": n, "mean": -38.1 + n, "ci": (-38.5 + n, -37.8 + n)} for n in range(4)]


def test_what_takes_long_says_so_until_it_is_done():
    said = []
    with waiting(said.append, "compiling", every=0.02):
        patience = time.monotonic() + 20
        while len(said) < 2 and time.monotonic() < patience:
            time.sleep(0.001)
    after = len(said)
    time.sleep(0.06)
    assert len(said) == after >= 2
    assert said[0]["event"] == "waiting" and said[0]["text"].startswith("compiling, ")
    with waiting(said.append, "nothing", every=60.0):
        pass
    assert len(said) == after


def test_what_a_listener_raises_meanwhile_is_not_lost():
    def nobody_reads(event):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), waiting(nobody_reads, "compiling", every=0.01):
        time.sleep(0.1)


def test_the_block_has_at_most_ten_lines_with_all_that_is_owed(monkeypatch):
    terminal = functools.partial(rich.console.Console, file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(rich.console, "Console", terminal)
    live = Live("quickstudy resume runs/a")
    metrics = {"event": "metrics", "diverged": 0, "loss": 0.5, "steps_per_second": 10.0, "memory": 1_500_000_000}
    events = [
        START,
        {"event": "compile", "stage": 0, "stages": 1},
        {"event": "compiled", "seconds": 21.0},
        {**metrics, "step": 100},
        {"event": "validation", "step": 100, "metric": "return", "curve": CURVE, "n": 100},
        {"event": "save", "step": 100},
        {**metrics, "step": 150},
        {"event": "waiting", "text": "steps 150 to 160, 20 s so far …"},
        {**metrics, "step": 160},
        {"event": "waiting", "text": "steps 160 to 170, 20 s so far …"},
    ]
    for event in events:
        live(event)
    lines = live.lines
    drawn = io.StringIO()
    rich.console.Console(file=drawn, width=80).print(live.block.get_renderable())
    live.close()
    assert len(drawn.getvalue().splitlines()) <= 10
    assert lines["waiting"] == "steps 160 to 170, 20 s so far …"
    assert "160/200" in lines["state"] and "s left" in lines["state"]
    assert "loss 0.5" in lines["training"] and "10 steps/s" in lines["training"]
    assert "after 1: -37.1 [-37.5, -36.8]" in lines["held out"] and "after 3" in lines["held out"]
    assert lines["memory"] == "1.5 GB at most" and lines["saved"] == "step 100"
    assert lines["resume"] == "quickstudy resume runs/a"


def test_a_run_that_goes_on_says_from_where():
    assert "going on" not in (describe(START) or "")
    assert (describe({**START, "step": 120}) or "").startswith("going on from step 120 of 200\n")
