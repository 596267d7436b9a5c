"""The four nouns of meta-learning, and the wrappers of what is learned. Read this file first.

    TaskDistribution   where do tasks come from?
    Learner            how is one task adapted to?        (the inner loop)
    Objective          what is a good adaptation worth?
    MetaOptimizer      how is the learner improved?       (the outer loop)

Everything is a pytree. Protocols are written for one task and one example; `vmap` stands outside.
Every `key` is a typed JAX key, keyword-only, split before use and never used twice.
"""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PyTree

State = PyTree  # what a learner knows of one task; fixed shapes from `init` on
Experience = PyTree  # what it absorbs: see quickstudy.data
Outputs = PyTree
Tasks = PyTree  # a batch of tasks: every array has a leading task axis
Batch = PyTree
Memory = PyTree
Metrics = dict[str, Array]


class Incompatible(TypeError):
    """These parts make no sense together; the message says which, why, and what to use instead."""


class Learner(eqx.Module):
    """How one task is adapted to. Its inexact arrays are the meta-parameters, `Frozen` ones excepted.

    A plain Python number in a field is a constant, and a new constant is a new compilation.
    """

    differentiable: ClassVar[bool] = True  # False: evolution may improve it, back-propagation may not

    @abc.abstractmethod
    def init(self, *, key: Key[Array, ""]) -> State:
        """The state before any experience of the task."""

    @abc.abstractmethod
    def adapt(self, state: State, experience: Experience, *, key: Key[Array, ""]) -> State:
        """The state after absorbing `experience`: one segment with a leading axis (examples, or time)."""

    @abc.abstractmethod
    def apply(self, state: State, x: PyTree) -> PyTree:
        """An `Output` (prediction, or policy and value) for one input; changes nothing, draws nothing."""

    @abc.abstractmethod
    def replay(self, state: State, experience: Experience, *, key: Key[Array, "segments"]) -> Outputs:
        """What `apply` says along a life: arrays of `experience` and outputs are [segments, steps, ...].

        Must equal `scan_replay`, which most learners use as it is.
        """


class Objective(eqx.Module):
    """What a good adaptation is worth. `collect` lives, `loss` replays what was lived and is differentiated."""

    on_device: ClassVar[bool] = True  # False: `collect` touches the host, so the loop calls it outside of jit
    first_point: ClassVar[int] = 0  # adaptations before the first point of `curve`

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """What a person calls the score."""

    @property
    @abc.abstractmethod
    def lower_is_better(self) -> bool:
        """Whether the score is the metric with its sign changed."""

    @property
    @abc.abstractmethod
    def adaptations_per_point(self) -> int:
        """How many adaptations lie between two points of `curve`."""

    @property
    def for_evaluation(self) -> "Objective":
        """What is tested: the same, of tasks that are lived to their end in one go."""
        return self

    @abc.abstractmethod
    def init(self, learner: Learner, tasks: Tasks, *, key: Key[Array, ""]) -> Memory:
        """What outlives a meta-step, `()` for most; every array has a leading task axis. Raises `Incompatible` for
        learners it cannot serve."""

    @abc.abstractmethod
    def collect(self, learner: Learner, memory: Memory, tasks: Tasks, *, key: Key[Array, ""]) -> tuple[Batch, Memory]:
        """Lives all tasks; never differentiated. The batch has a leading task axis and holds all that stays
        constant while it is used: keys, collected log-probabilities, advantages, normalisation over all tasks (see
        `sum_over_devices`)."""

    @abc.abstractmethod
    def loss(self, learner: Learner, batch: Batch) -> tuple[Float[Array, "tasks"], Metrics]:
        """One loss a task, pure and jittable: any chunking of the tasks gives the same mean and gradient."""

    @abc.abstractmethod
    def score(self, batch: Batch) -> Float[Array, "tasks"]:
        """How well each task was lived; higher is better."""

    @abc.abstractmethod
    def curve(self, batch: Batch) -> Float[Array, "tasks points"]:
        """The score over the course of adaptation, in the metric's own units and sign."""


class MetaOptimizer(eqx.Module):
    """How the learner is improved. `candidates` and `update` of one meta-step are given the same key, so that
    a population is drawn again rather than stored."""

    @property
    @abc.abstractmethod
    def population(self) -> int | None:
        """How many candidates live a meta-step; None: one, the learner, without a leading axis."""

    @property
    def minibatches(self) -> int:
        """In how many parts the tasks of a meta-step are taken; devices share each part."""
        return 1

    @abc.abstractmethod
    def init(self, learner: Learner) -> Memory:
        """Moments and the like. Raises `Incompatible` for learners it cannot improve."""

    @abc.abstractmethod
    def candidates(self, learner: Learner, memory: Memory, *, key: Key[Array, ""]) -> Learner:
        """The learner itself, or a population: the same tree with a leading axis on its meta-parameters."""

    @abc.abstractmethod
    def update(
        self, objective: Objective, learner: Learner, memory: Memory, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Learner, Memory, Metrics]:
        """The improved learner. `batch` is what the candidates lived, on this device: what is taken over its tasks
        ends with `sum_over_devices`, and `key` is the same on all. Metrics keep their task axis, and hold `loss` and
        `diverged`, the mask of tasks that were not finite and contributed exactly zero."""


class TaskDistribution(eqx.Module):
    """Where tasks come from. A task is any pytree."""

    @abc.abstractmethod
    def sample(self, num: int, *, key: Key[Array, ""]) -> Tasks:
        """`num` independent tasks, stacked along a leading axis."""

    @abc.abstractmethod
    def split(self) -> "Splits":
        """Training tasks, and held-out ones for validation and test."""


TRAIN_STREAM, VALIDATION_STREAM, TEST_STREAM = 0, 1, 2
HELD_OUT_SEED = 2**32 - 1  # no run's own: those are below


class HeldOut(eqx.Module):
    """Tasks to test on. Not a TaskDistribution: nothing can train on it, and its tasks do not depend on a
    run's seed, so any two runs can be compared pair by pair. The first k of n tasks are the same for any n."""

    distribution: TaskDistribution
    stream: int = eqx.field(static=True)
    note: str = eqx.field(static=True, default="")

    def tasks(self, num: int) -> Tasks:
        return drawn(self.distribution, num, jax.random.fold_in(jax.random.key(HELD_OUT_SEED), self.stream))


@eqx.filter_jit
def drawn(distribution: TaskDistribution, num: int, key: Key[Array, ""]) -> Tasks:
    """`sample` as one compiled program: operation by operation, some families take seconds."""
    return distribution.sample(num, key=key)


class Splits(NamedTuple):
    train: TaskDistribution
    validation: HeldOut
    test: HeldOut


def split_by_stream(distribution: TaskDistribution, note: str = "") -> Splits:
    """Splits for continuous families, where drawing by another key is drawing another task."""
    return Splits(
        distribution, HeldOut(distribution, VALIDATION_STREAM, note), HeldOut(distribution, TEST_STREAM, note)
    )
