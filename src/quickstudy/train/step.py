"""One meta-step:  tasks ~ distribution;  batch = collect(candidates, tasks);  learner = update(learner, batch)."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from quickstudy.core import Learner, MetaOptimizer, Metrics, Objective, TaskDistribution
from quickstudy.parallel.keys import Stream, stream, task_keys, task_numbers
from quickstudy.parallel.reduce import num_devices
from quickstudy.parameters import combine, partition

IMPROVING = 2**31  # folded into a step's key for the meta-optimizer, beyond the numbers of its tasks


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


@dataclasses.dataclass(frozen=True)
class MetaStep:
    """The parts of a meta-step for one objective."""

    objective: Objective
    meta_optimizer: MetaOptimizer
    meta_batch: int

    def sample(
        self, tasks: TaskDistribution, key: Key[Array, ""], step: Array
    ) -> tuple[PyTree, Key[Array, "tasks"], Key[Array, ""]]:
        """(the tasks that this device holds, a key for the rollout of each, the meta-optimizer's key)."""
        of_step = jax.random.fold_in(key, step)
        keys = self._keys(of_step)
        improving = jax.random.fold_in(of_step, IMPROVING)
        return tasks.batch(stream(keys, Stream.DRAW)), stream(keys, Stream.ROLLOUT), improving

    def collect(
        self, progress: Progress, tasks: PyTree, keys: Key[Array, "tasks"], improving: Key[Array, ""]
    ) -> tuple[PyTree, PyTree]:
        """(batch, the objective's memory) of the learner, or of each of its candidates."""
        learners = self.meta_optimizer.candidates(progress.learner, progress.meta_optimizer, key=improving)
        collect = lambda learner, memory: self.objective.collect(learner, memory, tasks, keys=keys)
        return self._over_candidates(collect)(learners, progress.objective)

    def update(
        self, progress: Progress, batch: PyTree, memory: PyTree, improving: Key[Array, ""]
    ) -> tuple[Progress, Metrics]:
        """What the next meta-step begins with."""
        learner, optimizer, metrics = self.meta_optimizer.update(
            self.objective, progress.learner, progress.meta_optimizer, batch, key=improving
        )
        return Progress(learner, optimizer, memory, progress.key), metrics

    def memory(self, learner: Learner, distribution: TaskDistribution, key: Key[Array, ""]) -> PyTree:
        """The objective's memory before the first meta-step."""
        candidates, tasks = jax.random.split(key)

        def init(learner: Learner, distribution: TaskDistribution) -> PyTree:
            keys = self._keys(tasks)
            sampled = distribution.batch(stream(keys, Stream.DRAW))
            learners = self.meta_optimizer.candidates(learner, self.meta_optimizer.init(learner), key=candidates)
            begin = lambda learner, _: self.objective.init(learner, sampled, keys=stream(keys, Stream.MEMORY))
            return self._over_candidates(begin)(learners, ())

        return (eqx.filter_jit(init) if self.objective.on_device else init)(learner, distribution)

    def _keys(self, key: Key[Array, ""]) -> Key[Array, "tasks"]:
        """One for each task that this device holds."""
        return task_keys(key, task_numbers(self.meta_batch // num_devices()))

    def _over_candidates(self, f: Callable) -> Callable:
        """f(learner, memory) for the learner, or for each of a population, all with the same tasks and keys."""
        if self.meta_optimizer.population is None:
            return f
        over = _vmap_candidates if self.objective.on_device else _loop_candidates
        return lambda learners, memory: over(f, learners, memory)


def _vmap_candidates(f: Callable, learners: Learner, memory: PyTree) -> PyTree:
    learned, rest = partition(learners)
    return jax.vmap(lambda learned, memory: f(combine(learned, rest), memory))(learned, memory)


def _loop_candidates(f: Callable, learners: Learner, memory: PyTree) -> PyTree:
    learned, rest = partition(learners)
    pick = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
    num = jax.tree.leaves(learned)[0].shape[0]
    batches = [f(combine(pick(learned, i), rest), pick(memory, i)) for i in range(num)]
    return jax.tree.map(lambda *x: jnp.stack(x), *batches)
