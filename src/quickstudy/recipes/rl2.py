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
    from quickstudy.envs.spec import EnvironmentTasks, Spec
    from quickstudy.evaluate.config import Drawing
    from quickstudy.learners.memory.recurrent import Heads
    from quickstudy.nn.cells import Cell
    from quickstudy.recipes.experiment import Experiment
    from quickstudy.rl.losses import LossTerm

DUAN = (
    "Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, RL²: Fast Reinforcement Learning via Slow "
    "Reinforcement Learning"
)
WANG = "Wang et al. 2016, Learning to Reinforcement Learn"
PPO = "Schulman, Wolski, Dhariwal, Radford, Klimov 2017, Proximal Policy Optimization Algorithms"


@dataclasses.dataclass(frozen=True)
class RL2(Recipe):
    cell: Literal["gru", "lstm", "s5", "attention"] = "gru"  # what remembers
    size: int = 64  # of the memory
    learning_rate: float = 2e-3
    final_rate: float = 0.01  # of the learning rate, reached linearly at the end
    discount: float = 1.0
    gae_lambda: float = 0.9
    entropy: float = 5e-4
    warmup_entropy: float = 0.02  # during the curriculum: every action must be tried before one is dropped for good
    value: float = 0.5
    value_scale: float = 1.0  # the unit in which the critic says values; 1: that of running statistics of the returns
    clip: float = 0.2
    epochs: int = 4
    minibatches: int = 8
    clip_norm: float = 0.5
    act: Literal["sample", "mode"] = "sample"  # how the trained agent acts in the test
    # (meta-steps, length) of shorter trials to train on first, with `warmup_entropy`; longer ones than the trial itself
    # are left out
    curriculum: tuple[tuple[int, int], ...] = ()

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "size", "epochs", "minibatches")
        wrong += self.must("be above 0", lambda x: x > 0, "learning_rate", "clip", "clip_norm", "value_scale")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "discount", "gae_lambda")
        if self.minibatches >= 1 and self.meta_batch % self.minibatches:
            wrong.append(f"minibatches={self.minibatches} must divide meta_batch={self.meta_batch}")
        if any(len(stage) != 2 or min(stage) < 1 for stage in self.curriculum):
            wrong.append(f"curriculum must be pairs of meta-steps and a length, each at least 1, got {self.curriculum}")
        elif (taken := sum(steps for steps, _ in self.before())) >= max(1, self.meta_steps):
            wrong.append(
                f"the curriculum takes {taken} meta-steps, which leaves none of meta_steps={self.meta_steps}; "
                "take more, or another curriculum (`--curriculum` with nothing after it: none)"
            )
        return wrong

    @property
    def length(self) -> int:
        """Of the trial, in the unit of the curriculum."""
        raise NotImplementedError

    def before(self) -> tuple[tuple[int, int], ...]:
        """The stages of the curriculum that are not longer than the trial."""
        return tuple(stage for stage in self.curriculum if stage[1] <= self.length)

    def encoder(self, spec: "Spec", key: Any) -> "Cell":
        """The recurrent cell that reads observations beside what came of the step before."""
        from quickstudy.learners.memory.recurrent import OutcomeFeedback
        from quickstudy.nn.cells import GRU, LSTM
        from quickstudy.nn.linear_recurrence import LinearRecurrence

        make = {"gru": GRU, "lstm": LSTM, "s5": LinearRecurrence}[self.cell]
        return make(spec.observation + OutcomeFeedback(spec.actions, spec.dims).size, self.size, key=key)

    def actor_critic(self, spec: "Spec", features: int, key: Any) -> "Heads":
        from quickstudy.learners.memory.recurrent import ActorCritic

        return ActorCritic(
            features, spec.actions or spec.dims, key=key, gaussian=spec.actions is None, scale=self.value_scale
        )

    def memory(self, spec: "Spec", trial_length: int, heads: "Heads", key: Any) -> "Learner":
        """What remembers a trial of so many steps, and says what `heads` make of `size` features."""
        import equinox as eqx

        from quickstudy.learners.memory.attention import Attention
        from quickstudy.learners.memory.recurrent import OutcomeFeedback, Recurrent

        if self.cell == "attention":  # to which steps have no order, so each is told with what followed
            came = OutcomeFeedback(spec.actions, spec.dims, spec.observation)
            see = eqx.nn.Identity()
            return Attention(
                see, spec.observation, heads, came, key=key, capacity=trial_length, width=self.size, attention_heads=2
            )
        return Recurrent(self.encoder(spec, key), heads, OutcomeFeedback(spec.actions, spec.dims))

    def agent(self, spec: "Spec", trial_length: int) -> "Learner":
        import jax

        first, second = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1))
        return self.memory(spec, trial_length, self.actor_critic(spec, self.size, second), first)

    def eval_view(self) -> "Callable[[Any], Any] | None":
        """What makes the learner that is tested of the one that is trained."""
        return None

    def draw_many(self) -> "Drawing | None":
        """What many tasks together show, for the report."""
        return None

    def further_terms(self) -> "tuple[tuple[float, LossTerm], ...]":
        """(weight, loss term) pairs beside those of PPO."""
        return ()

    def compose(
        self,
        tasks: "EnvironmentTasks",
        *,
        unit: int = 1,
        curve_interval: int,
        baselines: Mapping[str, "Learner"] | None = None,
        oracle_value: Callable[[Any], Any] | None = None,
        draw: Callable | None = None,
        behaviour: Callable | None = None,
        chunk: int = 1000,
        learner: "Learner | None" = None,
        test_length: int = 0,
        episodic: bool = False,
    ) -> "Experiment":
        """`unit`: environment steps in one of `length`; `learner`: another than RL²'s; `test_length`: of the test's
        trials, where it differs from `length`; `episodic`: credit ends with the episode, and what is judged is the
        return of episodes: where an end costs nothing but what would have followed, as in CartPole."""
        import optax

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.objectives.trial import Trial
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.rl import losses

        value = self.value / self.value_scale**2
        of_ppo = lambda entropy: ((1.0, losses.ppo(self.clip)), (value, losses.value), (entropy, losses.entropy))
        terms = lambda entropy: (*of_ppo(entropy), *self.further_terms())
        trial = lambda trial_length, entropy=self.entropy: Trial(
            tasks.environment, trial_length=trial_length, terms=terms(entropy),
            discount=self.discount, gae_lambda=self.gae_lambda,
            across_episodes=not episodic, per_episode=episodic, normalise_values=self.value_scale == 1.0,
        )  # fmt: skip
        updates = self.meta_steps * self.epochs * self.minibatches
        schedule = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, updates)
        optimizer = optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.adam(schedule, eps=1e-5))
        return Experiment(
            self,
            learner or self.agent(tasks.spec, unit * max(self.length, test_length)),
            trial(unit * self.length),
            Backprop(optimizer, epochs=self.epochs, minibatches=self.minibatches),
            tasks,
            EvaluationConfig(
                # Tests need no advantages, and baselines say no values.
                dataclasses.replace(
                    trial(unit * (test_length or self.length)),
                    act=self.act,
                    curve_interval=curve_interval,
                    baseline="none",
                    normalise=False,
                ),
                num_tasks=self.test_tasks,
                validation_tasks=1000,
                baselines=baselines or {},
                eval_view=self.eval_view(),
                oracle_value=oracle_value,
                draw=draw,
                draw_many=self.draw_many(),
                behaviour=behaviour,
                chunk=min(chunk, self.test_tasks),
            ),
            curriculum=tuple((steps, trial(unit * length, self.warmup_entropy)) for steps, length in self.before()),
            citations=(self.source, WANG, PPO),
        )
