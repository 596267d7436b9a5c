"""The tasks of a meta-step, shared by several devices: each differentiates its part, and gradients are summed.

Every device holds the learner and moves it by the same mean over all tasks, so the copies stay equal bit for bit; a
meta-optimizer of a user's own that forgets `sum_over_devices` is found out because they do not. (An objective that
normalises over its own tasks alone is not: its gradients are summed all the same.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from quickstudy.core import Incompatible
from quickstudy.parallel.mesh import available
from quickstudy.parallel.reduce import DEVICES

REPLICATED = PartitionSpec()  # each device has all of it


def tasks_along(axis: int) -> PartitionSpec:
    """Each device has its part of the tasks, which lie along this axis."""
    return PartitionSpec(*[None] * axis, DEVICES)


class ShardedProgram:
    """`f` compiled for `num` devices. Its first argument is given away and comes back as its first result.

    arguments, results: what each device has of them, as trees of `REPLICATED` and `tasks_along`
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
