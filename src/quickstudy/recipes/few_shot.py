"""What the recipes of few-shot classification share: tasks × method.

A data set says where tasks come from and how an example is embedded; a method says how one learns from examples. A
recipe is a class of both, as `OmniglotMAML(MAML, Omniglot)`.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from quickstudy.recipes.base import Recipe
from quickstudy.recipes.sinusoid import FINN

if TYPE_CHECKING:
    import optax

    from quickstudy.core import Learner, TaskDistribution
    from quickstudy.evaluate.config import Trace
    from quickstudy.learners.gradient.maml import Gradient
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class FewShotRecipe(Recipe):
    meta_steps: int = 6000
    meta_batch: int = 16
    ways: int = 5  # classes of a task
    shots: int = 1  # labelled examples of each class
    queries: int = 15  # of each class, in training and in testing
    training_ways: int = 0  # classes of a training task, where that is another number (0: the same)
    learning_rate: float = 1e-3
    final_rate: float = 0.05  # of the learning rate, reached along a cosine at the end
    data: str = ""  # folder with the data (default: $QUICKSTUDY_DATA)

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 2", lambda x: x >= 2, "ways")
        wrong += self.must("be at least 1", lambda x: x >= 1, "shots", "queries")
        wrong += self.must("be above 0", lambda x: x > 0, "learning_rate")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "final_rate")
        wrong += self.must("be 0 or at least 2", lambda x: x == 0 or x >= 2, "training_ways")
        return wrong

    # what a data set says

    def tasks(self) -> "TaskDistribution":
        raise NotImplementedError

    def embedding(self) -> Any:
        """A network from an example to a vector of `features` numbers."""
        raise NotImplementedError

    def baselines(self) -> "dict[str, Learner]":
        """Methods that need no meta-training, on the same tasks."""
        return {}

    def bytes_of_example(self) -> int:
        """About what one example takes while it is differentiated through."""
        return 2**20

    def note(self) -> str:
        return ""

    def draw(self) -> "Trace | None":
        """What draws a task in the report."""
        return None

    def about_data(self) -> tuple[str, ...]:
        """Citations of the data."""
        return ()

    # what a method says

    def learner(self) -> "Learner":
        raise NotImplementedError

    def parts(self) -> dict[str, Any]:
        """What a method changes: the objective, the optimizer, the steps of the test, citations."""
        return {}

    def key(self, number: int) -> Any:
        import jax

        return jax.random.fold_in(jax.random.key(self.seed), number)

    def optimizer(self) -> "optax.GradientTransformation":
        import optax

        rate = optax.cosine_decay_schedule(self.learning_rate, self.meta_steps, self.final_rate)
        return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))

    def judge(self) -> Any:
        """The objective that is reported."""
        from quickstudy.nn.measures import accuracy, cross_entropy
        from quickstudy.objectives.few_shot import FewShot

        return FewShot(cross_entropy, accuracy, "accuracy", lower_is_better=False)

    def build(self) -> "Experiment":
        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.meta_optimizers.backprop import Backprop, tasks_at_once
        from quickstudy.recipes.experiment import Experiment

        parts, judge = self.parts(), self.judge()
        examples = max(self.ways, self.training_ways) * (self.shots + self.queries)
        size = examples * self.bytes_of_example()
        return Experiment(
            self,
            self.learner(),
            parts.get("objective", judge),
            Backprop(parts.get("optimizer", self.optimizer()), chunk=tasks_at_once(self.meta_batch, size)),
            self.tasks(),
            EvaluationConfig(
                judge,
                num_tasks=self.test_tasks,
                steps=parts.get("steps"),
                baselines=self.baselines(),
                chunk=tasks_at_once(self.test_tasks, size) or 50,
                note=self.note(),
                draw=self.draw(),
            ),
            citations=(self.source, *parts.get("citations", ()), *self.about_data()),
        )


@dataclasses.dataclass(frozen=True)
class GradientMethod(FewShotRecipe):
    inner_rate: float = 0.4
    inner_steps: int = 1
    test_steps: int = 3  # inner steps in the test

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be above 0", lambda x: x > 0, "inner_rate")
        wrong += self.must("be at least 1", lambda x: x >= 1, "inner_steps", "test_steps")
        if self.training_ways not in (0, self.ways):
            wrong.append(
                f"training_ways must be 0 here, got {self.training_ways}: the last layer has as many outputs as a task "
                "has classes"
            )
        return wrong

    def learner(self) -> "Gradient":
        from quickstudy.learners.gradient.inner_losses import Supervised
        from quickstudy.learners.gradient.maml import Gradient
        from quickstudy.learners.gradient.updates import SGD
        from quickstudy.nn.layers import Linear
        from quickstudy.nn.measures import cross_entropy
        from quickstudy.nn.models import Chain, Predictor

        embed = self.embedding()
        start = Predictor(Chain([embed, Linear(embed.features, self.ways, key=self.key(2))]))
        choices = {"start": start, "update": SGD(self.inner_rate), "steps": self.inner_steps, **self.choices(start)}
        return Gradient(inner_loss=Supervised(cross_entropy), **choices)

    def choices(self, start: Any) -> dict[str, Any]:
        """Fields of Gradient that make this member of the family."""
        return {}

    def parts(self) -> dict[str, Any]:
        training = min(self.inner_steps, self.test_steps)  # the last point of the curve is the headline
        return {"steps": tuple(sorted({0, training, self.test_steps})), "citations": (FINN,)}


@dataclasses.dataclass(frozen=True)
class ProtoMethod(FewShotRecipe):
    meta_batch: int = 1
    queries: int = 5
    training_ways: int = 60

    def learner(self) -> "Learner":
        from quickstudy.learners.metric.prototypical import Prototypical

        embed = self.embedding()
        return Prototypical(embed, embed.features, max(self.ways, self.training_ways))


@dataclasses.dataclass(frozen=True)
class MatchingMethod(FewShotRecipe):
    meta_batch: int = 4
    queries: int = 5
    training_ways: int = 20
    sharpness: float = 10.0  # of the attention, where it starts; the paper has 1, not learned
    full_context: bool = False  # embed each example in the light of the others, as the paper's FCE

    def errors(self) -> list[str]:
        return super().errors() + self.must("be above 0", lambda x: x > 0, "sharpness")

    def learner(self) -> "Learner":
        from quickstudy.learners.metric.matching import FullContext, Matching

        embed = self.embedding()
        ways = max(self.ways, self.training_ways)
        return Matching(
            embed, embed.features, capacity=ways * self.shots, classes=ways, sharpness=self.sharpness,
            context=FullContext(embed.features, key=self.key(3)) if self.full_context else None,
        )  # fmt: skip
