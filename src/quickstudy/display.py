"""What a person, or another program, sees of a run. A listener is anything that is called with events.

    {"event": "start" | "compile" | "compiled" | "metrics" | "validation" | "save" | "waiting" | "warning" | ..., ...}

"waiting" comes from a thread of its own, while the one that tells all else is busy.

Writers for TensorBoard and Weights & Biases are listeners too (extras `tensorboard`, `wandb`).
"""

import abc
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

Listener = Callable[[Mapping[str, Any]], None]


def quiet(event: Mapping[str, Any]) -> None:
    """Says nothing."""


class Together:
    """Tells each of them, and closes those that can be."""

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


class Json:
    """Every event is a line of JSON."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream

    def __call__(self, event: Mapping[str, Any]) -> None:
        print(json.dumps(event, allow_nan=False, default=list), file=self.stream or sys.stdout, flush=True)


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
            print(line, file=self.stream or sys.stdout, flush=True)


class Live:
    """One block at the bottom of a terminal: progress, time left, speed, held-out performance, health, memory, last
    save."""

    def __init__(self, resume: str | None = None):
        from rich.console import Console
        from rich.live import Live as Block

        self.console = Console()
        self.resume = resume
        self.block = Block(console=self.console, refresh_per_second=4, transient=True)
        self.steps, self.first, self.began = 0, None, time.monotonic()
        self.lines: dict[str, str] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        self.lines.pop("waiting", None)
        if kind == "start":
            self.steps = event["meta_steps"]
            self.console.print(describe(event), highlight=False)
            self.block.start()
        elif kind in ("compile", "compiled"):
            self.lines["state"] = describe(event) or ""
            self.first = None  # the time left is reckoned without compiling
        elif kind == "waiting":
            self.lines["waiting"] = event["text"]
        elif kind == "metrics":
            self._metrics(event)
        elif kind == "validation":
            self.lines["held out"] = f"{event['metric']}  {curve_line(event['curve'], 4)}"
        elif kind == "save":
            self.lines["saved"] = f"step {event['step']}"
            if self.resume:
                self.lines["resume"] = self.resume
        elif kind == "warning":
            self.console.print(describe(event), highlight=False, markup=False)
        else:
            self.block.stop()
            if text := describe(event):
                self.console.print(text, highlight=False, markup=False)
        self._draw()

    def _metrics(self, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (event["step"], now)
        done = event["step"] - self.first[0]
        left = (now - self.first[1]) / done * (self.steps - event["step"]) if done else None
        bar = int(30 * event["step"] / self.steps)
        remaining = f"{left // 60:.0f} min {left % 60:02.0f} s left" if left is not None else ""
        self.lines["state"] = f"{'━' * bar}{'┄' * (30 - bar)} {event['step']}/{self.steps}  {remaining}"
        self.lines["training"] = metrics_line(event)
        self.lines["memory"] = f"{event['memory'] / 1e9:.1f} GB at most"

    def _draw(self) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, line in self.lines.items():
            table.add_row(f"[dim]{name}[/dim]", line)
        self.block.update(table)

    def close(self) -> None:
        self.block.stop()


class Writer(abc.ABC):
    """Writes scalars elsewhere, which it opens as training starts: a run that is refused leaves nothing there."""

    def __init__(self, begin: Callable[[], Any]):
        self.begin = begin
        self.there: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            self.there = self.begin()
        elif scalars := _scalars(event):
            self.write(scalars, event["step"])

    @abc.abstractmethod
    def write(self, scalars: Mapping[str, float], step: int) -> None: ...

    @abc.abstractmethod
    def end(self) -> None: ...

    def close(self) -> None:
        if self.there is not None:
            self.end()


class TensorBoard(Writer):
    """Metrics as TensorBoard scalars. Needs the extra `tensorboard`."""

    def __init__(self, path: str):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboardX is not installed: pip install 'quickstudy[tensorboard]'") from error
        super().__init__(lambda: SummaryWriter(path))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.there.add_scalar(name, value, step)

    def end(self) -> None:
        self.there.close()


class WeightsAndBiases(Writer):
    """Metrics to a Weights & Biases run. Needs the extra `wandb`."""

    def __init__(self, **settings: Any):
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb is not installed: pip install 'quickstudy[wandb]'") from error
        super().__init__(lambda: wandb.init(**settings))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        self.there.log(scalars, step=step)

    def end(self) -> None:
        self.there.finish()


def _scalars(event: Mapping[str, Any]) -> dict[str, float]:
    if event["event"] == "metrics":
        return {f"train/{k}": float(v) for k, v in event.items() if k != "step" and isinstance(v, int | float)}
    if event["event"] == "validation":
        return {f"held_out/after_{p['adaptations']}": p["mean"] for p in event["curve"]}
    return {}
