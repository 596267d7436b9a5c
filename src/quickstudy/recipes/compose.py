"""From a name to a recipe: a family of tasks, a method, and how long to train. Imports nothing heavy.

    omniglot-maml                                   a family and a method of the package
    bandit-es-rl2                                   evolution as the outer loop of the method
    my.py:MyTasks+rl2                               tasks of your own
    navigation+my.py:MyMethod                       a method of your own
    my.py:my_card                                   a card of your own: both, with the fields that differ

A card is a published result: the fields that differ from the defaults, the figure to expect and its source.
"""

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from quickstudy.config import AtLeast, ConfigError, Declared, Training, declared, errors_in, leaves, mistyped, nearest
from quickstudy.recipes.outer import Evolution
from quickstudy.recipes.problem import EXAMPLES, Meets, MethodConfig, TasksConfig
from quickstudy.recipes.registry import METHODS, TASKS
from quickstudy.runs.own import digest_of, is_own, short

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Testing:
    """How to test."""

    test_tasks: Annotated[int, AtLeast(2), "number of held-out tasks in the final test"] = 1000


@dataclasses.dataclass(frozen=True)
class Card:
    """A published result.

    tasks, method: names as on the command line, or a class of your own
    expected: the figure to expect, with its conditions
    fields: those of tasks, method, training and test that differ from what the two suggest
    """

    tasks: str | type[TasksConfig]
    method: str | type[MethodConfig]
    description: str
    expected: str = ""
    source: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Options of a family of tasks and of a method, with the training and the test; a composition once it is built.

    name: what makes it again: of a recipe of your own with the file
    title: as a person calls it, and part of a folder's name
    """

    name: str
    title: str
    meets: Meets
    tasks: Any
    method: Any
    training: Training
    testing: Testing
    card: Card | None = dataclasses.field(default=None, compare=False)

    @property
    def description(self) -> str:
        return self.card.description if self.card else f"{self.method.title} on {self.tasks.title}"

    @property
    def expected(self) -> str:
        return (
            self.card.expected if self.card and self.card.expected else "nothing is published: its settings are untuned"
        )

    @property
    def source(self) -> str:
        return self.card.source if self.card and self.card.source else self.method.source

    def options(self) -> dict[str, tuple[Declared, Any]]:
        """Every field by its name: what it declares, and its value."""
        return {field.name: (field, value) for _, field, value in self._walk()}

    def values(self) -> dict[str, Any]:
        """Every field's value by its name."""
        return {field.name: value for _, field, value in self._walk()}

    def changed(self, **values: Any) -> "Recipe":
        """With these values of its fields. Raises ConfigError, which names every one that does not exist or is of
        another type; `check` says what else is wrong."""
        known = self.options()
        found = [f"{self.title} has no field {name!r}{nearest(name, known)}" for name in values if name not in known]
        values = {name: _tuples(value) for name, value in values.items() if name in known}
        found += [why for name, value in values.items() for why in mistyped(known[name][0], value)]
        if found:
            raise ConfigError(found)
        return self.where(values)

    def where(self, values: Mapping[str, Any]) -> "Recipe":
        """With those of the values that are fields of it."""
        parts = "tasks", "method", "training", "testing"
        return dataclasses.replace(self, **{name: _replaced(getattr(self, name), values) for name in parts})

    def errors(self) -> list[str]:
        """Everything that is wrong with the values."""
        found = [why for part in (self.tasks, self.method, self.training, self.testing) for why in _errors(part)]
        if found:
            return found
        problem = self.tasks.problem(self.meets)
        if why := self.method.refuses(problem):
            return [f"{self.title} makes no sense: the method {why}"]
        return self.method.errors_with(problem, self.training)

    def check(self) -> None:
        """Raises ConfigError with everything that is wrong."""
        if wrong := self.errors():
            raise ConfigError(wrong)

    def build(self) -> "Experiment":
        """The four nouns, composed. Raises ConfigError or Incompatible."""
        from quickstudy.recipes.experiment import built

        self.check()
        return built(self)

    @property
    def reference(self) -> str | None:
        """What names a recipe of a person's own; None where it is quickstudy's."""
        return self.name if is_own(self.name) else None

    def command(self) -> list[str]:
        """The words that make the run again: every field that is not the recipe's own default."""
        words, defaults = ["quickstudy", "train", self.name], named(self.name).values()
        for name, value in self.values().items():
            option = name.replace("_", "-")
            if value == defaults[name]:
                continue
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", *map(str, leaves(value))]
        return words

    def about(self) -> dict[str, Any]:
        """What goes into run.json: enough to make the run again."""
        return {
            "recipe": short(self.name),
            "recipe_file": digest_of(self.name) if self.reference else None,
            "config": self.values(),
            "command": self.command(),
            "description": self.description,
            "source": self.source,
            "expected": self.expected,
        }

    def _walk(self) -> Iterator[tuple[Any, Declared, Any]]:
        for part in (self.tasks, self.method, self.training, self.testing):
            yield from _fields(part)


def _fields(config: Any) -> Iterator[tuple[Any, Declared, Any]]:
    """(configuration that has it, field, value), parts of a configuration taken as its own fields."""
    absent = {*getattr(config, "only", ()), "outer"}
    for name, field in declared(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)
        elif not (value is None and name in absent):
            yield config, field, value


def _replaced(config: Any, values: Mapping[str, Any]) -> Any:
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replaced(value, values)
        elif field.name in values:
            changes[field.name] = values[field.name]
    return dataclasses.replace(config, **changes)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _errors(config: Any) -> list[str]:
    """Of the configuration and of its parts; fields that hold a part declare nothing themselves."""
    parts = [value for value in vars(config).values() if dataclasses.is_dataclass(value)]
    return [*(why for part in parts for why in _errors(part)), *errors_in(config)]


# From a name to the recipe


def recipe_of(name: str) -> Recipe:
    """The recipe of this name with its defaults; ConfigError when there is none, with a suggestion, or when the pair
    makes no sense, with the reason. Imports nothing but quickstudy's own."""
    from quickstudy.recipes.cards import CARDS

    if ":" in name:
        raise ConfigError([f"{name} is a recipe of somebody's own, which is imported only where a person names it"])
    if name in CARDS:
        return _recipe(name, name, CARDS[name].tasks, CARDS[name].method, CARDS[name])
    tasks, plus, method = name.partition("+")
    if plus:
        return recipe_of(f"{tasks}-{method}")
    for tasks in TASKS:
        if name.startswith(f"{tasks}-"):
            return _recipe(name, name, tasks, name.removeprefix(f"{tasks}-"), None)
    if name in TASKS:
        raise ConfigError(
            [f"{name} is half of a recipe: give a method too (`quickstudy list {name}` has those that fit)"]
        )
    hint = nearest(name, [*CARDS, *(f"{tasks}-{method}" for tasks in TASKS for method in METHODS)])
    if name.endswith(".py"):
        hint = f"; of a file of your own name the card too, as {name}:Name"
    raise ConfigError([f"there is no recipe {name!r}{hint} (see `quickstudy list`)"])


def named(reference: str) -> Recipe:
    """The recipe that a person has named: as `recipe_of`, or with tasks, a method or a card of their own, whose file is
    imported. Never call it with what a run folder says; see `quickstudy.runs.own`."""
    if ":" not in reference:
        return recipe_of(reference)
    tasks, plus, method = reference.partition("+")
    if plus:
        return _recipe(reference, f"{_title(tasks)}-{_title(method)}", tasks, method, None)
    card = load_own(reference)
    if isinstance(card, Card):
        return _recipe(reference, _title(reference), card.tasks, card.method, card)
    raise ConfigError(
        [f"{reference} is half of a recipe: give tasks and a method, as my.py:MyTasks+rl2 or grid+my.py:MyMethod"]
    )


def _title(reference: str) -> str:
    """ "my.py:MyTasks" as part of a name: "MyTasks"."""
    return reference.rpartition(":")[2]


def _recipe(
    name: str, title: str, tasks: str | type[TasksConfig], method: str | type[MethodConfig], card: Card | None
) -> Recipe:
    family = tasks if isinstance(tasks, type) else _tasks(tasks)
    evolved = isinstance(method, str) and method.startswith("es-")
    candidates = (method,) if isinstance(method, type) else _methods(method.removeprefix("es-"), title)
    meets, config = _suited(family(), candidates, title, evolved)
    arranged: Any = family(**{part: None for part, ways in family.only.items() if meets not in ways})
    recipe = Recipe(name, title, meets, arranged, config, Training(), Testing(), card)
    recipe = recipe.where(family.suggests.get(meets, {})).where(config.suggests)
    if evolved:  # what is suggested is for the method's own outer loop
        recipe = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, outer=Evolution()))
    return recipe.changed(**card.fields) if card else recipe


def _tasks(name: str) -> type[TasksConfig]:
    if ":" in name:
        found = load_own(name)
        if isinstance(found, type) and issubclass(found, TasksConfig):
            return found
        raise ConfigError([f"{name} is no configuration of tasks: derive it from quickstudy.recipes.TasksConfig"])
    if name not in TASKS:
        raise ConfigError([f"there are no tasks {name!r}{nearest(name, TASKS)} (see `quickstudy list`)"])
    return TASKS[name]


def _methods(name: str, title: str) -> tuple[type[MethodConfig], ...]:
    if ":" in name:
        found = load_own(name)
        if isinstance(found, type) and issubclass(found, MethodConfig):
            return (found,)
        raise ConfigError([f"{name} is no configuration of a method: derive it from quickstudy.recipes.MethodConfig"])
    if name not in METHODS:
        tasks = title.removesuffix(f"-{name}").removesuffix("-es")
        near = nearest(title, (pair for pair in (f"{tasks}-{known}" for known in METHODS) if refusal(pair) is None))
        raise ConfigError([f"there is no method {name!r} for {title!r}{near} (see `quickstudy list`)"])
    return METHODS[name]


def _suited(
    tasks: TasksConfig, candidates: tuple[type[MethodConfig], ...], title: str, evolved: bool
) -> tuple[Meets, MethodConfig]:
    """The first candidate that suits the tasks; ConfigError with the reason where none does."""
    why = ""
    for method in candidates:
        if method.meets not in tasks.meets:
            why = why or _unmet(method.meets, tasks)
        elif reason := method().refuses(tasks.problem(method.meets)):
            why = reason
        elif not evolved:
            return method.meets, method()
        elif method.not_evolved:
            why = f"cannot be evolved: {method.not_evolved}"
        elif "outer" not in declared(method):
            why = "cannot be evolved: nothing of it is meta-learned"
        else:
            return method.meets, method()
    raise ConfigError([f"{title} makes no sense: the method {why}"])


def _unmet(meets: Meets, tasks: TasksConfig) -> str:
    labelled = bool(set(EXAMPLES) & set(tasks.meets))
    if meets in EXAMPLES:
        needs = {"few-shot": "labelled examples", "stream": "a stream of labelled examples"}[meets]
        return f"learns from {needs}, and {tasks.title} {'come without' if labelled else 'are environments'}"
    has = "have labelled examples" if labelled else "cannot be rolled out in parallel segments"
    return f"acts in environments, and {tasks.title} {has}"


def refusal(name: str) -> str | None:
    """Why the pair of this name makes no sense; None where it does."""
    try:
        recipe_of(name)
    except ConfigError as error:
        return str(error)
    return None


# Files of one's own

_modules: dict[Path, ModuleType] = {}


def load_own(reference: str) -> Any:
    """What "file.py:Name" or "module:Name" names. Raises ConfigError where it cannot be loaded."""
    where, _, wanted = reference.rpartition(":")
    try:
        if where.endswith(".py"):
            path = Path(where).resolve()
            module = _modules.get(path)
            if module is None:
                spec = importlib.util.spec_from_file_location(f"quickstudy_own_{path.stem}", path)
                if spec is None or spec.loader is None:
                    raise ImportError(f"{path} is not a Python file")
                module = importlib.util.module_from_spec(spec)
                sys.modules[spec.name] = module  # where dataclasses and annotations look their module up
                spec.loader.exec_module(module)
                _modules[path] = module
        else:
            module = importlib.import_module(where)
    except Exception as error:  # whatever a stranger's file does
        why = f"{type(error).__name__}: {error}"
        raise ConfigError([f"the recipe {reference!r} cannot be loaded: {why}"]) from error
    if not hasattr(module, wanted):
        kinds = TasksConfig, MethodConfig
        own = [
            name
            for name, value in vars(module).items()
            if isinstance(value, Card)
            or (isinstance(value, type) and issubclass(value, kinds) and value.__module__ == module.__name__)
        ]
        raise ConfigError([f"{where} has no {wanted!r}; it has {', '.join(own) or 'no recipe'}"])
    return getattr(module, wanted)
