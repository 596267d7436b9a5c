"""A description of tasks, from which a method decides whether it suits them and what it has to build.

A task can be met in four ways:

    few-shot   a support set with labels, and a query set to be tested on
    stream     labelled examples one after another, each to be predicted before its label is shown
    trial      an environment, in one go: the learner adapts at every step
    segments   an environment, in segments: the learner rolls parallel copies out, then adapts on these segments

`Problem` is small and imports nothing, so that the command line can say which pairs make sense. What is built of it,
with JAX, is a `LabelledFamily` or an `EnvironmentFamily`.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

Meets = Literal["few-shot", "stream", "trial", "segments"]
EXAMPLES = ("few-shot", "stream")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What kind of experience a task gives, as it is met in one of the four ways.

    classes: of a labelled task; None: targets are numbers
    training_classes: of a task of training, where that is another number
    actions: number of choices in an environment; None: actions are vectors
    trial_length: of a trial, in the unit of its curriculum: an episode, or a step
    one_hot: observations say which of so many states it is, so that tables can be learned
    tabulated: mean rewards and transition probabilities of each task are known tables, to compare planners with
    episode_length: steps after which an episode is cut; None: a trial is one episode
    terminates: whether episodes may end before that
    symbols: observations are whole numbers that encode symbols
    """

    meets: Meets
    classes: int | None = None
    training_classes: int | None = None
    actions: int | None = None
    trial_length: int = 0
    one_hot: bool = False
    tabulated: bool = False
    episode_length: int | None = None
    terminates: bool = False
    symbols: bool = False


def keys(seed: int) -> Callable[[int], Any]:
    """From a number to a JAX key: what is initialised at random draws from a number of its own."""
    import jax

    return lambda number: jax.random.fold_in(jax.random.key(seed), number)


# What a method may need of a problem, by name, and how it is refused where that is not so.
NEEDS: Mapping[str, tuple[Callable[[Problem], bool], str]] = {
    "classes": (lambda p: p.classes is not None, "classifies, and here targets are numbers"),
    "one head": (
        lambda p: p.training_classes in (None, p.classes),
        "has one output for each class: training_ways must be 0",
    ),
    "numbers": (lambda p: p.classes is None, "regresses numbers, and here labels are classes"),
    "vectors": (lambda p: not p.symbols, "reads vectors, and here observations are symbols"),
    "states": (lambda p: p.one_hot, "learns of numbered states, and here observations are other ones"),
    "choices": (lambda p: p.actions is not None, "chooses among actions, and here they are vectors"),
    "continuous actions": (lambda p: p.actions is None, "acts with vectors, and here actions are choices"),
    "episodes": (lambda p: p.episode_length is not None, "needs episodes, and here a trial is but one"),
    "whole episodes": (lambda p: not p.terminates, "plans to a fixed end, and here episodes may end before it"),
    "tables": (lambda p: p.tabulated, "plans in tables of rewards and transitions, and these tasks have none"),
}


class TasksConfig(abc.ABC):
    """The options of a family of tasks: a frozen dataclass that derives from this class alone.

    meets: the ways in which its tasks can be met
    only: for fields that hold a part of the options, the ways in which these count; it is None in the others
    suggests: fields of the tasks, the method or the training that should differ from their defaults, for each way
    """

    title: ClassVar[str]
    meets: ClassVar[tuple[Meets, ...]]
    only: ClassVar[Mapping[str, tuple[Meets, ...]]] = {}
    suggests: ClassVar[Mapping[Meets, Mapping[str, Any]]] = {}

    @abc.abstractmethod
    def problem(self, meets: Meets) -> Problem:
        """The description that a method gets before anything is built."""

    @abc.abstractmethod
    def build(self, meets: Meets, seed: int) -> Any:
        """The `LabelledFamily` or `EnvironmentFamily`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledFamily:
    """Tasks of labelled examples, built.

    objective: what is scored: `FewShot`, or `Online` for streams
    loss: (prediction, y) -> a number, which inner loops descend
    outputs: numbers in a prediction; of classes as many as a task of training or of testing has, whichever has more
    embedding: key -> a network from an example to a vector of `features` numbers, which only labelled classes need
    net: (outputs, key) -> a network from an example to that many numbers, without a key by one of its own
    contextual: context size -> a network that reads a context beside the example, with `context` its field (CAVIA)
    raw: from an example to a vector of so many numbers without a network
    shots: labelled examples of each class, or in all where there are no classes
    task_bytes: about what a task takes while it is differentiated through; 0: little
    """

    tasks: Any
    objective: Any
    loss: Callable
    outputs: int
    shots: int
    key: Callable[[int], Any]
    net: Callable[..., Any]
    contextual: Callable[[int], Any] | None = None
    embedding: Callable[..., Any] | None = None
    raw: tuple[Callable, int] | None = None
    classes: int | None = None
    task_bytes: int = 0
    baselines: Callable[[], dict[str, Any]] = dict
    draw: Any = None
    note: str = ""
    citations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentFamily:
    """Tasks in an environment, built. Lengths are in steps of the environment.

    segment_length: what is rolled out between two adaptations where tasks are met in segments: an episode, mostly
    test_length: of a trial in the test, where that is another one
    unit: of `trial_length`, `test_length` and of the lengths in a curriculum: an episode, or a step
    curve_interval: steps between two points of the curve in the test of a trial
    episodic: credit ends with the episode, and the score is the return of episodes
    oracle_value: (tasks, episodes) -> the best possible return; `episodes` units are scored
    action_scale: size of a typical action of those that are vectors; max_action: their bound
    rewards: what a reward may be; None: any number
    encode: key -> a network from what is observed to a vector of `features` numbers; None: it is a vector
    task_features: tasks -> [tasks, 2], what makes a task what it is, for pictures
    tables: task -> its mean rewards [states, actions] and transitions [states, actions, outcomes]
    average: () -> the mean of these over all tasks
    flat: (Σα in visits, mean reward) of the prior from which a model is learned from scratch
    """

    tasks: Any
    key: Callable[[int], Any]
    segment_length: int
    trial_length: int = 0
    test_length: int = 0
    unit: int = 1
    curve_interval: int = 1
    episodic: bool = False
    oracle_value: Callable[[Any, int], Any] | None = None
    baselines: Callable[[], dict[str, Any]] = dict
    action_scale: float = 1.0
    max_action: float = 1.0
    rewards: tuple[float, ...] | None = None
    encode: Callable[[Any], Any] | None = None
    task_features: Callable[[Any], Any] | None = None
    tables: Callable[[Any], tuple] | None = None
    average: Callable[[], tuple] | None = None
    flat: tuple[float, float] = (1.0, 0.0)
    draw: Any = None
    draw_segments: Any = None
    draw_beliefs: Any = None
    behaviour: Any = None
    chunk: int = 1000
    task_bytes: int = 0
    citations: tuple[str, ...] = ()

    @property
    def tested(self) -> int:
        return self.test_length or self.trial_length


class MethodConfig(abc.ABC):
    """The options of a method: a frozen dataclass that derives from this class alone.

    meets: the way in which it meets a task
    needs: names in NEEDS, what the problem must have for the method to make sense
    suggests: fields of the method, the tasks or the training that should differ from their defaults
    not_evolved: why evolution cannot be its outer loop

    An `outer` field holds the options of the outer loop (`recipes.outer`), which `es-` before the method's name
    replaces by evolution. A method without one is not meta-trained.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    meets: ClassVar[Meets]
    needs: ClassVar[tuple[str, ...]] = ()
    suggests: ClassVar[Mapping[str, Any]] = {}
    not_evolved: ClassVar[str] = ""

    def refuses(self, problem: Problem) -> str | None:
        """Why the method makes no sense there, as the end of a sentence that starts with "the method"."""
        return next((why for holds, why in map(NEEDS.__getitem__, self.needs) if not holds(problem)), None)

    def errors_with(self, problem: Problem, training: Any) -> list[str]:
        """What is wrong with the options together with those of the tasks and of the training."""
        del problem, training
        return []

    @abc.abstractmethod
    def build(self, family: Any, training: Any) -> "Composition":
        """The learner and everything else of the method. Raises ConfigError or Incompatible."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """What a method makes of a family of tasks; `evaluation` is how it is tested."""

    learner: Any
    objective: Any
    meta_optimizer: Any
    evaluation: Any
    curriculum: tuple = ()
    tasks: Any = None  # other ones than the family's to train on
    citations: tuple[str, ...] = ()
