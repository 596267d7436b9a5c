"""What a person, or another program, sees of a run. A listener is anything that is called with events.

    {"event": "start" | "compile" | "compiled" | "metrics" | "validation" | "save" | "waiting" | "warning" | ..., ...}

"waiting" comes from a thread of its own, while the thread that sends all other events is busy.

Writers for TensorBoard and Weights & Biases are listeners too (extras `tensorboard`, `wandb`).
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

Listener = Callable[[Mapping[str, Any]], None]


def quiet(event: Mapping[str, Any]) -> None:
    """Says nothing."""


class Together:
    """A listener that calls each of these, and closes those that can be closed."""

    def __init__(self, *listeners: Listener):
        self.listeners = listeners

    def __call__(self, event: Mapping[str, Any]) -> None:
        for listener in self.listeners:
            listener(event)

    def close(self) -> None:
        for listener in self.listeners:
            close(listener)


def close(listener: Listener) -> None:
    """Ends what it has open: a block on the terminal, a file, a connection."""
    if end := getattr(listener, "close", None):
        end()


@contextlib.contextmanager
def waiting(listener: Listener, doing: str, every: float = 20.0) -> Iterator[None]:
    """Says every so many seconds that `doing` goes on, where nothing else would. What the listener raises then is
    raised at the end."""
    done, began = threading.Event(), time.monotonic()
    failed: list[Exception] = []

    def tell() -> None:
        try:
            while not done.wait(every):
                listener({"event": "waiting", "text": f"{doing}, {time.monotonic() - began:.0f} s so far …"})
        except Exception as error:
            failed.append(error)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
    if failed:
        raise failed[0]


def say(line: str, stream: TextIO | None = None) -> None:
    """Prints a line. What the stream has no character for is replaced; a stream that was closed, or that nobody reads
    any more, is no reason to stop training."""
    stream = stream or sys.stdout
    if stream is None:  # it was closed before we began
        return
    try:
        try:
            print(line, file=stream, flush=True)
        except UnicodeEncodeError:
            print(line.encode(stream.encoding, "replace").decode(stream.encoding), file=stream, flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # what is left in it goes nowhere, instead of failing at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Json:
    """Every event is a line of JSON."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream

    def __call__(self, event: Mapping[str, Any]) -> None:
        say(json.dumps(event, allow_nan=False, default=list), self.stream)


def describe(event: Mapping[str, Any]) -> str | None:
    """An event as one plain line; None for those that say nothing new to a reader."""
    kind = event["event"]
    if kind == "start":
        learned = event["meta_parameters"]
        total = sum(_size(shape) for shape in learned.values())
        listed = "\n".join(f"  {name} {list(shape)}" for name, shape in learned.items())
        there = event.get("devices_there", 1)
        shared = f"\n{event['devices']} of {there} devices share the tasks" if there > 1 else ""
        again = f"going on from step {event['step']} of {event['meta_steps']}\n" if event["step"] else ""
        return f"{again}meta-parameters ({total:,} numbers in {len(learned)} arrays):\n{listed}{shared}"
    if kind == "compile":
        which = f" stage {event['stage'] + 1} of {event['stages']}" if event["stages"] > 1 else ""
        return f"compiling{which} …"
    if kind == "compiled":
        return f"compiled in {event['seconds']:.1f} s"
    if kind == "validation":
        return f"step {event['step']}: held out, {event['metric']} {curve_line(event['curve'])}  (n={event['n']})"
    if kind == "metrics":
        return metrics_line(event)
    if kind == "save":
        return None
    return event.get("text")


def metrics_line(event: Mapping[str, Any]) -> str:
    """step, what was measured, how fast; and who diverged."""
    skip = {"event", "step", "steps_per_second", "memory", "diverged", "diverged_tasks"}
    shown = "  ".join(
        f"{name} {value:.4g}" for name, value in event.items()
        if name not in skip and not name.endswith("_std") and value is not None
    )  # fmt: skip
    line = f"step {event['step']}: {shown}  ({event['steps_per_second']:.3g} steps/s)"
    if event["diverged"]:
        where = ", ".join(f"step {s} task {t}" for s, t in event["diverged_tasks"])
        line += f"  {event['diverged']} diverged: {where}"
    return line


def curve_line(curve: Sequence[Mapping[str, Any]], most: int = 5) -> str:
    """after 0: −38.1 [−38.5, −37.8]   after 1: …"""
    picked = curve if len(curve) <= most else [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]
    return "   ".join(f"after {p['adaptations']}: {p['mean']:.4g} [{p['ci'][0]:.4g}, {p['ci'][1]:.4g}]" for p in picked)


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


class Plain:
    """Plain lines, metrics at most every few seconds; no carriage returns, no colours."""

    def __init__(self, stream: TextIO | None = None, every: float = 5.0):
        self.stream, self.every, self.last = stream, every, -float("inf")

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "metrics" and not event["diverged"]:
            now = time.monotonic()
            if now - self.last < self.every:
                return
            self.last = now
        if line := describe(event):
            say(line, self.stream)
