"""Few-shot learning by comparing: prototypes, matching, attention and Meta Networks.

In Meta Networks the convolutions are slow, shared by representation and base learner; see learners/meta_networks.py.
"""

import dataclasses
from typing import Annotated

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Training
from quickstudy.recipes.methods.labelled import composed
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, LabelledFamily, MethodConfig

Sharpness = Annotated[float, Above(0), "sharpness of the attention, where it starts; the papers have 1, not learned"]
SNELL = "Snell, Swersky, Zemel 2017, Prototypical Networks for Few-shot Learning, NeurIPS"
VINYALS = "Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, Matching Networks for One Shot Learning"


@dataclasses.dataclass(frozen=True)
class Prototypical(MethodConfig):
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "prototypical networks", SNELL, "few-shot"
    needs = ("classes",)
    suggests = {"meta_batch": 1, "queries": 5, "training_ways": 20}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        assert family.embedding is not None
        embed = family.embedding(family.key(1))
        return composed(family, training, self.outer, qs.Prototypical(embed, embed.features, family.outputs))


@dataclasses.dataclass(frozen=True)
class Matching(MethodConfig):
    sharpness: Sharpness = 10.0
    full_context: Annotated[bool, "embed each example in the light of the others, as the paper's FCE"] = False
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "Matching Networks", VINYALS, "few-shot"
    needs = ("classes",)
    suggests = {"meta_batch": 4, "queries": 5, "training_ways": 20}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.learners.metric.matching import FullContext

        assert family.embedding is not None
        embed, ways = family.embedding(family.key(1)), family.outputs
        learner = qs.Matching(
            embed, embed.features, capacity=ways * family.shots, classes=ways, sharpness=self.sharpness,
            context=FullContext(embed.features, key=family.key(3)) if self.full_context else None,
        )  # fmt: skip
        return composed(family, training, self.outer, learner)


@dataclasses.dataclass(frozen=True)
class SNAIL(MethodConfig):
    """Attention over the labelled examples, after SNAIL."""

    width: Annotated[int, AtLeast(1, SIZES), "size of a token"] = 64
    blocks: Annotated[int, AtLeast(1, 100), "blocks of attention"] = 2
    heads: Annotated[int, AtLeast(1, 1000), "attention heads of each block"] = 4
    causal: Annotated[bool, "examples attend to those before them, as in the paper; their order matters then"] = False
    # Without these two the loss stood at chance for 1,200 meta-steps; docs/learners/few_shot.md has the figures.
    likeness: Annotated[
        float, AtLeast(0), "sharpness of a query's attention to similar examples, where training starts"
    ] = 3.0
    label_scale: Annotated[float, Above(0), "scale of a label beside the features of its example"] = 3.0
    outer: Gradient | Evolution = Gradient()

    title, meets = "attention over examples (SNAIL)", "few-shot"
    source = "Mishra, Rohaninejad, Chen, Abbeel 2018, A Simple Neural Attentive Meta-Learner, ICLR"
    suggests = {"queries": 5}

    def errors(self) -> list[str]:
        return [f"heads={self.heads} must divide width={self.width}"] if self.width % self.heads else []

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        import equinox as eqx

        from quickstudy.learners.memory.attention import Attention
        from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction
        from quickstudy.nn.models import Chain

        assert family.embedding is not None
        embed, ways = family.embedding(family.key(1)), family.outputs
        labels = {"classes": None, "dims": ways} if family.classes is None else {"classes": ways}
        feedback = LabelFeedback(**labels, scale=self.label_scale)
        learner = Attention(
            Chain([embed, eqx.nn.LayerNorm(embed.features)]), embed.features,
            Prediction(self.width, ways, key=family.key(3)), feedback,
            key=family.key(2), capacity=family.shots * (1 if family.classes is None else ways), width=self.width,
            blocks=self.blocks,
            attention_heads=self.heads, causal=self.causal, likeness=self.likeness,
        )  # fmt: skip
        return composed(family, training, self.outer, learner)


@dataclasses.dataclass(frozen=True)
class MetaNetworks(MethodConfig):
    compressed: Annotated[int, AtLeast(1, SIZES), "features that the dense layers see"] = 64
    fast_size: Annotated[int, AtLeast(1, SIZES), "width of the dense layers, which have fast weights"] = 32
    units: Annotated[int, AtLeast(1, SIZES), "units of the networks that write fast weights, 20 in the paper"] = 20
    sharpness: Sharpness = 10.0
    outer: Gradient | Evolution = Gradient()

    title, meets = "Meta Networks", "few-shot"
    needs = ("classes",)
    source = "Munkhdalai, Yu 2017, Meta Networks, ICML"
    # Harder tasks in training than those of the test: a few images teach the convolutions more.
    suggests = {"meta_batch": 1, "queries": 5, "training_ways": 20}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.learners.metric.meta_networks import Compressed, MetaNetworks
        from quickstudy.nn.layers import Linear

        assert family.embedding is not None
        trunk, ways = family.embedding(family.key(1)), family.outputs
        embed = Compressed(trunk, Linear(trunk.features, self.compressed, key=family.key(9)))
        learner = MetaNetworks(
            embed, self.compressed, ways, key=family.key(4), capacity=ways * family.shots, loss=family.loss,
            width=self.fast_size, units=self.units, sharpness=self.sharpness,
        )  # fmt: skip
        return composed(family, training, self.outer, learner)
