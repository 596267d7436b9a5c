"""Few-shot intents (CLINC150): the methods of few-shot images on sentences, with test intents of unseen domains.

Words of unseen domains fall on features that training never moved, so the embedding begins as the features themselves
and learns slowly, for a short while, what to add: one that begins at random forgets them (it had 30 points less).

No paper has this very protocol, so what stands beside a figure is what needs no meta-training: the nearest centroid and
logistic regression, on the same features of the same tasks.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from quickstudy.recipes.few_shot import FewShotRecipe, GradientMethod, MatchingMethod, ProtoMethod
from quickstudy.recipes.omniglot import SNELL, VINYALS
from quickstudy.recipes.sinusoid import FINN

if TYPE_CHECKING:
    from quickstudy.core import Learner, TaskDistribution

LARSON = "Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP"


@dataclasses.dataclass(frozen=True)
class Clinc150(FewShotRecipe):
    dims: int = 2048  # hashed features of a sentence
    hidden: int = 32  # width of what the embedding adds to them
    scale: float = 4.0  # of the embedding: features have length 1, too short for a softmax (matching takes the cosine)

    def errors(self) -> list[str]:
        wrong = super().errors() + self.must("be at least 1", lambda x: x >= 1, "dims", "hidden")
        return wrong + self.must("be above 0", lambda x: x > 0, "scale")

    def tasks(self) -> "TaskDistribution":
        from quickstudy.tasks.clinc150 import clinc150

        return clinc150(
            ways=self.ways, shots=self.shots, queries=self.queries, training_ways=self.training_ways or None,
            dims=self.dims, data=self.data or None,
        )  # fmt: skip

    def embedding(self) -> Any:
        from quickstudy.nn.models import Refined

        return Refined(self.dims, self.hidden, scale=self.scale, key=self.key(1))

    def baselines(self) -> "dict[str, Learner]":
        from quickstudy.baselines.logistic_regression import LogisticRegression
        from quickstudy.learners.metric.prototypical import Prototypical

        return {
            "nearest centroid": Prototypical(lambda x: x, self.dims, self.ways),
            "logistic regression": LogisticRegression(self.dims, self.ways, capacity=self.ways * self.shots),
        }

    def bytes_of_example(self) -> int:
        return 16 * (2 * self.dims + self.hidden)

    def about_data(self) -> tuple[str, ...]:
        return (LARSON,)


@dataclasses.dataclass(frozen=True)
class Clinc150Proto(ProtoMethod, Clinc150):
    meta_steps: int = 300
    learning_rate: float = 1e-4
    training_ways: int = 20

    name = "clinc150-proto"
    description = "prototypical networks on intents of unseen domains"
    expected = "the 71 % of the nearest centroid of its features (no paper has this)"
    source = SNELL


@dataclasses.dataclass(frozen=True)
class Clinc150Matching(MatchingMethod, Clinc150):
    meta_steps: int = 300
    learning_rate: float = 1e-4

    name = "clinc150-matching"
    description = "Matching Networks on intents of unseen domains"
    expected = "the 71 % of the nearest centroid of its features (no paper has this)"
    source = VINYALS


@dataclasses.dataclass(frozen=True)
class Clinc150MAML(GradientMethod, Clinc150):
    meta_steps: int = 300
    learning_rate: float = 1e-4
    queries: int = 5
    inner_steps: int = 3

    name = "clinc150-maml"
    description = "MAML on intents of unseen domains"
    expected = "the 71 % of logistic regression on its features (no paper has this)"
    source = FINN

    def choices(self, start: Any) -> dict[str, Any]:
        import equinox as eqx
        import jax

        from quickstudy.nn.models import head

        # A head of zeros prefers no class, and its first step makes it that of the most similar example, of one shot.
        return {"start": eqx.tree_at(head, start, jax.tree.map(jax.numpy.zeros_like, head(start)))}
