"""Meta-gradients (Xu, van Hasselt, Silver 2018): an actor-critic that learns γ, λ, its rate and more while it lives.

A life in CartPole goes on over many meta-steps, in the objective's memory. Each meta-step lives two segments and is
judged by the policy gradient of the second one, with a γ and a λ that stay as they are: what the update after the first
segment should have been. Several lives at once share what is learned, and new ones begin when they end.

The test lives anew with what was found, held constant, beside the same actor-critic with every γ and λ of a grid, and
with what the meta-training began with. What should be won: return per episode at the end against the best of the grid.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from quickstudy.recipes.classic import Classic, tanh_policy

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.envs.spec import Spec
    from quickstudy.recipes.experiment import Experiment

DISCOUNTS, TRACES = (0.95, 0.99, 0.995), (0.8, 0.95, 1.0)


@dataclasses.dataclass(frozen=True)
class CartPoleMetaGradient(Classic):
    meta_steps: int = 500
    meta_batch: int = 8
    steps: int = 64_000
    segment_length: int = 16
    rate: float = 3e-3
    discount: float = 0.95  # where the learned γ begins; so of `rate`, `gae_lambda`, `value` and `entropy`
    gae_lambda: float = 0.9
    value: float = 0.5
    entropy: float = 0.01
    outer_discount: float = 0.99  # γ of the returns by which the meta-gradient judges
    outer_gae_lambda: float = 0.95  # λ of them
    learning_rate: float = 0.02

    environment = "CartPole-v1"
    name = "cartpole-meta-gradient"
    description = "an actor-critic whose discount, trace, rate and loss weights are learned by meta-gradients"
    expected = (
        "level with where it began and with the best of the grid: 305, 307 and 321 by 12 agents, who differ by more"
    )
    source = "Xu, van Hasselt, Silver 2018, Meta-Gradient Reinforcement Learning, NeurIPS"

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("lie in (0, 1)", lambda x: 0 < x < 1, "discount", "gae_lambda")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "outer_discount", "outer_gae_lambda")
        return wrong + self.must("be above 0", lambda x: x > 0, "value", "entropy", "learning_rate")

    def learner(self, spec: "Spec", **choices: Any) -> "Learner":
        from quickstudy.learners.gradient.updates import Scaled
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.actor_critic import actor_critic

        choices = {
            name: getattr(self, name) for name in ("rate", "discount", "gae_lambda", "value", "entropy")
        } | choices
        return actor_critic(RandomInit(tanh_policy(spec, self.hidden)), Scaled(choices.pop("rate")), **choices)

    def build(self) -> "Experiment":
        import optax

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.parameters import Bounded, Positive
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.rl import losses

        tasks = self.tasks()
        life = self.life(tasks)
        learned = self.learner(
            tasks.spec,
            rate=Positive(self.rate),
            discount=Bounded(self.discount),
            gae_lambda=Bounded(self.gae_lambda),
            value=Positive(self.value),
            entropy=Positive(self.entropy),
        )
        objective = dataclasses.replace(
            life,
            bptt_length=2 * self.segment_length,
            curve_interval=self.segment_length,
            burn_in=0,
            per_episode=False,
            terms=((1.0, losses.a2c),),
            discount=self.outer_discount,
            gae_lambda=self.outer_gae_lambda,
            baseline="value",
            across_episodes=False,
            normalise=True,
        )
        grid = {
            f"γ={discount}, λ={gae_lambda}": self.learner(tasks.spec, discount=discount, gae_lambda=gae_lambda)
            for discount in DISCOUNTS
            for gae_lambda in TRACES
        }
        return Experiment(
            self,
            learned,
            objective,
            Backprop(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(self.learning_rate))),
            tasks,
            EvaluationConfig(
                life,
                num_tasks=self.test_tasks,
                baselines={"where it began": self.learner(tasks.spec), **grid},
                chunk=self.test_tasks,
            ),
            citations=(self.source,),
        )
