"""RL²: a recurrent agent trained by PPO over whole trials (Duan et al. 2016; Wang et al. 2016).

What all its recipes share. The paper trains by TRPO with a GRU of 256, γ 0.99, λ 0.3 and 250,000 steps a batch; here
PPO and a GRU of 64 serve two cores. docs/learners/recurrent.md says what breaks the plateau at long horizons.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.recipes.base import Recipe

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.recipes.experiment import Experiment
    from quickstudy.tasks.environment import EnvironmentTasks

DUAN = (
    "Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, RL²: Fast Reinforcement Learning via Slow "
    "Reinforcement Learning"
)
WANG = "Wang et al. 2016, Learning to Reinforcement Learn"
PPO = "Schulman, Wolski, Dhariwal, Radford, Klimov 2017, Proximal Policy Optimization Algorithms"


@dataclasses.dataclass(frozen=True)
class RL2(Recipe):
    cell: Literal["gru", "lstm"] = "gru"
    size: int = 64
    learning_rate: float = 2e-3
    final_rate: float = 0.01  # of the learning rate, reached linearly at the end
    discount: float = 1.0
    trace: float = 0.9
    entropy: float = 5e-4
    warmup_entropy: float = 0.02  # during the curriculum: every action must be tried before one is dropped for good
    value: float = 0.5
    clip: float = 0.2
    epochs: int = 4
    minibatches: int = 8
    clip_norm: float = 0.5
    act: Literal["sample", "mode"] = "sample"  # how the trained agent acts in the test

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "size", "epochs", "minibatches")
        wrong += self.must("be above 0", lambda x: x > 0, "learning_rate", "clip", "clip_norm")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "discount", "trace")
        if self.minibatches >= 1 and self.meta_batch % self.minibatches:
            wrong.append(f"minibatches={self.minibatches} must divide meta_batch={self.meta_batch}")
        for name in ("cell", "act"):
            allowed = {"cell": ("gru", "lstm"), "act": ("sample", "mode")}[name]
            if getattr(self, name) not in allowed:
                wrong.append(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        return wrong

    def compose(
        self,
        tasks: "EnvironmentTasks",
        horizons: tuple[tuple[int, int], ...],
        *,
        report_every: int,
        rulers: Mapping[str, "Learner"] | None = None,
        optimum: Callable[[Any], Any] | None = None,
        trace: Callable | None = None,
        chunk: int = 1000,
    ) -> "Experiment":
        """`horizons` are (steps, horizon) pairs, a curriculum of which the last is the trial itself."""
        import jax
        import optax

        from quickstudy.evaluate import Protocol
        from quickstudy.learners.recurrent import ActorCritic, OutcomeFeedback, Recurrent
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.nn.cells import GRU, LSTM
        from quickstudy.objectives.trial import Trial
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.rl import losses

        spec = tasks.spec
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1))
        feedback = OutcomeFeedback(spec.actions, spec.dims)
        make = {"gru": GRU, "lstm": LSTM}[self.cell]
        learner = Recurrent(
            make(spec.observation + feedback.size, self.size, key=first),
            ActorCritic(self.size, spec.actions or spec.dims, key=second, gaussian=spec.actions is None),
            feedback,
        )
        terms = lambda entropy: ((1.0, losses.ppo(self.clip)), (self.value, losses.value), (entropy, losses.entropy))
        trial = lambda horizon, entropy=self.entropy: Trial(
            tasks.environment, horizon=horizon, terms=terms(entropy), discount=self.discount, trace=self.trace
        )
        updates = self.meta_steps * self.epochs * self.minibatches
        schedule = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, updates)
        optimizer = optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.adam(schedule, eps=1e-5))
        *before, (_, horizon) = horizons
        return Experiment(
            self,
            learner,
            trial(horizon),
            Backprop(optimizer, epochs=self.epochs, minibatches=self.minibatches),
            tasks,
            Protocol(
                # Tests need no advantages, and rulers say no values.
                dataclasses.replace(
                    trial(horizon), act=self.act, report_every=report_every, baseline="none", normalise=False
                ),
                num_tasks=self.test_tasks,
                validation_tasks=1000,
                rulers=rulers or {},
                optimum=optimum,
                trace=trace,
                chunk=min(chunk, self.test_tasks),
            ),
            curriculum=tuple((steps, trial(shorter, self.warmup_entropy)) for steps, shorter in before),
            citations=(self.source, WANG, PPO),
        )
