"""RL² on XLand-MiniGrid's rulesets (Nikulin et al. 2024; extra `xland`): find out goal and rules, then use them.

Learning rate, discount, trace, entropy, clipping and the network's widths are those of the package's own trainer; it
runs 8,192 rooms on a GPU and cuts gradients every 32 steps of a life of 4,096, which two cores do not.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.recipes.rl2 import RL2

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.envs.spec import Spec
    from quickstudy.learners.memory.recurrent import Heads
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class XLandRL2(RL2):
    meta_steps: int = 6000
    meta_batch: int = 256
    minibatches: int = 4
    epochs: int = 1
    benchmark: Literal["trivial", "small"] = "trivial"  # whose rulesets are drawn
    rulesets: int = 10_000  # to draw tasks from
    trial_length: int = 512  # steps of a trial; an episode that does not reach the goal takes 243
    bptt_length: int = 32  # steps between two updates; the gradient goes no further back
    learning_rate: float = 1e-3
    final_rate: float = 0.0
    discount: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.01
    hidden: int = 64  # of each head

    name = "xland-rl2"
    description = "RL² on XLand-MiniGrid: rulesets that are not told, 9×9 cells"
    expected = "return 2.4 in trials of 512 steps, still rising, and no faster at their end than at first"
    source = "Nikulin et al. 2024, XLand-MiniGrid: Scalable Meta-Reinforcement Learning Environments in JAX"

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "trial_length", "bptt_length", "hidden")
        wrong += self.must("be at least 10", lambda x: x >= 10, "rulesets")
        if self.bptt_length >= 1 and (self.trial_length % self.bptt_length or self.trial_length % 8):
            wrong.append(
                f"trial_length={self.trial_length} must be a multiple of 8 and of bptt_length={self.bptt_length}"
            )
        if self.cell == "attention":
            wrong.append("cell must be gru, lstm or s5: unfinished trials wait in a state of fixed size")
        return wrong

    @property
    def length(self) -> int:
        return self.trial_length

    def actor_critic(self, spec: "Spec", features: int, key: Any) -> "Heads":
        from quickstudy.learners.memory.recurrent import ActorCritic

        return ActorCritic(features, spec.actions or 0, key=key, hidden=self.hidden)

    def memory(self, spec: "Spec", trial_length: int, heads: "Heads", key: Any) -> "Learner":
        import math

        import jax

        from quickstudy.envs.xland import SYMBOLS
        from quickstudy.learners.memory.recurrent import OutcomeFeedback, Recurrent
        from quickstudy.nn.symbols import SymbolGrid

        see, remember = jax.random.split(key)
        encode = SymbolGrid(math.isqrt(spec.observation // len(SYMBOLS)), SYMBOLS, key=see)
        seen = dataclasses.replace(spec, observation=encode.features)
        return Recurrent(self.encoder(seen, remember), heads, OutcomeFeedback(spec.actions), encode)

    def build(self) -> "Experiment":
        from quickstudy.envs.xland import XLandTasks

        tasks = XLandTasks.make(self.benchmark, self.rulesets)
        experiment = self.compose(tasks, curve_interval=self.trial_length // 8, chunk=250)
        windowed = dataclasses.replace(experiment.objective, bptt_length=self.bptt_length)
        return dataclasses.replace(experiment, objective=windowed)
