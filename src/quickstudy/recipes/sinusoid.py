"""Few-shot sinusoid regression (Finn et al. 2017, section 5.1) by every member of the gradient family.

The paper's protocol: 5 or 10 shots, an MLP of 40-40 ReLUs, one inner step of rate 0.01, meta-batch 25, Adam 1e-3,
70,000 meta-steps; tested after 1, 5 and 10 steps. Query MSE at 5 shots: MAML 0.67 / 0.38 / 0.35, pre-training on
all tasks and fine-tuning 2.41 / 2.23 / 2.19.

Trained with one step, nothing keeps further ones from overshooting: in one task of some thousands, most of whose points
lie on one side, the error grows from step to step, to 10² and more, and the mean with it. So the entries of an inner
gradient are cut at a size that one first step in ten reaches; the paper cuts none (`--inner-clip 0`).
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from quickstudy.recipes.base import Recipe

if TYPE_CHECKING:
    from quickstudy.core import MetaOptimizer
    from quickstudy.learners.gradient.updates import Update
    from quickstudy.recipes.experiment import Experiment

FINN = "Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML"


@dataclasses.dataclass(frozen=True)
class Sinusoid(Recipe):
    meta_steps: int = 70_000
    meta_batch: int = 25
    cores: int = 1  # its operations are microseconds long
    shots: int = 5  # labelled points of a task
    queries: int = 5  # query points a task while training; tests use 100
    inner_rate: float = 0.01
    inner_clip: float = 30.0  # size at which each entry of the gradient is cut, where inner steps are plain; 0: never
    inner_steps: int = 1
    learning_rate: float = 1e-3
    hidden: int = 40
    scratch_rate: float = 0.003  # of the from-scratch baseline, the best of a grid on validation tasks

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "shots", "queries", "hidden")
        wrong += self.must("be above 0", lambda x: x > 0, "inner_rate", "learning_rate", "scratch_rate")
        wrong += self.must("not be negative", lambda x: x >= 0, "inner_steps", "inner_clip")
        return wrong

    def parts(self) -> dict[str, Any]:
        """What a member of the family changes: fields of Gradient or the learner, the objective, the meta-optimizer,
        steps to test after, citations."""
        return {}

    def descent(self, rate: Any) -> "Update":
        """Plain steps of `rate`, one for all weights or a tree of them."""
        import optax

        from quickstudy.learners.gradient.updates import SGD, Scaled

        return Scaled(rate, optax.clip(self.inner_clip)) if self.inner_clip else SGD(rate)

    def falling(self) -> "MetaOptimizer":
        """Adam with a clipped gradient and a rate that falls, for learners whose meta-gradient is wild at times."""
        import optax

        from quickstudy.meta_optimizers.backprop import Backprop

        fall = optax.cosine_decay_schedule(self.learning_rate, self.meta_steps, 0.05)
        return Backprop(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(fall)))

    def build(self) -> "Experiment":
        import jax
        import optax

        from quickstudy.baselines.sinusoid_posterior import SinusoidPosterior
        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.learners.gradient.inner_losses import Supervised
        from quickstudy.learners.gradient.maml import Gradient
        from quickstudy.learners.gradient.updates import SGD
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.nn.models import MLP, Predictor
        from quickstudy.objectives.few_shot import FewShot
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.report.traces import sinusoid
        from quickstudy.tasks.sinusoid import Sinusoids

        parts = self.parts()
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1))
        model = lambda key: Predictor(MLP((1, self.hidden, self.hidden, 1), key=key))
        gradient = {"start": model(first), "update": self.descent(self.inner_rate), "steps": self.inner_steps}
        learner = parts.get("learner") or Gradient(inner_loss=Supervised(), **{**gradient, **parts.get("gradient", {})})
        judge = FewShot()
        return Experiment(
            self,
            learner,
            parts.get("objective", judge),
            parts.get("meta_optimizer", Backprop(optax.adam(self.learning_rate))),
            Sinusoids(self.shots, self.queries),
            EvaluationConfig(
                judge,
                num_tasks=self.test_tasks,
                steps=parts.get("steps", (0, 1, 5, 10)),
                baselines={
                    "from scratch": Gradient(model(second), Supervised(), SGD(self.scratch_rate)),
                    "Bayes posterior": SinusoidPosterior(),
                },
                draw=sinusoid,
            ),
            citations=parts.get("citations", (FINN,)),
        )


@dataclasses.dataclass(frozen=True)
class SinusoidMAML(Sinusoid):
    name = "sinusoid-maml"
    description = "MAML on 5-shot sinusoid regression: the paper's protocol, inner gradients cut"
    expected = "query MSE after 1/5/10 steps 0.59/0.36/0.33, the paper 0.67/0.38/0.35 (70,000 meta-steps, 20 seconds)"
    source = FINN


@dataclasses.dataclass(frozen=True)
class SinusoidFOMAML(Sinusoid):
    name = "sinusoid-fomaml"
    description = "first-order MAML: the inner gradients are taken for constants"
    expected = "query MSE after 10 steps 0.34 (MAML's paper gives none for sinusoids)"
    source = FINN

    def parts(self) -> dict[str, Any]:
        from quickstudy.learners.gradient.adjoints import FirstOrder

        return {"gradient": {"adjoint": FirstOrder()}}


@dataclasses.dataclass(frozen=True)
class SinusoidIMAML(Sinusoid):
    inner_steps: int = 32
    inner_rate: float = 0.01  # of Adam: any way to the minimum will do, and plain steps diverge in time
    meta_steps: int = 8000
    strength: float = 20.0  # λ, how strongly adapted weights are held to the start
    solver_steps: int = 5  # of conjugate gradients

    name = "sinusoid-imaml"
    description = "implicit MAML: the gradient at the minimum of the regularised inner problem"
    expected = "query MSE below 1 after 32 steps (the paper has no sinusoids)"
    source = "Rajeswaran, Finn, Kakade, Levine 2019, Meta-Learning with Implicit Gradients, NeurIPS"

    def parts(self) -> dict[str, Any]:
        import optax

        from quickstudy.learners.gradient.adjoints import Implicit
        from quickstudy.learners.gradient.updates import Optax

        update = Optax(optax.adam(self.inner_rate))
        return {
            "gradient": {"adjoint": Implicit(self.strength, self.solver_steps), "update": update},
            "meta_optimizer": self.falling(),
            "steps": tuple(sorted({0, 1, 5, 10, self.inner_steps})),
            "citations": (self.source, FINN),
        }


@dataclasses.dataclass(frozen=True)
class SinusoidANIL(Sinusoid):
    name = "sinusoid-anil"
    description = "ANIL: only the last layer adapts"
    expected = "query MSE after 10 steps 0.62 (the ANIL paper gives none for this setting)"
    source = "Raghu, Raghu, Bengio, Vinyals 2020, Rapid Learning or Feature Reuse?, ICLR"

    def parts(self) -> dict[str, Any]:
        from quickstudy.nn.models import head

        return {"gradient": {"fast": head}, "citations": (self.source, FINN)}


@dataclasses.dataclass(frozen=True)
class SinusoidCAVIA(Sinusoid):
    context: int = 5  # numbers beside the input, which alone adapt
    inner_rate: float = 1.0

    name = "sinusoid-cavia"
    description = "CAVIA: only a context vector beside the input adapts"
    expected = "at 10 shots 0.19 ± 0.02 after one step (the paper)"
    source = "Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, Fast Context Adaptation via Meta-Learning, ICML"

    def parts(self) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        from quickstudy.nn.models import MLP, Contextual, context

        net = MLP((1 + self.context, self.hidden, self.hidden, 1), key=jax.random.key(self.seed))
        return {
            "gradient": {"start": Contextual(net, jnp.zeros(self.context)), "fast": context},
            "citations": (self.source, FINN),
        }


@dataclasses.dataclass(frozen=True)
class SinusoidMetaSGD(Sinusoid):
    inner_clip: float = 0.0  # rates that are learned grow by what is cut: 0.42 after one step with 30, 0.31 without

    name = "sinusoid-meta-sgd"
    description = "Meta-SGD: a learned rate for every weight"
    expected = "query MSE after one step 0.31 (MAML has 0.59)"
    source = "Li, Zhou, Chen, Li 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning"

    def parts(self) -> dict[str, Any]:
        import jax

        from quickstudy.learners.gradient.updates import per_weight
        from quickstudy.nn.models import MLP, Predictor

        shaped = Predictor(MLP((1, self.hidden, self.hidden, 1), key=jax.random.key(0)))
        rates = per_weight(shaped, self.inner_rate).rate
        return {"gradient": {"update": self.descent(rates)}, "citations": (self.source, FINN)}


@dataclasses.dataclass(frozen=True)
class SinusoidReptile(Sinusoid):
    inner_steps: int = 32
    inner_batch: int = 10  # examples a step sees, as in the paper
    queries: int = 45  # 50 points a task, as in the paper: Reptile adapts on all of them while training
    meta_steps: int = 15_000
    cores: int = 0

    name = "sinusoid-reptile"
    description = "the same learner under the Reptile objective"
    expected = "query MSE 0.98/0.40/0.33 after 1/5/10 steps, 3.3 before; the paper shows curves only"
    source = "Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms"

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 1", lambda x: x >= 1, "inner_batch")

    def parts(self) -> dict[str, Any]:
        from quickstudy.objectives.few_shot import FewShot
        from quickstudy.objectives.reptile import Reptile

        return {
            "gradient": {"batch": self.inner_batch},
            "objective": Reptile(FewShot()),
            "citations": (self.source, FINN),
        }


@dataclasses.dataclass(frozen=True)
class SinusoidPretrained(Sinusoid):
    inner_steps: int = 0

    name = "sinusoid-pretrained"
    description = "the baseline: one network trained on all tasks together, then fine-tuned"
    expected = "query MSE after 1/5/10 steps 2.41/2.23/2.19 (the MAML paper)"
    source = FINN


@dataclasses.dataclass(frozen=True)
class SinusoidLearnedOptimizer(Sinusoid):
    shots: int = 40
    queries: int = 40
    meta_steps: int = 4000
    cores: int = 0
    inner_steps: int = 30
    hidden_state: int = 20  # of the LSTM that looks at the gradients
    adam_rate: float = 0.03  # of the baseline, the best of a grid on validation tasks

    name = "sinusoid-learned-optimizer"
    description = "a learned optimiser: the update rule alone is learned, and trains networks drawn afresh"
    expected = "query MSE 0.168 after 60 steps, twice as many as in training, where tuned Adam has 0.197"
    source = "Andrychowicz et al. 2016, Learning to learn by gradient descent by gradient descent, NeurIPS"

    def errors(self) -> list[str]:
        wrong = super().errors() + self.must("be at least 1", lambda x: x >= 1, "hidden_state")
        return wrong + self.must("be above 0", lambda x: x > 0, "adam_rate")

    def build(self) -> "Experiment":
        import jax
        import optax

        from quickstudy.baselines.from_scratch import FromScratch
        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.learners.gradient.inner_losses import Supervised
        from quickstudy.learners.gradient.learned_updates import LSTMOptimizer
        from quickstudy.learners.gradient.updates import Optax
        from quickstudy.nn.models import MLP, Predictor
        from quickstudy.objectives.few_shot import FewShot
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.report.traces import sinusoid
        from quickstudy.tasks.sinusoid import Sinusoids

        sizes = (1, self.hidden, self.hidden, 1)
        draw = lambda key: Predictor(MLP(sizes, key=key))
        update = LSTMOptimizer(self.hidden_state, key=jax.random.fold_in(jax.random.key(self.seed), 1))
        return Experiment(
            self,
            FromScratch(draw, Supervised(), update, steps=self.inner_steps),
            FewShot(),
            self.falling(),
            Sinusoids(self.shots, self.queries),
            EvaluationConfig(
                FewShot(),
                num_tasks=self.test_tasks,
                steps=tuple(sorted({0, 5, 10, 20, self.inner_steps, 2 * self.inner_steps})),
                baselines={
                    f"Adam, rate {self.adam_rate:g}": FromScratch(
                        draw, Supervised(), Optax(optax.adam(self.adam_rate))
                    ),
                },
                draw=sinusoid,
            ),
            citations=(self.source, FINN),
        )
