"""Back-propagation through the inner loop: θ ← θ + u(∇_θ 1/N Σ_i loss_i), u any optax transformation.

`epochs` passes over one batch, each in `minibatches` of tasks, make it PPO (Schulman et al. 2017) where the loss
is a surrogate. The mean over tasks is plain, so the tasks may be gone through in chunks of any size.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from quickstudy.core import Batch, Incompatible, Learner, Memory, MetaOptimizer, Metrics, Objective
from quickstudy.parallel.reduce import mean_over_devices
from quickstudy.parameters import combine, partition

PATIENCE = 32  # halvings in a meta-step, in search of the tasks whose gradient is not finite


def mean_gradient(objective: Objective, learner: Learner, batch: Batch, *, chunk: int | None = None):
    """(losses [tasks], metrics, gradient of their mean, mask of the diverged tasks), from at most `chunk` tasks at a
    time. Where devices share the tasks, the gradient is that of all of them, the rest of this device's.

    A task whose loss or gradient is not finite contributes exactly zero. To tell whose gradient it is would take one
    gradient a task, so that is asked only when something was not finite: tasks whose loss is not are left out first,
    then halves are tried, each of which takes as long as a chunk, and after `PATIENCE` halvings what fails is left out
    whole. All in one program, because a second one takes as long to compile as the first.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    learned, rest = partition(learner)
    num = jax.tree.leaves(batch)[0].shape[0]
    most = num if chunk is None else min(chunk, num)

    def total(learned, part, counts):
        losses, metrics = objective.loss(combine(learned, rest), part)
        return (counts * losses).sum(), (losses, metrics)

    def attempt(progress):
        first, size, halvings, summed, told, diverged = progress
        start = jnp.minimum(first, num - most) if most < num else 0
        place = start + jnp.arange(most)
        cut = lambda tree: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, most), tree)
        paste = lambda tree, part: jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, 0), tree, part
        )

        counts = (place >= first) & (place < first + size) & ~cut(diverged)
        part = cut(batch)
        if most > 1:  # 0·NaN is NaN, so the place of a task that does not count is taken by one that does
            one = jnp.argmax(counts)
            put = jax.vmap(jnp.where, (0, 0, None))
            part = jax.lax.cond(
                counts.all(), lambda: part, lambda: jax.tree.map(lambda x: put(counts, x, x[one]), part)
            )
        (_, new), gradient = jax.value_and_grad(total, has_aux=True)(learned, part, counts)

        clean, sound = _finite((new[0], gradient)), jnp.isfinite(new[0])
        stuck = ~clean & sound.all()  # it is a gradient that is not finite, of whichever task
        last = stuck & ((counts.sum() == 1) | (halvings >= PATIENCE))
        left = counts & sound & ~last
        done = clean | ~left.any()
        summed = jax.tree.map(lambda s, g: s + jnp.where(clean, g, 0.0), summed, gradient)
        told = paste(told, jax.tree.map(partial(jax.vmap(jnp.where), counts), new, cut(told)))
        diverged = paste(diverged, cut(diverged) | (counts & ~left))
        return (
            jnp.where(done, first + size, first),
            jnp.where(done, jnp.minimum(2 * size, most), jnp.where(stuck, size // 2, size)),
            halvings + stuck,
            summed,
            told,
            diverged,
        )

    empty = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    told = empty(jax.eval_shape(lambda: objective.loss(learner, batch)))
    *_, summed, (losses, metrics), diverged = jax.lax.while_loop(
        lambda progress: progress[0] < num,
        attempt,
        (jnp.int32(0), jnp.int32(most), jnp.int32(0), empty(learned), told, jnp.zeros(num, bool)),
    )
    return losses, metrics, jax.tree.map(lambda g: g / num, mean_over_devices(summed)), diverged


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
    """`optimizer` moves the meta-parameters; at most `chunk` tasks at a time are differentiated (None: all)."""

    optimizer: optax.GradientTransformation = eqx.field(static=True)
    epochs: int = eqx.field(static=True, default=1)
    minibatches: int = eqx.field(static=True, default=1)
    chunk: int | None = eqx.field(static=True, default=None)

    population = None

    def init(self, learner: Learner) -> Memory:
        if not learner.differentiable:
            raise Incompatible(
                f"{type(learner).__name__} declares that it cannot be differentiated through; improve it by Evolution"
            )
        learned, _ = partition(learner)
        if not jax.tree.leaves(learned):
            raise Incompatible(f"{type(learner).__name__} has no meta-parameters: there is nothing to improve")
        return self.optimizer.init(learned)

    def candidates(self, learner: Learner, memory: Memory, *, key: Key[Array, ""]) -> Learner:
        del memory, key
        return learner

    def update(
        self, objective: Objective, learner: Learner, memory: Memory, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Learner, Memory, Metrics]:
        learned, rest = partition(learner)
        num = jax.tree.leaves(batch)[0].shape[0]
        if num % self.minibatches:
            raise ValueError(f"{self.minibatches} minibatches must divide the {num} tasks of a device")

        def improve(carry, indices):
            learned, memory = carry
            part = batch if self.minibatches == 1 else jax.tree.map(lambda x: x[indices], batch)
            losses, metrics, gradient, diverged = mean_gradient(
                objective, combine(learned, rest), part, chunk=self.chunk
            )
            moves, memory = self.optimizer.update(gradient, memory, learned)
            metrics = {"loss": losses, **metrics, "diverged": diverged}
            norm = optax.tree.norm(gradient)
            return (optax.apply_updates(learned, moves), memory), (metrics, norm)

        shuffled = [jax.random.permutation(k, num) for k in jax.random.split(key, self.epochs)]
        if self.minibatches == 1:
            shuffled = [jnp.arange(num)] * self.epochs
        order = jnp.stack(shuffled).reshape(self.epochs * self.minibatches, -1)
        (learned, memory), (metrics, norms) = jax.lax.scan(improve, (learned, memory), order)
        # What the tasks were worth before this update: the first epoch's, put back in the tasks' order.
        first = jnp.argsort(order[: self.minibatches].reshape(-1))
        told = jax.tree.map(lambda m: m[: self.minibatches].reshape(num, *m.shape[2:])[first], metrics)
        ever = jnp.zeros(num, bool).at[order.reshape(-1)].max(metrics["diverged"].reshape(-1))
        return combine(learned, rest), memory, {**told, "diverged": ever, "gradient_norm": norms[0]}
