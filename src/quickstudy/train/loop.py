"""Meta-steps, compiled.

Where the objective runs on the device, many meta-steps are one program. On a CPU its number of turns is an argument;
on an accelerator, where a loop of unknown length would wait for the host at every turn, programs of a few fixed lengths
follow one another. Either way logging more or less often runs the same steps, so it cannot change the bits.
Where the objective touches the host, steps are taken one by one, with collecting between two compiled parts.

A step whose gradient is not finite, though every loss is, is taken again by `MetaOptimizer.careful`, which finds whose
gradient it is: a program that is compiled when it is first needed.
"""

import dataclasses
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from quickstudy.config import ConfigError, Training
from quickstudy.core import Incompatible, Learner, MetaOptimizer, Metrics, Objective, ObjectiveMemory, TaskDistribution
from quickstudy.parallel.mesh import available, choose
from quickstudy.parallel.platform import on_accelerator, program_for
from quickstudy.parallel.program import REPLICATED, ShardedProgram, tasks_along
from quickstudy.train.step import MetaStep, Progress

# Folded into the seed's key, so that a learner initialised from the same seed shares nothing with the run.
RUN_STREAM, MEMORY_STREAM = 2**31, 2**31
MOST_STEPS = 4096  # of one call
LENGTHS = (256, 16, 1)  # of the programs for an accelerator, in steps

Run = Callable[[Progress, int, int], tuple[Progress, dict[str, np.ndarray]]]


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
            devices = choose(config.devices, meta_optimizer.groups(config.meta_batch))
        elif config.devices > 1:
            raise ConfigError([f"devices={config.devices}, but the objective runs on the host; use devices=1"])
        else:
            devices = 1
        self.config = dataclasses.replace(config, devices=devices)
        # The loop gives its buffers away; the caller's learner stays its own.
        self.learner = _apart(learner)
        self.programs: dict[int, Run] = {}
        self.compile_seconds = 0.0

    @property
    def most_steps(self) -> int:
        """That one call can take: so many steps' metrics are kept on the device."""
        return min(self.config.log_interval, self.config.meta_steps, MOST_STEPS)

    def stage(self, step: int) -> int:
        return next(i for i, (end, _) in enumerate(self.stages) if step < end or i == len(self.stages) - 1)

    def begin(self) -> Progress:
        key = jax.random.fold_in(jax.random.key(self.config.seed), RUN_STREAM)
        of_memory = jax.random.fold_in(key, MEMORY_STREAM)
        memories = [self._step(objective).memory(self.learner, self.tasks, of_memory) for _, objective in self.stages]
        if len(memories) > 1 and any(jax.tree.leaves(_per_task(memory)) for memory in memories):
            raise Incompatible(
                "a curriculum needs objectives without a memory of tasks: unfinished trials fit only their own stage"
            )
        if len(set(map(jax.tree.structure, memories))) > 1:
            raise Incompatible("the stages of a curriculum keep different things from one meta-step to the next")
        # A memory may hold one buffer twice (an environment that keeps arrays of its task), and each is donated.
        apart = _apart(memories[-1])
        leading = slice(2 if self.meta_optimizer.population else 1)
        tasks = (*filter(None, [self.meta_optimizer.population]), self.config.meta_batch)
        if self.config.devices > 1 and any(x.shape[leading] != tasks for x in jax.tree.leaves(_per_task(apart))):
            raise Incompatible(
                "devices share a memory by its leading axis of tasks, which this one lacks; use devices=1"
            )
        # One program: its dozens of operations would each be compiled apart.
        return Progress(self.learner, eqx.filter_jit(self.meta_optimizer.init)(self.learner), apart, key)

    def program(self, stage: int, progress: Progress) -> Run:
        """(progress, first step, beyond) -> (progress, metrics with a leading axis of steps)."""
        if stage not in self.programs:
            objective = self.stages[stage][1]
            self.programs[stage] = self._fused(objective, progress) if objective.on_device else self._on_host(objective)
        return self.programs[stage]

    def _step(self, objective: Objective, meta_optimizer: MetaOptimizer | None = None) -> MetaStep:
        return MetaStep(objective, meta_optimizer or self.meta_optimizer, self.config.meta_batch)

    def steps(self, step: MetaStep, progress: Progress, most: int) -> Callable:
        """(arrays of the progress, data, start, stop) -> (arrays, step reached, metrics): the steps up to `stop`, or
        until one is undecided, which leaves no trace. On an accelerator `most` steps from `start` on."""
        static = eqx.partition(progress, eqx.is_array)[1]
        family = eqx.partition(self.tasks, eqx.is_array)[1]

        @jax.jit  # so that it is traced once, for its shapes and for the loop
        def one(arrays: PyTree, data: PyTree, at: Array, going: Array) -> tuple[PyTree, Metrics, Array]:
            progress = eqx.combine(arrays, static)
            draw = lambda: step.sample(eqx.combine(data, family), progress.key, at)
            tasks, keys, improving = draw() if on_accelerator() else _stored(draw, going)
            batch, memory = step.collect(progress, tasks, keys, improving)
            progress, metrics = step.update(progress, batch, memory, improving)
            undecided = metrics.pop("undecided", jnp.zeros((), bool))
            return eqx.filter(progress, eqx.is_array), metrics, undecided

        def many(arrays: PyTree, data: PyTree, start: Array, stop: Array) -> tuple[PyTree, Array, Metrics]:
            shapes = jax.eval_shape(one, arrays, data, start, True)[1]
            empty = jax.tree.map(lambda s: jnp.zeros((most, *s.shape), s.dtype), shapes)

            def take(carry: tuple, going: Array) -> tuple:
                old, at, kept, halted = carry
                new, metrics, undecided = one(old, data, at, going)
                halted = halted | undecided
                arrays = jax.tree.map(lambda o, n: jnp.where(halted, o, n), old, new)
                kept = jax.tree.map(lambda k, m: k.at[at - start].set(m), kept, metrics)
                return arrays, jnp.where(halted, at, at + 1), kept, halted

            carry = (arrays, start, empty, jnp.zeros((), bool))
            if on_accelerator():
                carry = jax.lax.fori_loop(0, most, lambda _, carry: take(carry, jnp.ones((), bool)), carry)
            else:
                going = lambda carry: (carry[1] < stop) & ~carry[3]
                carry = jax.lax.while_loop(going, lambda carry: take(carry, going(carry)), carry)
            arrays, reached, metrics, _ = carry
            return arrays, reached, metrics

        return many

    def _fused(self, objective: Objective, progress: Progress) -> Run:
        arrays, static = eqx.partition(progress, eqx.is_array)
        # A data set is an argument of the program: as a constant it would be compiled into it.
        data = eqx.filter(self.tasks, eqx.is_array)
        accelerator = available()[0].platform != "cpu"
        lengths = [length for length in LENGTHS if length <= self.most_steps] if accelerator else [self.most_steps]
        compiled: dict[tuple[int, bool], Callable] = {}

        def program(length: int, careful: bool) -> Callable:
            if (length, careful) not in compiled:
                meta_optimizer = self.meta_optimizer.careful() if careful else self.meta_optimizer
                many = self.steps(self._step(objective, meta_optimizer), progress, length)
                compiled[length, careful] = self._shared(many, arrays, data)
            return compiled[length, careful]

        program(lengths[0], False)  # so that what takes long is over before the first step

        def run(progress: Progress, start: int, stop: int) -> tuple[Progress, dict[str, np.ndarray]]:
            arrays, at, careful, kept = eqx.filter(progress, eqx.is_array), start, False, []
            while at < stop:
                length = 1 if careful else next(n for n in lengths if n <= stop - at or n == lengths[-1])
                arrays, reached, metrics = program(length, careful)(arrays, data, at, at + 1 if careful else stop)
                taken = int(reached) - at
                if careful and not taken:
                    raise FloatingPointError(f"the gradient of step {at} is not finite, whichever task is left out")
                kept.append(jax.tree.map(lambda m, taken=taken: np.asarray(m)[:taken], metrics))
                careful, at = not careful and at + taken < min(stop, at + length), at + taken
            return eqx.combine(arrays, static), jax.tree.map(lambda *m: np.concatenate(m), *kept)

        return run

    def _shared(self, many: Callable, arrays: PyTree, data: PyTree) -> Callable:
        """The program on all devices: tasks are theirs in parts, everything else is whole on each."""
        memory = tasks_along(0 if self.meta_optimizer.population is None else 1)
        has_shared = isinstance(arrays.objective, ObjectiveMemory)

        def placed(path: tuple, _: Array) -> PyTree:
            of_tasks = path[0].name == "objective" and not (has_shared and path[1].name == "shared")
            return memory if of_tasks else REPLICATED

        def split(*given: PyTree) -> tuple:
            arrays, reached, metrics = many(*given)
            of_tasks = {name: m for name, m in metrics.items() if m.ndim > 1}
            return arrays, of_tasks, {name: m for name, m in metrics.items() if name not in of_tasks}, reached

        where = jax.tree_util.tree_map_with_path(placed, arrays)
        arguments = (where, REPLICATED, REPLICATED, REPLICATED)
        results = (where, tasks_along(1), REPLICATED, REPLICATED)
        began, at = time.perf_counter(), np.zeros((), np.uint32)
        with program_for(available()[0].platform):  # type: ignore[arg-type]
            shared = ShardedProgram(split, self.config.devices, arguments, results, example=(arrays, data, at, at))
        self.compile_seconds += time.perf_counter() - began
        _, spread, *_ = shared.spread(arrays, data, at, at)

        def call(arrays: PyTree, data: PyTree, start: int, stop: int) -> tuple[PyTree, Array, Metrics]:
            arrays, of_tasks, of_all, reached = shared(arrays, spread, np.uint32(start), np.uint32(stop))
            return arrays, reached, of_tasks | of_all

        return call

    def _on_host(self, objective: Objective) -> Run:
        plain, careful = (self._step(objective, m) for m in (self.meta_optimizer, self.meta_optimizer.careful()))
        sample, update = eqx.filter_jit(plain.sample), eqx.filter_jit(plain.update)
        carefully = eqx.filter_jit(careful.update)

        def run(progress: Progress, start: int, stop: int) -> tuple[Progress, dict[str, np.ndarray]]:
            kept = []
            for at in range(start, stop):
                tasks, keys, improving = sample(self.tasks, progress.key, jnp.asarray(at, jnp.uint32))
                batch, memory = plain.collect(progress, tasks, keys, improving)
                new, metrics = update(progress, batch, memory, improving)
                if metrics.pop("undecided", False):
                    new, metrics = carefully(progress, batch, memory, improving)
                    metrics.pop("undecided", None)
                progress = new
                kept.append(jax.tree.map(np.asarray, metrics))
            return progress, jax.tree.map(lambda *m: np.stack(m), *kept)

        return run


def _per_task(memory: PyTree) -> PyTree:
    """What of an objective's memory has an axis of tasks."""
    return memory.per_task if isinstance(memory, ObjectiveMemory) else memory


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
