"""What a recipe is: a frozen configuration with a `build`. Imports nothing heavy, so that listing is quick."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from quickstudy.config import ConfigError, Training
from quickstudy.runs.own import digest_of, short

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Recipe(Training):
    """A published result as a configuration: every field is an option of the command line."""

    name: ClassVar[str]
    description: ClassVar[str]
    expected: ClassVar[str]  # the figure to expect, with its conditions
    source: ClassVar[str]  # the paper
    reference: ClassVar[str | None] = None  # where it is found again, of a recipe outside of the package

    test_tasks: int = 1000  # held-out tasks in the final test

    def errors(self) -> list[str]:
        wrong = super().errors()
        if self.test_tasks < 2:
            wrong.append(f"test_tasks must be at least 2, got {self.test_tasks}")
        return wrong

    def build(self) -> "Experiment":
        """The four nouns, composed. Raises ConfigError or Incompatible."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ConfigError with everything that is wrong."""
        if wrong := self.errors():
            raise ConfigError(wrong)

    def command(self) -> list[str]:
        """The words of the command line that trains this: every field that is not the recipe's own default."""
        words = ["quickstudy", "train", self.reference or self.name]
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), field.name.replace("_", "-")
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", *(map(str, value) if isinstance(value, tuple | list) else [str(value)])]
        return words

    def about(self) -> dict[str, Any]:
        """What goes into run.json: enough to make the run again."""
        return {
            "recipe": short(self.reference) if self.reference else self.name,
            "recipe_file": digest_of(self.reference) if self.reference else None,
            "config": dataclasses.asdict(self),
            "command": self.command(),
            "description": self.description,
            "source": self.source,
            "expected": self.expected,
        }
