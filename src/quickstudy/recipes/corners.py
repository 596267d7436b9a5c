"""Sparse navigation to one of four corners, by MAML-RL and by ES-MAML (Song et al. 2020).

Before it adapts an agent has to walk so that it meets the goal whichever corner it is: that is worth nothing by itself,
and only what is earned after adaptation says so. Policy gradients through the inner step see little of it; a value that
expected more does, and evolution judges whole lives.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

from quickstudy.recipes.navigation import Navigation, NavigationESMAML, NavigationMAML

if TYPE_CHECKING:
    from jaxtyping import Array

    from quickstudy.tasks.corners import Corners as CornersTasks

ROTHFUSS = "Rothfuss, Lee, Clavera, Asfour, Abbeel 2019, ProMP: Proximal Meta-Policy Search, ICLR"


@dataclasses.dataclass(frozen=True)
class Corners(Navigation):
    """What both share."""

    meta_steps: int = 300
    episode: int = 30  # steps
    hidden: int = 32

    expected = "one corner or two of four, of the 26.4 of walking straight: 11.6 by back-propagation, 7.4 by evolution"

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 10", lambda x: x >= 10, "episode")

    def tasks(self) -> "CornersTasks":
        from quickstudy.tasks.corners import Corners

        return Corners(self.episode)

    def optimum(self, goals: "Array") -> "Array":
        from quickstudy.tasks.corners import best_return

        return best_return(goals, self.episode)


@dataclasses.dataclass(frozen=True)
class CornersMAML(Corners, NavigationMAML):
    meta_steps: int = 8000
    meta_batch: int = 10
    learning_rate: float = 1e-3
    credit: Literal["none", "lvc", "dice"] = "dice"  # what is sampled before adaptation is worth what it finds
    critic: float = 1.0

    name = "corners-maml"
    description = "MAML-RL on sparse navigation: the goal is one of four corners and felt only close to it"
    source = ROTHFUSS


@dataclasses.dataclass(frozen=True)
class CornersESMAML(Corners, NavigationESMAML):
    meta_steps: int = 150
    meta_batch: int = 8

    name = "corners-es-maml"
    description = "the same by evolution: whole lives are judged, exploration included"
    source = NavigationESMAML.source
