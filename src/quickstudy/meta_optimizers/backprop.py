"""Back-propagation through the inner loop: θ ← θ + u(∇_θ 1/N Σ_i loss_i), u any optax transformation.

`epochs` passes over one batch, each in `minibatches` of tasks, make it PPO (Schulman et al. 2017) where the loss
is a surrogate. The mean over tasks is plain, so the tasks may be gone through in chunks of any size.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Batch, Incompatible, Learner, Memory, MetaOptimizer, Metrics, Objective
from quickstudy.parallel.keys import task_keys
from quickstudy.parallel.platform import on_accelerator
from quickstudy.parallel.reduce import DEVICES, mean_over_devices, num_devices, sum_over_devices
from quickstudy.parameters import combine, partition


class MeanGradient(NamedTuple):
    """Of the tasks of a batch.

    gradient: that of the mean of their losses, over all devices
    diverged: the tasks that contributed exactly zero
    undecided: some task has a gradient that is not finite though its loss is, and which one was not found out
    """

    losses: Float[Array, "tasks"]
    metrics: Metrics
    gradient: PyTree
    diverged: Bool[Array, "tasks"]
    undecided: Bool[Array, ""]


def mean_gradient(objective: Objective, learner: Learner, batch: Batch, *, chunk: int | None = None) -> MeanGradient:
    """The gradient of the mean loss, from at most `chunk` tasks at a time (None: all).

    A task whose loss or gradient is not finite contributes exactly zero. Tasks whose loss is not finite are left out
    and the chunk is tried again. Whose gradient it is, where all losses are finite, is known only of a task that is
    differentiated alone (`chunk` = 1); of others the result is undecided. On an accelerator, where a loop of unknown
    length would wait for the host, nothing is tried again.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    learned, rest = partition(learner)
    num = jax.tree.leaves(batch)[0].shape[0]
    most = num if chunk is None else min(chunk, num)

    def total(learned: PyTree, part: Batch, counted: Array) -> tuple[Array, tuple]:
        losses, metrics = objective.loss(combine(learned, rest), part)
        return (counted * losses).sum(), (losses, metrics)

    def attempt(progress: tuple, again: bool) -> tuple:
        first, summed, kept, diverged, undecided = progress
        start = jnp.minimum(first, num - most) if most < num else 0
        place = start + jnp.arange(most)
        cut = lambda tree: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, most), tree)
        paste = lambda tree, part: jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, 0), tree, part
        )
        counted = (place >= first) & ~cut(diverged)
        part = cut(batch)
        if again and most > 1:  # 0·NaN is NaN, so the place of a task that does not count is taken by one that does
            one = jnp.argmax(counted)
            put = jax.vmap(jnp.where, (0, 0, None))
            part = jax.lax.cond(
                counted.all(), lambda: part, lambda: jax.tree.map(lambda x: put(counted, x, x[one]), part)
            )
        (_, new), gradient = jax.value_and_grad(total, has_aux=True)(learned, part, counted)

        clean, sound = _finite((new[0], gradient)), jnp.isfinite(new[0])
        ill = counted & ~sound if most > 1 else counted & ~clean
        left = counted & ~ill
        done = clean | ~left.any() | (~ill.any() if again else True)
        summed = jax.tree.map(lambda s, g: s + jnp.where(clean, g, 0.0), summed, gradient)
        kept = paste(kept, jax.tree.map(partial(jax.vmap(jnp.where), counted), new, cut(kept)))
        undecided = undecided | (done & ~clean & left.any())
        return jnp.where(done, first + most, first), summed, kept, paste(diverged, cut(diverged) | ill), undecided

    empty = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    nothing = empty(jax.eval_shape(lambda: objective.loss(learner, batch)))
    progress = (jnp.int32(0), empty(learned), nothing, jnp.zeros(num, bool), jnp.zeros((), bool))
    if on_accelerator():
        progress = jax.lax.fori_loop(0, -(-num // most), lambda _, progress: attempt(progress, False), progress)
    else:
        progress = jax.lax.while_loop(lambda p: p[0] < num, lambda progress: attempt(progress, True), progress)
    _, summed, (losses, metrics), diverged, undecided = progress
    undecided = sum_over_devices(undecided.astype(int)) > 0
    gradient = jax.tree.map(lambda g: g / num, mean_over_devices(summed))
    return MeanGradient(losses, metrics, gradient, diverged, undecided)


def tasks_at_once(num: int, bytes_each: int) -> int | None:
    """How many of `num` tasks to differentiate together: on a CPU one after another, where arrays stay in its cache;
    elsewhere as many as fit into half of the device's memory (None: all)."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return 1
    memory = (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)
    fits = max(1, memory // (2 * max(1, bytes_each)))
    return None if fits >= num else next(size for size in range(fits, 0, -1) if num % size == 0)


def _finite(tree: PyTree) -> Array:
    # 0·x is NaN exactly where x is not finite, so one sum a leaf tells
    return jnp.isfinite(sum((0.0 * leaf).sum() for leaf in jax.tree.leaves(tree)))


class Backprop(MetaOptimizer):
    """`optimizer` moves the meta-parameters.

    epochs: passes over the tasks of a meta-step
    minibatches: equal parts of the tasks, each with a gradient step of its own in every pass
    chunk: tasks that are differentiated at a time, at most; None: all
    task_groups: with minibatches, each of them takes equal parts of so many groups of consecutive tasks, so that what
        is drawn into a minibatch does not depend on how many devices share the groups; None: as many of 8, 4, 2 or 1 as
        the tasks allow
    """

    optimizer: optax.GradientTransformation = eqx.field(static=True)
    epochs: int = eqx.field(static=True, default=1)
    minibatches: int = eqx.field(static=True, default=1)
    chunk: int | None = eqx.field(static=True, default=None)
    task_groups: int | None = eqx.field(static=True, default=None)

    population = None

    def __check_init__(self):
        require_whole(
            1, epochs=self.epochs, minibatches=self.minibatches, chunk=self.chunk, task_groups=self.task_groups
        )

    def groups(self, num_tasks: int) -> int:
        if self.minibatches == 1:
            return num_tasks
        if num_tasks % (self.minibatches * (self.task_groups or 1)):
            raise ValueError(
                f"{self.minibatches} minibatches of {self.task_groups or 1} groups must divide the {num_tasks} tasks "
                "of a meta-step"
            )
        return self.task_groups or next(g for g in (8, 4, 2, 1) if num_tasks % (self.minibatches * g) == 0)

    def init(self, learner: Learner) -> Memory:
        if not learner.differentiable:
            raise Incompatible(
                f"{type(learner).__name__} declares that it cannot be differentiated through; improve it by Evolution"
            )
        learned, _ = partition(learner)
        if not jax.tree.leaves(learned):
            raise Incompatible(f"{type(learner).__name__} has no meta-parameters: there is nothing to improve")
        return self.optimizer.init(learned)

    def careful(self) -> "Backprop":
        return dataclasses.replace(self, chunk=1)

    def candidates(self, learner: Learner, memory: Memory, *, key: Key[Array, ""]) -> Learner:
        del memory, key
        return learner

    def update(
        self, objective: Objective, learner: Learner, memory: Memory, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Learner, Memory, Metrics]:
        learned, rest = partition(learner)
        num = jax.tree.leaves(batch)[0].shape[0]

        def improve(carry, indices):
            learned, memory = carry
            part = batch if self.minibatches == 1 else jax.tree.map(lambda x: x[indices], batch)
            mean = mean_gradient(objective, combine(learned, rest), part, chunk=self.chunk)
            moves, memory = self.optimizer.update(mean.gradient, memory, learned)
            metrics = {"loss": mean.losses, **mean.metrics, "diverged": mean.diverged}
            norm = optax.tree.norm(mean.gradient)
            return (optax.apply_updates(learned, moves), memory), (metrics, norm, mean.undecided)

        order = jnp.stack([self._order(num, k) for k in jax.random.split(key, self.epochs)])
        order = order.reshape(self.epochs * self.minibatches, -1)
        (learned, memory), (metrics, norms, undecided) = jax.lax.scan(improve, (learned, memory), order)
        # What each task's minibatch of the first epoch saw, put back in the tasks' order.
        first = jnp.argsort(order[: self.minibatches].reshape(-1))
        first_seen = jax.tree.map(lambda m: m[: self.minibatches].reshape(num, *m.shape[2:])[first], metrics)
        ever = jnp.zeros(num, bool).at[order.reshape(-1)].max(metrics["diverged"].reshape(-1))
        return (
            combine(learned, rest),
            memory,
            {**first_seen, "diverged": ever, "gradient_norm": norms[0], "undecided": undecided.any()},
        )

    def _order(self, num: int, key: Key[Array, ""]) -> Int[Array, "minibatches size"]:
        """Which of the tasks on this device each minibatch takes: an equal part of every group, in random order."""
        if self.minibatches == 1:
            return jnp.arange(num)[None]
        groups = self.groups(num * num_devices()) // num_devices()
        first = jax.lax.axis_index(DEVICES) * groups if num_devices() > 1 else 0
        keys = task_keys(key, first + jnp.arange(groups))
        size = num // groups
        within = jax.vmap(lambda k: jax.random.permutation(k, size))(keys) + size * jnp.arange(groups)[:, None]
        return jnp.moveaxis(within.reshape(groups, self.minibatches, -1), 1, 0).reshape(self.minibatches, -1)
