"""Few-shot intents (CLINC150): sentences, with test intents of unseen domains.

Words of unseen domains fall on features that training never moved, so the embedding begins as the features themselves
and learns slowly, for a short while, what to add: one that begins at random forgets them (it had 30 points less).

No paper has this very protocol, so what stands beside a figure is what needs no meta-training: the nearest centroid and
logistic regression, on the same features of the same tasks.
"""

import dataclasses
from typing import Annotated, Any

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast
from quickstudy.recipes.problem import LabelledFamily, Meets, Problem, TasksConfig
from quickstudy.recipes.tasks.classes import FewShot, judged, of_classes, training_ways

LARSON = "Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP"


@dataclasses.dataclass(frozen=True)
class Clinc150(TasksConfig):
    ways: Annotated[int, AtLeast(2), "classes of a task"] = 5
    few_shot: FewShot = FewShot()
    dims: Annotated[int, AtLeast(1, SIZES), "hashed features of a sentence"] = 2048
    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the layer that adds to these features"] = 32
    scale: Annotated[float, Above(0), "factor of the embedding: features have length 1, too short for a softmax"] = 4.0
    data: Annotated[str, "folder with the data (default: $QUICKSTUDY_DATA)"] = ""

    title = "CLINC150's intents"
    meets = ("few-shot",)
    suggests = {
        "few-shot": {
            "meta_steps": 300, "meta_batch": 16, "learning_rate": 1e-4, "inner_steps": 3, "test_steps": (0, 3),
            "zero_head": True,
        }
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, classes=self.ways, training_classes=training_ways(self.ways, self.few_shot))

    def build(self, meets: Meets, seed: int) -> LabelledFamily:
        import jax.numpy as jnp

        from quickstudy.baselines.logistic_regression import LogisticRegression
        from quickstudy.nn.layers import Linear
        from quickstudy.nn.models import Chain, Contextual, Refined
        from quickstudy.tasks.clinc150 import clinc150

        tasks = clinc150(ways=self.ways, dims=self.dims, data=self.data or None, **judged(self.few_shot, None))
        refined = lambda dims, shrink, key: Refined(dims, max(1, self.hidden_size // shrink), scale=self.scale, key=key)

        def contextual(size: int) -> Any:
            both = refined(self.dims + size, 1, family.key(1))
            head = Linear(self.dims + size, self.ways, key=family.key(2))
            return Contextual(Chain([both, head]), jnp.zeros(size))

        family = of_classes(
            tasks, self.ways, seed, few=self.few_shot,
            embedding=lambda key, shrink=1: refined(self.dims, shrink, key),
            raw=(lambda x: x, self.dims),
            example_bytes=16 * (2 * self.dims + self.hidden_size),
            baselines=lambda: {
                "nearest centroid": qs.Prototypical(lambda x: x, self.dims, self.ways),
                "logistic regression": LogisticRegression(
                    self.dims, self.ways, capacity=self.ways * self.few_shot.shots
                ),
            },
        )  # fmt: skip
        return dataclasses.replace(family, contextual=contextual, citations=(LARSON,))
