"""What happens on Ctrl-C and SIGTERM: the first one is answered at once and loses nothing, a second one stops at once.

A computation holds the thread that it runs in. The command line therefore works in a second thread, while the main
thread, where Python runs its signal handlers, waits (`answering`). In a program of a user's own `train` notes a signal
and ends after the steps that are being taken.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST = 0.5  # seconds


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal; the message says what was saved."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
        self.left = False  # whether a thread still computes


class Stop:
    """Whether somebody asked to stop, and how what goes on can be left."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.since = 0.0  # when it came
        self.doing = "starting"
        self.kept = "nothing was saved"
        self._leave: Callable[[], None] | None = lambda: None
        self._lock = threading.Lock()
        self._left = False
        self.answered = False  # whether what goes on ends by itself
        self.of: dict[str, Any] = {}  # attributes of the error, that tell what was stopped

    def note(self, signum: int) -> bool:
        """Notes a signal; whether it is the second one. What comes within half a second of the first is the same
        request, as where a terminal and a supervisor both pass it on."""
        if self.signum is not None:
            return time.monotonic() - self.since > SAME_REQUEST
        self.signum, self.since = signum, time.monotonic()
        return False

    @contextlib.contextmanager
    def during(self, doing: str, *, leave: Callable[[], None] | None = None) -> Iterator[None]:
        """What goes on within. Where the command line answers signals, the first one calls `leave`, which saves what
        would be lost, and ends the process; without `leave` it waits for the end."""
        before = self.doing, self._leave
        with self._lock:
            self.doing, self._leave = doing, leave
        try:
            yield
        finally:
            with self._lock:
                left = self._left
                self.doing, self._leave = before
            if left:
                threading.Event().wait()  # the process is being ended

    def left(self) -> bool:
        """Leaves what goes on, if that can be left."""
        with self._lock:
            self._left = self._left or (self.signum is not None and self._leave is not None)
            leave = self._leave if self._left else None
        if leave is not None:
            leave()
        return self._left

    def interrupted(self, *, at_once: bool = False) -> Interrupted:
        """The error that ends it."""
        assert self.signum is not None
        self.answered = True
        how = "at once" if at_once else f"by {signal.Signals(self.signum).name}"
        error = Interrupted(self.signum, f"stopped {how} while {self.doing}; {self.kept}")
        for name, value in self.of.items():
            setattr(error, name, value)
        return error


_answering: Stop | None = None  # that of the command that `answering` runs


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
    """The `Stop` that the command line answers for or, where there is none, one that notes the signals which come; a
    second signal raises Interrupted then. Outside of the main thread nothing comes."""
    if _answering is not None:
        yield _answering
        return
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(signum: int, frame: Any) -> None:
        if stop.note(signum):
            raise stop.interrupted(at_once=True)

    with _handled_by(note):
        yield stop


def answering(command: Callable[[], None], say: Callable[[str], None] | None = None) -> None:
    """Runs `command` in a thread of its own and answers signals meanwhile; to be called in the main thread.

    Raises what `command` raises, and Interrupted after a signal, while the thread may still be computing: the process
    must end then, by `os._exit`.
    """
    global _answering
    stop = _answering = Stop()
    outcome: list[BaseException] = []
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))

    def work() -> None:
        try:
            command()
        except BaseException as error:  # SystemExit of the parser, too
            outcome.append(error)

    def note(signum: int, frame: Any) -> None:
        first = stop.signum is None
        if stop.note(signum):
            raise stop.interrupted(at_once=True)
        if first:
            say(f"{signal.Signals(signum).name}: stopping; once more stops at once, losing what is not saved")

    worker = threading.Thread(target=work, name="quickstudy", daemon=True)
    try:
        with _handled_by(note):
            worker.start()
            while worker.is_alive():
                worker.join(0.05)
                if worker.is_alive() and not stop.answered and stop.left():
                    raise stop.interrupted()
    except Interrupted as error:
        error.left = True
        raise
    finally:
        _answering = None
    if outcome:
        raise outcome[0]


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, handler_before)
