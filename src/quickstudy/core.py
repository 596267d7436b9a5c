"""The four nouns of meta-learning. Read this file first.

    TaskDistribution   where do tasks come from?
    Learner            how is one task adapted to?        (the inner loop)
    Objective          what is a good adaptation worth?
    MetaOptimizer      how is the learner improved?       (the outer loop)

Everything is a pytree. Protocols are written for one task and one example; `vmap` stands outside.
Every `key` is a typed JAX key, keyword-only, split before use and never used twice.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Integer, Key, PyTree

from quickstudy.identity import NoDigest, digest
from quickstudy.parallel.keys import Stream, stream, task_keys

State = PyTree  # what a learner knows of one task; fixed shapes from `init` on
Experience = PyTree  # what it absorbs: see quickstudy.data
Outputs = PyTree
Task = PyTree  # one task
Tasks = PyTree  # a batch of tasks: every array has a leading task axis
Batch = PyTree
Memory = PyTree
Metrics = dict[str, Array]


class Incompatible(TypeError):
    """These parts make no sense together; the message says which, why, and what to use instead."""


def compiled_once(method: Callable) -> Callable:
    """The method as one program, compiled once for learners of one structure and arguments of the same shapes.

    Called outside of any program, an inner loop would otherwise be traced and compiled anew each time. Within a
    program the method is itself: what is being traced needs no program of its own.
    """
    together = eqx.filter_jit(method)

    @functools.wraps(method)
    def call(learner, *args, **kwargs):
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((learner, args, kwargs))):
            return method(learner, *args, **kwargs)
        # A Python number among the data, as in a list of labels, is no constant to compile for.
        as_array = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, bool | int | float) else leaf
        args, kwargs = jax.tree.map(as_array, (args, kwargs))
        return together(learner, *args, **kwargs)

    return call


class Learner(eqx.Module):
    """How one task is adapted to. Its inexact arrays are the meta-parameters, `Frozen` ones excepted.

    A plain Python number in a field is a constant, and a new constant is a new compilation. The four methods are
    compiled once by themselves, wherever they are called outside of a program.
    """

    differentiable: ClassVar[bool] = True  # False: evolution may improve it, back-propagation may not
    # True: adaptation itself learns or reads the values that `apply` gives, so they must stay in units of the reward.
    value_in_reward_units: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("init", "adapt", "apply", "replay"):
            method = cls.__dict__.get(name)
            if method is not None and not getattr(method, "__isabstractmethod__", False):
                setattr(cls, name, compiled_once(method))

    @property
    def inner_steps(self) -> int | None:
        """How many gradient steps one adaptation takes; None where it has no such number."""
        return None

    def with_inner_steps(self, steps: int) -> "Learner":
        """The same learner with another number of inner steps. Raises `Incompatible` where it has no such number."""
        raise Incompatible(f"{type(self).__name__} has no number of inner steps that could be {steps}")

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
        """Outputs of `apply` along a trajectory; arrays of `experience` and of the outputs are [segments, steps, ...].

        Must equal `scan_replay`, which most learners use as it is.
        """


class ObjectiveMemory(eqx.Module):
    """What an objective keeps from one meta-step to the next; `()` in a field where there is nothing.

    shared: of all tasks together, the same on all devices: it is reduced over them where it changes, and goes on in the
        next stage of a curriculum
    per_task: every array has a leading task axis, along which devices share it
    """

    shared: PyTree = ()
    per_task: PyTree = ()


class Objective(eqx.Module):
    """What an adaptation is worth. `collect` rolls tasks out; `loss` replays the adaptation and is differentiable."""

    on_device: ClassVar[bool] = True  # False: `collect` touches the host, so the loop calls it outside of jit

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """What a person calls the score."""

    @property
    def curve_metric(self) -> str:
        """What a person calls a point of `curve`, with its unit: another one than the score's where rewards add up."""
        return self.metric

    @property
    def points_per_score(self) -> float:
        """How many points of `curve` a score adds up; 1 where both count the same."""
        return 1.0

    @property
    @abc.abstractmethod
    def lower_is_better(self) -> bool:
        """Whether the score is the metric with its sign changed."""

    @abc.abstractmethod
    def curve_axis(self, learner: Learner, points: int) -> tuple[str, tuple[int, ...]]:
        """The unit in which adaptation is counted, in the plural ("gradient steps"), and how many of it lie before each
        of so many points of `curve`."""

    @property
    def for_evaluation(self) -> "Objective":
        """The objective that is tested: the same, with every task rolled out to its end in one meta-step."""
        return self

    @abc.abstractmethod
    def init(self, learner: Learner, tasks: Tasks, *, keys: Key[Array, "tasks"]) -> Memory:
        """What outlives a meta-step, `()` for most; every array has a leading task axis. Raises `Incompatible` for
        learners it cannot serve."""

    @abc.abstractmethod
    def collect(
        self, learner: Learner, memory: Memory, tasks: Tasks, *, keys: Key[Array, "tasks"]
    ) -> tuple[Batch, Memory]:
        """Rolls out all tasks, each with its own key; never differentiated. The batch has a leading task axis and holds
        all that stays constant while it is used: keys, collected log-probabilities, advantages, normalisation over all
        tasks (see `sum_over_devices`)."""

    @abc.abstractmethod
    def loss(self, learner: Learner, batch: Batch) -> tuple[Float[Array, "tasks"], Metrics]:
        """One loss a task, pure and jittable: any chunking of the tasks gives the same mean and gradient."""

    @abc.abstractmethod
    def score(self, batch: Batch) -> Float[Array, "tasks"]:
        """How well each task was solved; higher is better."""

    @abc.abstractmethod
    def curve(self, batch: Batch) -> Float[Array, "tasks points"]:
        """The score over the course of adaptation, in the metric's own units and sign."""


class MetaOptimizer(eqx.Module):
    """How the learner is improved. `candidates` and `update` of one meta-step are given the same key, so that
    a population is drawn again rather than stored."""

    @property
    @abc.abstractmethod
    def population(self) -> int | None:
        """How many candidates a meta-step rolls out; None: one, the learner, without a leading axis."""

    def groups(self, num_tasks: int) -> int:
        """In how many equal groups of consecutive tasks a meta-step of `num_tasks` falls. Devices hold whole groups, so
        their number must divide this; what is drawn at random over tasks is drawn within a group."""
        return num_tasks

    def careful(self) -> "MetaOptimizer":
        """The same, slower where need be, and never undecided: see `update`."""
        return self

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
        """The improved learner. `batch` is what was collected of the candidates on this device: what is taken over its
        tasks ends with `sum_over_devices`, and `key` is the same on all. Metrics keep their task axis, and hold `loss`
        and `diverged`, the mask of tasks that were not finite and contributed exactly zero. With `undecided`, a number
        that is true, the step is taken back and taken again by `careful`."""


class TaskDistribution(eqx.Module):
    """Where tasks come from. A task is any pytree."""

    @abc.abstractmethod
    def sample(self, *, key: Key[Array, ""]) -> Task:
        """One task; a pytree of arrays, of the same shapes for every key."""

    def batch(self, keys: Key[Array, "tasks"]) -> Tasks:
        """One task a key, stacked along a leading axis: each is the one that its key draws alone."""
        return jax.vmap(lambda key: self.sample(key=key))(keys)

    @abc.abstractmethod
    def split(self) -> "Splits":
        """Training tasks, and held-out ones for validation and test."""

    def split_fields(self) -> tuple[str, ...]:
        """Names of the fields that decide which tasks are held out: two distributions of this class that agree in them
        never hold out what the other trains on. By default all fields. Nothing asks a family that uses
        `split_by_stream`."""
        return tuple(field.name for field in dataclasses.fields(self))


VALIDATION_STREAM, TEST_STREAM = 1, 2
HELD_OUT_SEED = 2**32 - 1  # no run's own: those are below


class HeldOut(eqx.Module):
    """Tasks to test on. Not a TaskDistribution: nothing can train on it, and its tasks do not depend on a
    run's seed, so any two runs can be compared pair by pair.

    stream: which of the streams of keys draws them
    note: a remark that is printed with every result
    by_stream: whether the stream alone keeps them from being trained on, as in continuous families
    """

    distribution: TaskDistribution
    stream: int = eqx.field(static=True)
    note: str = eqx.field(static=True, default="")
    by_stream: bool = eqx.field(static=True, default=False)

    def tasks(self, numbers: int | Integer[Array, "tasks"]) -> Tasks:
        """The held-out tasks of these numbers, or the first so many: a task depends on its number alone."""
        numbers = jnp.arange(numbers) if isinstance(numbers, int) else jnp.asarray(numbers)
        key = jax.random.fold_in(jax.random.key(HELD_OUT_SEED), self.stream)
        return drawn(self.distribution, stream(task_keys(key, numbers), Stream.DRAW))

    def identity(self) -> str:
        """A digest of what decides which tasks are held out. A learner trained beside held-out tasks of one identity
        has seen none of any others of the same identity.

        It covers the stream of keys and the class of the distribution and, unless tasks are held out by the stream
        alone (`by_stream`), the fields that the class names in `split_fields`.

        Raises `Incompatible` where a field has no digest, as a function that is defined within another one.
        """
        if self.by_stream:
            return digest((self.stream, type(self.distribution)))
        fields = lambda node: node.split_fields() if isinstance(node, TaskDistribution) else None
        try:
            return digest((self.stream, self.distribution), fields)
        except NoDigest as error:
            raise Incompatible(
                f"it is not known which tasks {type(self.distribution).__name__} holds out: {error}; or name the "
                "fields that its split depends on in its method `split_fields`"
            ) from error


@eqx.filter_jit
def drawn(distribution: TaskDistribution, keys: Key[Array, "tasks"]) -> Tasks:
    """`batch` as one compiled program: operation by operation, some families take seconds."""
    return distribution.batch(keys)


class Splits(NamedTuple):
    train: TaskDistribution
    validation: HeldOut
    test: HeldOut


def split_by_stream(distribution: TaskDistribution, note: str = "") -> Splits:
    """Splits for continuous families, where drawing by another key is drawing another task."""
    held_out = lambda stream: HeldOut(distribution, stream, note, by_stream=True)
    return Splits(distribution, held_out(VALIDATION_STREAM), held_out(TEST_STREAM))
