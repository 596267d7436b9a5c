"""How long a trial is, as a part of a family's options."""

import dataclasses
from typing import Annotated

from quickstudy.config import AtLeast, Multiple


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Trials of whole episodes."""

    episodes: Annotated[int, AtLeast(1), "episodes of a trial"] = 10
    test_episodes: Annotated[int, AtLeast(0), "episodes of a trial in the test (0: as in training)"] = 0

    @property
    def length(self) -> int:
        return self.episodes

    @property
    def tested(self) -> int:
        return self.test_episodes or self.episodes


@dataclasses.dataclass(frozen=True)
class Steps:
    """Trials of so many steps, whatever episodes these are."""

    trial_length: Annotated[int, AtLeast(10), Multiple(10), "environment steps of a trial"] = 500

    @property
    def length(self) -> int:
        return self.trial_length


def length_of(trial: Episodes | Steps | None) -> int:
    """In episodes or in steps; 0 where there are no trials."""
    return trial.length if trial else 0
