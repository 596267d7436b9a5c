"""The tasks of a meta-step, shared by several devices: each lives its part and differentiates it, and all sum.

Every device holds the learner and moves it by the same mean over all tasks, so the copies stay equal bit for bit; a
meta-optimizer of a user's own that forgets `sum_over_devices` is found out because they do not. (An objective that
normalises over its own tasks alone is not: its gradients are summed all the same.)
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from quickstudy.axes import DEVICES
from quickstudy.config import ConfigError
from quickstudy.core import Incompatible

try:
    import resource
except ImportError:  # Windows has none
    resource = None

MOST_CORES = 8  # that share tasks unless more are asked for: measured on two, and each has a copy of the data

WHOLE = PartitionSpec()  # each device has all of it


def tasks_along(axis: int) -> PartitionSpec:
    """Each device has its part of the tasks, which lie along this axis."""
    return PartitionSpec(*[None] * axis, DEVICES)


def use_cores(devices: int, most: int = 0) -> None:
    """Before JAX starts: makes a CPU so many devices, or with 0 one of each core, unless JAX was told a number; with
    `most`, of so many cores alone, unless it was told of more devices. Later nothing changes any more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores, most or cores)
    told = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if devices or not (told or getattr(jax.config, "jax_num_cpu_devices", 0) > 0):
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
    """Bytes that the first device has held at most or, where it does not tell, as a CPU, this process; 0 on a system
    that keeps no such count."""
    told = (available()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if told or resource is None:
        return told or 0
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept if sys.platform == "darwin" else 1024 * kept


def choose(wanted: int, tasks: int, minibatches: int) -> int:
    """How many devices share each minibatch of so many tasks: `wanted`, or with 0 as many as there are and divide it.

    Raises ConfigError where they do not divide it, or where there are not as many.
    """
    there = len(available())
    if wanted > there:
        mend = "; on a CPU set jax_num_cpu_devices before JAX starts" if jax.default_backend() == "cpu" else ""
        raise ConfigError([f"devices={wanted}, but JAX has {there}{mend}"])
    if wanted > 1 and tasks % (wanted * minibatches):
        fit = [str(num) for num in range(1, there + 1) if tasks % (num * minibatches) == 0]
        parts = f" in each of {minibatches} minibatches" if minibatches > 1 else ""
        raise ConfigError([f"devices={wanted} do not divide {tasks} tasks{parts}; use {' or '.join(fit)}"])
    return wanted or next((num for num in range(there, 1, -1) if tasks % (num * minibatches) == 0), 1)


class Shared:
    """`f` compiled for `num` devices. Its first argument is given away and comes back as its first result.

    arguments, results: what each device has of them, as trees of `WHOLE` and `tasks_along`
    example: arguments to compile it for
    """

    def __init__(self, f: Callable, num: int, arguments: tuple, results: tuple, example: tuple):
        self.devices = available()[:num]
        options: dict[str, str | bool] = {}
        if num > 1:
            mesh = jax.sharding.Mesh(np.asarray(self.devices), (DEVICES,))
            f = jax.shard_map(f, mesh=mesh, in_specs=arguments, out_specs=results, check_vma=False)
            is_spec = lambda node: isinstance(node, PartitionSpec)
            self.shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), arguments, is_leaf=is_spec)
            if self.devices[0].platform == "cpu":  # which else ends a process that was suspended while devices wait
                options = {"xla_cpu_collective_call_terminate_timeout_seconds": str(2**30)}
        self.compiled = jax.jit(f, donate_argnums=0).lower(*self.spread(*example)).compile(compiler_options=options)

    def spread(self, *arguments: PyTree) -> tuple:
        """The arguments where a call needs them, so that what stays the same is not copied for each."""
        return arguments if len(self.devices) == 1 else jax.device_put(arguments, self.shardings)

    def __call__(self, *arguments: PyTree) -> tuple:
        """On and from the first device. Raises Incompatible where the copies of what is whole differ."""
        results = self.compiled(*self.spread(*arguments))
        if len(self.devices) == 1:
            return results
        if not all(map(_same, jax.tree.leaves(results))):
            raise Incompatible(
                "the devices' copies of the learner or of a metric differ: a meta-optimizer reduced over its own tasks "
                "alone, or what it does is not deterministic. End what is taken over tasks with "
                "quickstudy.sum_over_devices, or train with devices=1"
            )
        return jax.device_put(results, self.devices[0])


def _same(array: jax.Array) -> bool:
    if not array.is_fully_replicated:
        return True
    bits = lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()
    return len({bits(shard.data) for shard in array.addressable_shards}) == 1
