"""RL² on grids with a hidden goal (Zintgraf et al. 2020, VariBAD, section 5.1): 5×5 cells, four episodes of 15 steps.

The best explorer is computed exactly, and never needs a third episode to look (learners.goal_grids).
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.rl2 import DUAN, RL2

if TYPE_CHECKING:
    from quickstudy.evaluate.config import Trace
    from quickstudy.recipes.experiment import Experiment

ZINTGRAF = "Zintgraf et al. 2020, VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning, ICLR"


@dataclasses.dataclass(frozen=True)
class GridRL2(RL2):
    meta_steps: int = 800
    meta_batch: int = 256
    minibatches: int = 4
    episodes: int = 4  # of a trial
    discount: float = 0.98
    gae_lambda: float = 0.95
    entropy: float = 3e-3
    warmup_entropy: float = 0.03
    value_scale: float = 10.0
    curriculum: tuple[tuple[int, int], ...] = ((60, 1), (60, 2))

    name = "grid-rl2"
    description = "RL² on 5×5 grids with a hidden goal: look for it, then go there at once"
    expected = "4.03, 10.67, 11.08 and 11.08 in the four episodes; the best explorer has 4.04, 11.08, 11.08 and 11.08"
    source = DUAN

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 1", lambda x: x >= 1, "episodes")

    @property
    def length(self) -> int:
        return self.episodes

    def drawing(self) -> "Trace":
        from quickstudy.report.traces import grid

        return grid

    def build(self) -> "Experiment":
        import numpy as np

        from quickstudy.baselines.goal_grids import BestExplorer, GoalSampling, best_path
        from quickstudy.tasks.mazes import GoalGrids

        tasks = GoalGrids()
        goals = tuple(np.asarray(tasks.goals).tolist())
        path, _ = best_path(tasks, self.episodes)
        experiment = self.compose(
            tasks,
            unit=tasks.episode,
            curve_interval=tasks.episode,
            baselines={
                "Bayes-optimal": BestExplorer(tasks.size, path),
                "posterior sampling, anew when it knows better": GoalSampling(tasks.size, goals, anew=True),
                "posterior sampling": GoalSampling(tasks.size, goals),
            },
            draw=self.drawing(),
        )
        return dataclasses.replace(experiment, citations=tuple(dict.fromkeys((ZINTGRAF, *experiment.citations))))
