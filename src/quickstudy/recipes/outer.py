"""The outer loops as parts of a method's options: back-propagation, PPO over whole trials, and evolution."""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import Above, AtLeast, Between, Multiple, Training

LearningRate = Annotated[float, Above(0), "step size of the meta-optimizer"]
FinalRate = Annotated[float, Between(0, 1), "fraction of the learning rate that is left at the end (1: it stays)"]
ClipNorm = Annotated[float, AtLeast(0), "largest norm of the meta-gradient, which is cut to it (0: never cut)"]


def falling(rate: float, final: float, steps: int, decay: str = "linear") -> Any:
    """A learning rate that falls to `final` of itself."""
    import optax

    if final == 1:
        return rate
    if decay == "cosine":
        return optax.cosine_decay_schedule(rate, max(1, steps), final)
    return optax.linear_schedule(rate, final * rate, steps)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Back-propagation through the adaptation."""

    learning_rate: LearningRate = 1e-3
    final_rate: FinalRate = 0.05
    decay: Annotated[Literal["cosine", "linear"], "curve along which the learning rate falls"] = "cosine"
    clip_norm: ClipNorm = 10.0
    optimizer: Annotated[Literal["adam", "sgd"], "what follows the meta-gradient"] = "adam"

    def meta_optimizer(self, training: Training, task_bytes: int = 0) -> Any:
        import optax

        from quickstudy.meta_optimizers.backprop import tasks_at_once

        rate = falling(self.learning_rate, self.final_rate, training.meta_steps, self.decay)
        follow = {"adam": optax.adam, "sgd": optax.sgd}[self.optimizer](rate)
        if self.clip_norm:
            follow = optax.chain(optax.clip_by_global_norm(self.clip_norm), follow)
        return qs.Backprop(follow, chunk=tasks_at_once(training.meta_batch, task_bytes) if task_bytes else None)


@dataclasses.dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation of whole trials (Schulman et al. 2017)."""

    learning_rate: LearningRate = 2e-3
    final_rate: FinalRate = 0.01
    discount: Annotated[float, Between(0, 1), "discount γ of the returns that the policy is trained on"] = 1.0
    gae_lambda: Annotated[float, Between(0, 1), "λ of the advantages (generalised advantage estimation)"] = 0.9
    entropy: Annotated[float, AtLeast(0), "weight of the policy's entropy in the loss"] = 5e-4
    # Every action must be tried before one is dropped for good.
    warmup_entropy: Annotated[float, AtLeast(0), "weight of the policy's entropy during the curriculum"] = 0.02
    value: Annotated[float, AtLeast(0), "weight of the critic's loss"] = 0.5
    value_scale: Annotated[
        float, Above(0), "unit of the critic's output (1: that of running statistics of the returns)"
    ] = 1.0
    clip: Annotated[float, Above(0), "ε of PPO's clipped ratio of probabilities"] = 0.2
    epochs: Annotated[int, AtLeast(1, 1000), "passes over each batch of trials"] = 4
    minibatches: Annotated[int, AtLeast(1), "parts of the batch, with a gradient step each, in every pass"] = 8
    clip_norm: ClipNorm = 0.5
    curriculum: Annotated[
        tuple[tuple[int, int], ...],
        AtLeast(1, 10**9),
        "pairs of meta-steps and a length: shorter trials to train on first; ones longer than the trial are left out",
    ] = ()

    def stages(self, length: int) -> tuple[tuple[int, int], ...]:
        """The stages of the curriculum that are not longer than the trial."""
        return tuple(stage for stage in self.curriculum if stage[1] <= length)

    def errors_with(self, training: Training, length: int) -> list[str]:
        found = []
        if training.meta_batch % self.minibatches:
            found.append(f"minibatches={self.minibatches} must divide meta_batch={training.meta_batch}")
        if (taken := sum(steps for steps, _ in self.stages(length))) >= max(1, training.meta_steps):
            found.append(
                f"the curriculum takes {taken} meta-steps, which leaves none of meta_steps={training.meta_steps}; "
                "take more, or another curriculum (`--curriculum` with nothing after it: none)"
            )
        return found

    def trial(self, environment: Any, length: int, further: tuple = (), *, warm_up: bool = False, **fields: Any) -> Any:
        """The objective: trials of `length` steps; `further` are (weight, loss term) pairs beside those of PPO."""
        from quickstudy.rl import losses

        entropy, value = self.warmup_entropy if warm_up else self.entropy, self.value / self.value_scale**2
        terms = ((1.0, losses.ppo(self.clip)), (value, losses.value), (entropy, losses.entropy), *further)
        return qs.Trial(
            environment,
            trial_length=length,
            terms=terms,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            normalise_values=self.value_scale == 1.0,
            **fields,
        )

    def meta_optimizer(self, training: Training, task_bytes: int = 0) -> Any:
        import optax

        rate = falling(self.learning_rate, self.final_rate, training.meta_steps * self.epochs * self.minibatches)
        follow = optax.adam(rate, eps=1e-5)
        if self.clip_norm:
            follow = optax.chain(optax.clip_by_global_norm(self.clip_norm), follow)
        return qs.Backprop(follow, epochs=self.epochs, minibatches=self.minibatches)


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Evolution strategies in the place of the meta-gradient (Salimans et al. 2017; Song et al. 2020)."""

    learning_rate: LearningRate = 1e-2
    final_rate: FinalRate = 0.05
    population: Annotated[int, AtLeast(2, 10**5), Multiple(2), "learners that are tried in each meta-step"] = 32
    sigma: Annotated[float, Above(0), "standard deviation by which they differ, relative to the size of each array"] = (
        0.1
    )

    discount, value_scale = 1.0, 1.0  # what a learner gets of PPO's options

    def stages(self, length: int) -> tuple[tuple[int, int], ...]:
        return ()

    def errors_with(self, training: Training, length: int) -> list[str]:
        return []

    def trial(self, environment: Any, length: int, further: tuple = (), *, warm_up: bool = False, **fields: Any) -> Any:
        return qs.Trial(environment, trial_length=length, **{**fields, "baseline": "none", "normalise": False})

    def meta_optimizer(self, training: Training, task_bytes: int = 0) -> Any:
        import optax

        rate = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, training.meta_steps)
        return qs.Evolution(optax.adam(rate), population=self.population, sigma=self.sigma)
