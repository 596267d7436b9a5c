"""Few-shot characters (Omniglot) by Meta Networks, and by MAML's steps from a start that a memory of tasks chooses.

The paper's protocol (Munkhdalai and Yu 2017): 1,200 training characters with right-angle turns as classes of their own.
Here the convolutions are slow, shared by representation and base learner; see learners/meta_networks.py.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.recipes.omniglot import Omniglot, OmniglotGradient
from quickstudy.recipes.sinusoid import FINN

if TYPE_CHECKING:
    from quickstudy.core import Learner

VUORIO = "Vuorio, Sun, Hu, Lim 2019, Multimodal Model-Agnostic Meta-Learning via Task-Aware Modulation, NeurIPS"


@dataclasses.dataclass(frozen=True)
class OmniglotMetaNetworks(Omniglot):
    meta_steps: int = 16_000
    meta_batch: int = 1
    shift: float = 2.0
    warp: float = 0.15
    queries: int = 5
    training_ways: int = 20  # harder tasks than those of the test, of which a few images teach the convolutions more
    learning_rate: float = 2e-3
    compressed: int = 64  # features that the dense layers see
    width: int = 32  # of the dense layers, which have fast weights
    units: int = 20  # of the networks that write fast weights, the paper's figure
    sharpness: float = 10.0  # of the attention, where it starts; the paper has 1, not learned

    name = "omniglot-meta-networks"
    description = "Meta Networks on Omniglot: fast weights written from gradients, one set an example"
    expected = "accuracy 97.2 % at 5-way 1-shot (98.95 % in the paper)"
    source = "Munkhdalai, Yu 2017, Meta Networks, ICML"

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "compressed", "width", "units")
        return wrong + self.must("be above 0", lambda x: x > 0, "sharpness")

    def learner(self) -> "Learner":
        from quickstudy.learners.metric.meta_networks import Compressed, MetaNetworks
        from quickstudy.nn.layers import Linear
        from quickstudy.nn.measures import cross_entropy

        trunk, ways = self.embedding(), max(self.ways, self.training_ways)
        embed = Compressed(trunk, Linear(trunk.features, self.compressed, key=self.key(9)))
        return MetaNetworks(
            embed, self.compressed, ways, key=self.key(4), capacity=ways * self.shots, loss=cross_entropy,
            width=self.width, units=self.units, sharpness=self.sharpness,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OmniglotTaskMemory(OmniglotGradient):
    learning_rate: float = 1e-3
    normalise: Literal["support", "layer", "group", "transductive", "none"] = "layer"
    slots: int = 8  # of the memory of past tasks
    width: int = 64  # of the first of two fast layers
    task_features: int = 32  # of a task's feature and the slots' keys
    sharpness: float = 5.0  # of the selection, where it starts

    name = "omniglot-task-memory"
    description = "MAML's steps on dense layers whose start a memory of past tasks corrects"
    expected = "no paper has it; its own long run is the figure to expect"
    source = FINN

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "slots", "width", "task_features")
        return wrong + self.must("be above 0", lambda x: x > 0, "sharpness")

    def learner(self) -> "Learner":
        from quickstudy.learners.gradient.inner_losses import Supervised
        from quickstudy.learners.gradient.maml import Gradient
        from quickstudy.learners.gradient.task_memory import OfInputs, empty_memory
        from quickstudy.learners.gradient.updates import SGD
        from quickstudy.nn.images import Conv4
        from quickstudy.nn.layers import Linear
        from quickstudy.nn.measures import cross_entropy
        from quickstudy.nn.models import MLP, Chain, Predictor, head
        from quickstudy.tasks.omniglot import SIZE

        trunk = self.embedding()
        start = Predictor(Chain([trunk, MLP((trunk.features, self.width, self.ways), key=self.key(2))]))
        within = Gradient(start, Supervised(cross_entropy), SGD(self.inner_rate), steps=self.inner_steps, fast=head)
        # A network of its own tells the tasks apart: it sees the support set alone, and half the filters will do.
        small = Conv4(SIZE, key=self.key(5), filters=self.filters // 2, pool=self.pool, normalise=self.normalise)
        embed = OfInputs(Chain([small, Linear(small.features, self.task_features, key=self.key(6))]))
        return empty_memory(
            within, embed, self.task_features, key=self.key(7), slots=self.slots, sharpness=self.sharpness
        )

    def parts(self) -> dict[str, Any]:
        return {**super().parts(), "citations": (VUORIO,)}
