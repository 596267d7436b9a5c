"""Which devices there are, and how many of them share the tasks of a meta-step."""

import contextlib
import os
import sys
from typing import Any

import jax

from quickstudy.config import ConfigError

try:
    import resource
except ImportError:  # Windows has none
    resource = None

MOST_CORES = 8  # that share tasks unless more are asked for: measured on two, and each has a copy of the data


def use_cores(devices: int, most: int = 0) -> None:
    """Before JAX starts: makes a CPU so many devices, or with 0 one of each core, unless JAX was given a number; with
    `most`, of so many cores alone, unless more devices were asked for. Later nothing changes any more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores, most or cores)
    preset = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if devices or not (preset or getattr(jax.config, "jax_num_cpu_devices", 0) > 0):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices or min(cores, MOST_CORES))
    if most and "NPROC" not in os.environ:  # which XLA asks for its threads as it starts
        os.environ["NPROC"] = str(cores)
        try:
            jax.devices()
        finally:
            del os.environ["NPROC"]


def available() -> list[Any]:
    """This process's devices that are of the first one's kind."""
    first, *others = jax.local_devices()
    return [first, *(device for device in others if device.device_kind == first.device_kind)]


def peak_memory() -> int:
    """Bytes that the first device has held at most or, where it does not count, as a CPU, this process; 0 on a system
    that keeps no such count."""
    held = (available()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if held or resource is None:
        return held or 0
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept if sys.platform == "darwin" else 1024 * kept


def choose(wanted: int, groups: int) -> int:
    """How many devices share the tasks of a meta-step, which fall into so many groups: `wanted`, or with 0 as many as
    there are and divide them.

    Raises ConfigError where they do not divide it, or where there are not as many.
    """
    there = len(available())
    if wanted > there:
        mend = "; on a CPU set jax_num_cpu_devices before JAX starts" if jax.default_backend() == "cpu" else ""
        raise ConfigError([f"devices={wanted}, but JAX has {there}{mend}"])
    if wanted > 1 and groups % wanted:
        fit = [str(num) for num in range(1, there + 1) if groups % num == 0]
        raise ConfigError(
            [f"devices={wanted} do not divide the {groups} groups of tasks in a meta-step; use {' or '.join(fit)}"]
        )
    return wanted or next((num for num in range(there, 1, -1) if groups % num == 0), 1)
