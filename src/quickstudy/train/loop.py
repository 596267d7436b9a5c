"""The steps of meta-training, compiled.

    for step:  tasks ~ distribution;  batch = collect(candidates, tasks);  learner = update(learner, batch)

Where the objective lives on the device, all steps up to the next line of metrics are one compiled loop whose trip
count is an argument: logging more or less often runs the same program, so it cannot change the bits. Where it
touches the host, the same steps are taken one by one, with collecting between two compiled parts.
"""

import dataclasses
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, PyTree

from quickstudy.config import ConfigError, Training
from quickstudy.core import TRAIN_STREAM, Incompatible, Learner, MetaOptimizer, Objective, TaskDistribution
from quickstudy.parallel.mesh import choose
from quickstudy.parallel.program import REPLICATED, ShardedProgram, tasks_along
from quickstudy.parallel.reduce import DEVICES, num_devices
from quickstudy.parameters import combine, partition

# Folded into the seed's key, so that a learner initialised from the same seed shares nothing with the run.
RUN_STREAM, MEMORY_STREAM = 2**31, 2**31


class Progress(eqx.Module):
    """Everything that one meta-step hands to the next."""

    learner: Learner
    meta_optimizer: PyTree
    objective: PyTree
    key: Key[Array, ""]  # the run's; a step's own is folded from it and the step's number

    def parts(self) -> dict[str, PyTree]:
        return {
            "learner": self.learner,
            "meta_optimizer": self.meta_optimizer,
            "objective": self.objective,
            "key": self.key,
        }


class Loop:
    """The compiled parts of the loop for the objective of the moment."""

    def __init__(
        self,
        learner: Learner,
        meta_optimizer: MetaOptimizer,
        tasks: TaskDistribution,
        stages: list[tuple[int, Objective]],
        config: Training,
    ):
        self.meta_optimizer, self.tasks, self.stages = meta_optimizer, tasks, stages
        if all(stage.on_device for _, stage in stages):
            devices = choose(config.devices, config.meta_batch, meta_optimizer.minibatches)
        elif config.devices > 1:
            raise ConfigError([f"devices={config.devices}, but the objective lives on the host; use devices=1"])
        else:
            devices = 1
        self.config = dataclasses.replace(config, devices=devices)
        # The loop gives its buffers away; the caller's learner stays its own.
        self.learner = _apart(learner)
        self.programs: dict[int, Callable] = {}
        self.compile_seconds = 0.0

    def stage(self, step: int) -> int:
        return next(i for i, (end, _) in enumerate(self.stages) if step < end or i == len(self.stages) - 1)

    def begin(self) -> Progress:
        key = jax.random.fold_in(jax.random.key(self.config.seed), RUN_STREAM)
        memories = [self._memory(objective, key) for _, objective in self.stages]
        if len(memories) > 1 and any(jax.tree.leaves(memory) for memory in memories):
            raise Incompatible(
                "a curriculum needs objectives without memory: unfinished lives fit only their own stage"
            )
        # A memory may hold one buffer twice (an environment that keeps arrays of its task), and each is donated.
        apart = _apart(memories[-1])
        leading = slice(2 if self.meta_optimizer.population else 1)
        tasks = (*filter(None, [self.meta_optimizer.population]), self.config.meta_batch)
        if self.config.devices > 1 and any(x.shape[leading] != tasks for x in jax.tree.leaves(apart)):
            raise Incompatible(
                "devices share a memory by its leading axis of tasks, which this one lacks; use devices=1"
            )
        # One program: its dozens of operations would each be compiled apart.
        return Progress(self.learner, eqx.filter_jit(self.meta_optimizer.init)(self.learner), apart, key)

    def _memory(self, objective: Objective, key: Key[Array, ""]) -> PyTree:
        start, candidates, tasks = jax.random.split(jax.random.fold_in(key, MEMORY_STREAM), 3)

        def init(learner: Learner, distribution: TaskDistribution) -> PyTree:
            sampled = self._sampled(distribution, tasks)
            learners = self.meta_optimizer.candidates(learner, self.meta_optimizer.init(learner), key=candidates)
            begin = lambda learner, _: objective.init(learner, sampled, key=start)
            return self._over_candidates(begin, objective)(learners, ())

        return (eqx.filter_jit(init) if objective.on_device else init)(self.learner, self.tasks)

    def _over_candidates(self, f: Callable, objective: Objective) -> Callable:
        """f(learner, memory) for the learner, or for each of a population, which all live the same."""
        if self.meta_optimizer.population is None:
            return f
        return lambda learners, memory: (_vmap_candidates if objective.on_device else _loop_candidates)(
            f, learners, memory
        )

    def _sampled(self, tasks: TaskDistribution, key: Key[Array, ""]) -> PyTree:
        return tasks.sample(self.config.meta_batch // num_devices(), key=jax.random.fold_in(key, TRAIN_STREAM))

    def _sample(
        self, tasks: TaskDistribution, key: Key[Array, ""], step: Array
    ) -> tuple[PyTree, Key[Array, ""], Key[Array, ""]]:
        drawing, living, improving = jax.random.split(jax.random.fold_in(key, step), 3)
        if num_devices() > 1:
            drawing, living = (jax.random.fold_in(k, jax.lax.axis_index(DEVICES)) for k in (drawing, living))
        return self._sampled(tasks, drawing), living, improving

    def _collect(self, objective: Objective, progress: Progress, tasks: PyTree, living: Array, improving: Array):
        learners = self.meta_optimizer.candidates(progress.learner, progress.meta_optimizer, key=improving)
        collect = lambda learner, memory: objective.collect(learner, memory, tasks, key=living)
        return self._over_candidates(collect, objective)(learners, progress.objective)

    def _update(self, objective: Objective, progress: Progress, batch: PyTree, memory: PyTree, improving: Array):
        learner, optimizer, metrics = self.meta_optimizer.update(
            objective, progress.learner, progress.meta_optimizer, batch, key=improving
        )
        return Progress(learner, optimizer, memory, progress.key), metrics

    def program(
        self, stage: int, progress: Progress
    ) -> Callable[[Progress, int, int], tuple[Progress, dict[str, np.ndarray]]]:
        """(progress, first step, beyond) -> (progress, metrics with a leading axis of steps)."""
        if stage not in self.programs:
            objective = self.stages[stage][1]
            self.programs[stage] = (self._fused if objective.on_device else self._on_host)(objective, progress)
        return self.programs[stage]

    def _fused(self, objective: Objective, progress: Progress) -> Callable:
        arrays, static = eqx.partition(progress, eqx.is_array)
        # A data set is an argument of the program: as a constant it would be compiled into it.
        data, family = eqx.partition(self.tasks, eqx.is_array)

        @jax.jit  # so that it is traced once, for its shapes and for the loop
        def one(arrays, data, step, going):
            progress = eqx.combine(arrays, static)
            draw = lambda: self._sample(eqx.combine(data, family), progress.key, step)
            tasks, living, improving = _stored(draw, going)
            batch, memory = self._collect(objective, progress, tasks, living, improving)
            progress, metrics = self._update(objective, progress, batch, memory, improving)
            return eqx.filter(progress, eqx.is_array), metrics

        def many(arrays, data, start, stop):
            shapes = jax.eval_shape(one, arrays, data, start, True)[1]
            empty = jax.tree.map(
                lambda s: jnp.zeros((min(self.config.log_interval, self.config.meta_steps), *s.shape), s.dtype), shapes
            )

            def body(step, carry):
                arrays, kept = carry
                arrays, metrics = one(arrays, data, step, step < stop)
                kept = jax.tree.map(lambda k, m: k.at[step - start].set(m), kept, metrics)
                return arrays, kept

            arrays, metrics = jax.lax.fori_loop(start, stop, body, (arrays, empty))
            of_tasks = {name: m for name, m in metrics.items() if m.ndim > 1}
            return arrays, of_tasks, {name: m for name, m in metrics.items() if name not in of_tasks}

        memory = tasks_along(0 if self.meta_optimizer.population is None else 1)
        lives = lambda path, _: memory if path[0].name == "objective" else REPLICATED
        lived = jax.tree_util.tree_map_with_path(lives, arrays)
        arguments, results = (lived, REPLICATED, REPLICATED, REPLICATED), (lived, tasks_along(1), REPLICATED)
        began = time.perf_counter()
        at = np.zeros((), np.uint32)
        shared = ShardedProgram(many, self.config.devices, arguments, results, example=(arrays, data, at, at))
        self.compile_seconds += time.perf_counter() - began
        _, data, *_ = shared.spread(arrays, data, at, at)

        def run(progress: Progress, start: int, stop: int):
            arrays, of_tasks, of_all = shared(
                eqx.filter(progress, eqx.is_array), data, np.uint32(start), np.uint32(stop)
            )
            metrics = jax.tree.map(lambda m: np.asarray(m)[: stop - start], of_tasks | of_all)
            return eqx.combine(arrays, static), metrics

        return run

    def _on_host(self, objective: Objective, progress: Progress) -> Callable:
        del progress
        sample, update = eqx.filter_jit(self._sample), eqx.filter_jit(self._update)

        def run(progress: Progress, start: int, stop: int):
            kept = []
            for step in range(start, stop):
                tasks, living, improving = sample(self.tasks, progress.key, jnp.asarray(step, jnp.uint32))
                batch, memory = self._collect(objective, progress, tasks, living, improving)
                progress, metrics = update(objective, progress, batch, memory, improving)
                kept.append(jax.tree.map(np.asarray, metrics))
            return progress, jax.tree.map(lambda *m: np.stack(m), *kept)

        return run


@eqx.filter_jit
def _apart(tree: PyTree) -> PyTree:
    """The same in buffers of its own, one for each leaf."""
    return jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, tree)


def _stored(f: Callable[[], PyTree], going: Bool[Array, ""]) -> PyTree:
    """f(), stored by being a branch's result. What is cheap to draw XLA would otherwise compute anew in every operation
    that uses it (on a CPU optimization barriers are gone before it decides), a sixth of a step's time on sinusoids.

    going: true, unknown to the compiler
    """
    return jax.lax.cond(going, f, lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f)))


def _vmap_candidates(f: Callable, learners: Learner, memory: PyTree) -> PyTree:
    learned, rest = partition(learners)
    return jax.vmap(lambda learned, memory: f(combine(learned, rest), memory))(learned, memory)


def _loop_candidates(f: Callable, learners: Learner, memory: PyTree) -> PyTree:
    learned, rest = partition(learners)
    pick = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
    lived = [f(combine(pick(learned, i), rest), pick(memory, i)) for i in range(jax.tree.leaves(learned)[0].shape[0])]
    return jax.tree.map(lambda *x: jnp.stack(x), *lived)
