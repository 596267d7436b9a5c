"""Few-shot characters (Omniglot) by every family of few-shot learning.

The papers' protocols. MAML (Finn et al. 2017): 1,200 training characters with right-angle turns as classes of their
own, strided conv-4 of 64 filters, meta-batch 32, inner rate 0.4, one inner step in training and three in testing, batch
statistics. Matching and Prototypical Networks: Vinyals' split, max-pooled conv-4, 60-way training for the latter.
Here every method stands on the same tasks and the same network unless its recipe says otherwise, and normalises
honestly (by the support set where there are gradient steps, by each image elsewhere) unless "transductive" is wanted.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.recipes.few_shot import FewShotRecipe, GradientMethod, MatchingMethod, ProtoMethod
from quickstudy.recipes.sinusoid import FINN

if TYPE_CHECKING:
    from quickstudy.core import Learner, TaskDistribution
    from quickstudy.evaluate.config import Trace
    from quickstudy.nn.images import Conv4

LAKE = "Lake, Salakhutdinov, Tenenbaum 2015, Human-level concept learning through probabilistic program induction"
SNELL = "Snell, Swersky, Zemel 2017, Prototypical Networks for Few-shot Learning, NeurIPS"
VINYALS = "Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, Matching Networks for One Shot Learning"


@dataclasses.dataclass(frozen=True)
class Omniglot(FewShotRecipe):
    split: Literal["maml", "vinyals"] = "maml"  # by whose protocol characters are held out
    rendering: Literal["area", "nearest"] = "area"  # how the drawings were made small
    turns: int = 4  # 4: training characters turned by right angles are classes of their own; 1: they are not
    test_turns: int = 1  # the same in validation and tests: 4 as in the papers, 1 is harder
    shift: float = 0.0  # pixels by which training images are moved each way, at most
    warp: float = 0.0  # and by how much they are turned, scaled and sheared: 0.15 is about 9 degrees
    normalise: Literal["support", "layer", "group", "transductive", "none"] = "layer"
    pool: bool = False  # max-pooling instead of strides
    filters: int = 64  # of each convolution

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 1", lambda x: x >= 1, "filters")

    def tasks(self) -> "TaskDistribution":
        return self.characters(queries=self.queries, training_ways=self.training_ways or None)

    def characters(self, **arranged: Any) -> "TaskDistribution":
        """Tasks of the recipe's characters, `arranged` as `tasks.omniglot` has it."""
        from quickstudy.tasks.omniglot import omniglot

        return omniglot(
            ways=self.ways, shots=self.shots, split=self.split, rendering=self.rendering, turns=self.turns,
            test_turns=self.test_turns, shift=self.shift, warp=self.warp, data=self.data or None, **arranged,
        )  # fmt: skip

    def embedding(self) -> "Conv4":
        from quickstudy.nn.images import Conv4
        from quickstudy.tasks.omniglot import SIZE

        return Conv4(SIZE, key=self.key(1), filters=self.filters, pool=self.pool, normalise=self.normalise)

    def baselines(self) -> "dict[str, Learner]":
        import jax.numpy as jnp

        from quickstudy.learners.metric.prototypical import Prototypical
        from quickstudy.tasks.omniglot import SIZE

        pixels = lambda image: image.reshape(-1).astype(jnp.float32)
        return {"nearest centroid of pixels": Prototypical(pixels, SIZE[0] * SIZE[1], self.ways)}

    def bytes_of_example(self) -> int:
        from quickstudy.tasks.omniglot import SIZE

        return 24 * SIZE[0] * SIZE[1] * self.filters

    def note(self) -> str:
        return "transductive: a query is told of the other queries" if self.normalise == "transductive" else ""

    def draw(self) -> "Trace":
        from quickstudy.report.traces import images

        return images

    def about_data(self) -> tuple[str, ...]:
        return (LAKE,)


@dataclasses.dataclass(frozen=True)
class OmniglotGradient(GradientMethod, Omniglot):
    """Any member of the gradient family on Omniglot. Two cores have an hour where the papers had 60,000 meta-steps of
    32 tasks with 15 queries, so meta-steps here are smaller and their rate is larger."""

    queries: int = 5
    learning_rate: float = 2e-3
    normalise: Literal["support", "layer", "group", "transductive", "none"] = "support"


@dataclasses.dataclass(frozen=True)
class OmniglotMAML(OmniglotGradient):
    meta_steps: int = 14_000

    name = "omniglot-maml"
    description = "MAML on Omniglot, 5-way 1-shot, conv-4"
    expected = "accuracy 98.7 ± 0.4 % in the paper, with --normalise transductive and 60,000 meta-steps of 32 tasks"
    source = FINN


@dataclasses.dataclass(frozen=True)
class OmniglotFOMAML(OmniglotGradient):
    meta_steps: int = 9000
    inner_rate: float = 0.1
    # of adaptation: after a single one the query's gradient says little of what the start is to become
    inner_steps: int = 4
    test_steps: int = 4

    name = "omniglot-fomaml"
    description = "first-order MAML on Omniglot"
    expected = "accuracy 98.3 ± 0.5 % in the paper, transductive"
    source = FINN

    def choices(self, start: Any) -> dict[str, Any]:
        from quickstudy.learners.gradient.adjoints import FirstOrder

        return {"adjoint": FirstOrder()}


@dataclasses.dataclass(frozen=True)
class OmniglotIMAML(OmniglotGradient):
    inner_steps: int = 8
    inner_rate: float = 0.1
    test_steps: int = 8
    strength: float = 0.5  # λ, how strongly adapted weights are held to the start
    solver_steps: int = 4  # of conjugate gradients

    name = "omniglot-imaml"
    description = "implicit MAML on Omniglot"
    expected = (
        "95.0 % after 4,000 meta-steps with --normalise transductive --shift 2 --warp 0.15, 96.0 after 12,000; 99.16 ± "
        "0.35 % in the paper"
    )
    source = "Rajeswaran, Finn, Kakade, Levine 2019, Meta-Learning with Implicit Gradients, NeurIPS"

    def choices(self, start: Any) -> dict[str, Any]:
        from quickstudy.learners.gradient.adjoints import Implicit

        return {"adjoint": Implicit(self.strength, self.solver_steps)}


@dataclasses.dataclass(frozen=True)
class OmniglotANIL(OmniglotGradient):
    name = "omniglot-anil"
    description = "ANIL on Omniglot: only the last layer adapts"
    expected = "the paper has 20-way alone: 96.2 ± 0.5 % at 1 shot"
    source = "Raghu, Raghu, Bengio, Vinyals 2020, Rapid Learning or Feature Reuse?, ICLR"

    def choices(self, start: Any) -> dict[str, Any]:
        from quickstudy.nn.models import head

        return {"fast": head}


@dataclasses.dataclass(frozen=True)
class OmniglotCAVIA(OmniglotGradient):
    inner_rate: float = 1.0
    inner_steps: int = 2
    test_steps: int = 2
    context: int = 100  # numbers in the context

    name = "omniglot-cavia"
    description = "CAVIA on Omniglot: only a context adapts, which scales and shifts the third block's channels"
    expected = "the paper has mini-ImageNet alone (about 50 % at 5-way 1-shot)"
    source = "Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, Fast Context Adaptation via Meta-Learning, ICML"

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 1", lambda x: x >= 1, "context")

    def choices(self, start: Any) -> dict[str, Any]:
        from quickstudy.nn.images import Modulated
        from quickstudy.nn.models import context

        return {"start": Modulated(self.embedding(), self.ways, self.context, key=self.key(2)), "fast": context}


@dataclasses.dataclass(frozen=True)
class OmniglotMetaSGD(OmniglotGradient):
    test_steps: int = 1

    name = "omniglot-meta-sgd"
    description = "Meta-SGD on Omniglot: a learned rate for every weight"
    expected = "accuracy 99.53 ± 0.26 % in the paper"
    source = "Li, Zhou, Chen, Li 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning"

    def choices(self, start: Any) -> dict[str, Any]:
        from quickstudy.learners.gradient.updates import per_weight

        return {"update": per_weight(start, self.inner_rate)}


@dataclasses.dataclass(frozen=True)
class OmniglotReptile(OmniglotGradient):
    meta_steps: int = 40_000
    meta_batch: int = 5
    queries: int = 9  # with one shot ten examples of a class, all of which Reptile adapts on while training
    inner_rate: float = 0.2
    inner_steps: int = 5
    inner_batch: int = 10  # examples a step sees; it is steps on different ones that teach to generalise
    test_steps: int = 50
    learning_rate: float = 1.0  # how far the start moves towards where adaptation ended
    final_rate: float = 0.0

    name = "omniglot-reptile"
    description = "Reptile on Omniglot: the same learner under the Reptile objective, minibatches inside"
    expected = "transductive 92.2 % here, with images warped 93.8; the paper 97.68 after 100,000 meta-steps"
    source = "Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms"

    def errors(self) -> list[str]:
        return super().errors() + self.must("be at least 1", lambda x: x >= 1, "inner_batch")

    def choices(self, start: Any) -> dict[str, Any]:
        return {"batch": self.inner_batch}

    def parts(self) -> dict[str, Any]:
        import optax

        from quickstudy.objectives.reptile import Reptile

        fall = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, self.meta_steps)
        return {**super().parts(), "objective": Reptile(self.judge()), "optimizer": optax.sgd(fall)}


@dataclasses.dataclass(frozen=True)
class OmniglotMetaLSTM(OmniglotGradient):
    meta_steps: int = 4000
    meta_batch: int = 4
    queries: int = 5
    filters: int = 32
    inner_steps: int = 5
    test_steps: int = 5
    inner_rate: float = 0.05  # about what the learned input gate says at first
    retain: float = 0.999  # about what the learned forget gate says at first
    hidden: int = 16  # size of the LSTM that looks at gradients

    def errors(self) -> list[str]:
        wrong = super().errors() + self.must("be at least 1", lambda x: x >= 1, "hidden")
        return wrong + self.must("lie between 0 and 1", lambda x: 0 < x < 1, "inner_rate", "retain")

    name = "omniglot-meta-lstm"
    description = "Meta-LSTM on Omniglot: an LSTM over gradient and loss is the update, the start its cell state"
    expected = "the paper has mini-ImageNet alone (43.44 % at 5-way 1-shot)"
    source = "Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning, ICLR"

    def choices(self, start: Any) -> dict[str, Any]:
        from quickstudy.learners.gradient.adjoints import FirstOrder
        from quickstudy.learners.gradient.learned_updates import MetaLSTM

        update = MetaLSTM(self.hidden, key=self.key(3), rate=self.inner_rate, keep=self.retain)
        return {"update": update, "adjoint": FirstOrder()}


@dataclasses.dataclass(frozen=True)
class OmniglotProto(ProtoMethod, Omniglot):
    meta_steps: int = 9000
    learning_rate: float = 3e-3
    split: Literal["maml", "vinyals"] = "vinyals"
    pool: bool = True
    shift: float = 2.0
    warp: float = 0.15

    name = "omniglot-proto"
    description = "prototypical networks on Omniglot, trained 60-way"
    expected = "accuracy 98.8 % at 5-way 1-shot, 96.0 % at 20-way 1-shot in the paper"
    source = SNELL


@dataclasses.dataclass(frozen=True)
class OmniglotMatching(MatchingMethod, Omniglot):
    meta_steps: int = 9000
    meta_batch: int = 1
    learning_rate: float = 3e-3
    split: Literal["maml", "vinyals"] = "vinyals"
    pool: bool = True
    shift: float = 2.0
    warp: float = 0.15

    name = "omniglot-matching"
    description = "Matching Networks on Omniglot: cosine attention over the support set"
    expected = "accuracy 98.1 % at 5-way 1-shot, 93.8 % at 20-way 1-shot in the paper"
    source = VINYALS
