"""What happens on Ctrl-C and SIGTERM: the first one is answered at once and loses nothing, a second one stops at once.

A computation holds the thread that it runs in. The command line therefore works in a second thread, while the main
thread, where Python runs its signal handlers, waits (`answering`). In a program of a user's own `train` notes a signal
and ends after the steps that are being taken.
"""

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal; the message says what was saved."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


@dataclasses.dataclass
class Stop:
    """Whether somebody asked to stop, and what would be lost."""

    signum: int | None = None
    doing: str = "starting"
    losing_nothing: bool = True  # whether what goes on now may simply be left
    kept: str = "nothing was saved"

    @contextlib.contextmanager
    def during(self, doing: str, *, losing_nothing: bool) -> Iterator[None]:
        """What goes on within; with `losing_nothing` the first signal ends it at once."""
        before = self.doing, self.losing_nothing
        self.doing, self.losing_nothing = doing, losing_nothing
        try:
            yield
        finally:
            self.doing, self.losing_nothing = before

    def interrupted(self) -> Interrupted:
        assert self.signum is not None
        return Interrupted(
            self.signum, f"stopped by {signal.Signals(self.signum).name} while {self.doing}; {self.kept}"
        )


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
        if stop.signum is not None:
            raise Interrupted(signum, f"stopped at once while {stop.doing}; {stop.kept}")
        stop.signum = signum

    with _handled_by(note):
        yield stop


def current() -> Stop:
    """The `Stop` of the command that runs, or one that nobody reads."""
    return _answering or Stop()


def answering(command: Callable[[], None], say: Callable[[str], None] | None = None) -> None:
    """Runs `command` in a thread of its own and answers signals meanwhile; to be called in the main thread.

    Raises what `command` raises. Raises Interrupted on the first signal where nothing is lost by that, while the thread
    may still be computing: the process must end then, by `os._exit`.
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
        again, stop.signum = stop.signum is not None, signum
        if again:
            raise Interrupted(signum, f"stopped at once while {stop.doing}; {stop.kept}")
        if stop.losing_nothing:
            raise stop.interrupted()
        say(f"{signal.Signals(signum).name}: stopping as soon as {stop.doing} is done; once more stops at once")

    worker = threading.Thread(target=work, name="quickstudy", daemon=True)
    try:
        with _handled_by(note):
            worker.start()
            while worker.is_alive():
                worker.join(0.1)
                if stop.signum is not None and stop.losing_nothing and worker.is_alive():
                    worker.join(1.0)  # it may just be about to say so itself
                    if worker.is_alive():
                        raise stop.interrupted()
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
