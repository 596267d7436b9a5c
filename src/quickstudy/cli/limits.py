"""A limit of address space (`ulimit -v`), which ends the libraries underneath without a word.

Below what they need to start, an error says so before they are loaded. Above, the command is run in a process of its
own, so that its end is noticed and reported.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

try:
    import resource
except ImportError:  # Windows has none
    resource = None

NEEDED = 2_500_000_000  # bytes that a small run takes on two cores: 2.0e9 end within the first step, 2.56e9 do not
CHILD = "QUICKSTUDY_LIMITED"
ENDS = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL}


def address_space() -> int | None:
    """Bytes that this process may address; None: as many as there are."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def check() -> None:
    """Raises MemoryError where the limit is too low for anything."""
    limit = address_space()
    if limit is not None and limit < NEEDED:
        raise MemoryError(
            f"the address space is limited to {limit / 1e9:.2f} GB (ulimit -v), and at least {NEEDED / 1e9:.1f} GB are "
            "needed: raise it, or limit the memory that is used in another way, as with systemd-run -p MemoryMax=…"
        )


def supervise() -> int | None:
    """Runs this very command in a child, where the address space is limited, and returns its exit code. None where it
    is not, or in that child."""
    limit = address_space()
    if limit is None:
        return None
    if CHILD in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # when the parent dies, on Linux
        return None
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env={**os.environ, CHILD: "1"}, start_new_session=True
    )

    def forward(signum: int, frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, forward)
    code = child.wait()
    if code >= 0 and code != 127:  # with which the dynamic linker ends
        return code
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    if code == 127 or -code in ENDS:
        print(
            f"quickstudy: out of memory: the libraries underneath ended ({how}), and the address space is limited to "
            f"{limit / 1e9:.2f} GB (ulimit -v): raise it, or make --meta-batch, --test-tasks or the network smaller",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return 7
    return 128 - code
