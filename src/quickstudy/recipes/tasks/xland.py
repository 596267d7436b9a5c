"""XLand-MiniGrid's rulesets (Nikulin et al. 2024; extra `xland`): find out goal and rules, then use them.

Learning rate, discount, λ, entropy, clipping and the network's widths are those of the package's own trainer; it
runs 8,192 rooms on a GPU and cuts gradients every 32 steps of a trial of 4,096, which two cores do not.
"""

import dataclasses
from typing import Annotated, Literal

from quickstudy.config import AtLeast, Multiple
from quickstudy.recipes.problem import EnvironmentFamily, Meets, Problem, TasksConfig, keys


@dataclasses.dataclass(frozen=True)
class XLand(TasksConfig):
    benchmark: Annotated[Literal["trivial", "small"], "benchmark whose rulesets are drawn"] = "trivial"
    rulesets: Annotated[int, AtLeast(10, 10**6), "number of rulesets to draw tasks from"] = 10_000
    trial_length: Annotated[
        int, AtLeast(8), Multiple(8), "environment steps of a trial; an episode that does not reach the goal takes 243"
    ] = 512

    title = "XLand-MiniGrid's rulesets"
    meets = ("trial",)
    suggests = {
        "trial": {
            "meta_steps": 6000, "meta_batch": 256, "minibatches": 4, "epochs": 1, "bptt_length": 32,
            "learning_rate": 1e-3, "final_rate": 0.0, "discount": 0.99, "gae_lambda": 0.95, "entropy": 0.01,
            "head_size": 64,
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, actions=6, symbols=True, trial_length=self.trial_length)

    def build(self, meets: Meets, seed: int) -> EnvironmentFamily:
        import math

        from quickstudy.envs.xland import SYMBOLS, XLandTasks
        from quickstudy.nn.symbols import SymbolGrid

        tasks = XLandTasks.make(self.benchmark, self.rulesets)
        side = math.isqrt(tasks.spec.observation // len(SYMBOLS))
        return EnvironmentFamily(
            tasks=tasks,
            key=keys(seed),
            segment_length=self.trial_length,
            trial_length=self.trial_length,
            curve_interval=self.trial_length // 8,
            encode=lambda key: SymbolGrid(side, SYMBOLS, key=key),
            chunk=250,
        )
