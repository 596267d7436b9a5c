"""One live block at the bottom of a terminal."""

import time
from collections.abc import Mapping
from typing import Any

from quickstudy.display.events import curve_line, describe, metrics_line


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
