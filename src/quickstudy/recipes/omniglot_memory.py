"""Few-shot characters by learners that remember what they were told: streams of labelled images, and attention.

The protocol of Santoro et al. 2016: an episode is a stream of 50 images, ten of each of five characters in random
order, with labels that are drawn anew for every episode. Each image is to be named before its label is shown, and the
score is the accuracy at the 1st, 2nd, ..., 10th appearance of a character. At the 1st it can be a guess
at best (and better than one in five, by leaving out the labels that are already taken).

In the paper a label comes one step late, with the next image: the network has to hold an image in mind until it hears
its name. Here it sees an image beside no label to name it, and again beside its label to remember it: the same
predictions are asked for with the same knowledge, and the key of a memory is the same both times from the start.
`--late` is the paper's way.

The paper fed the networks raw pixels (20×20), and needed 100,000 episodes and more. Here a strided conv-4 with layer
normalisation, trained along, sees the image first: `encoder="pixels"` is the paper's way.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

from quickstudy.recipes.omniglot import Omniglot

if TYPE_CHECKING:
    from quickstudy.core import Learner, Objective, TaskDistribution
    from quickstudy.nn.cells import Cell

SANTORO = "Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, Meta-Learning with Memory-Augmented Neural Networks"
MISHRA = "Mishra, Rohaninejad, Chen, Abbeel 2018, A Simple Neural Attentive Meta-Learner, ICLR"


@dataclasses.dataclass(frozen=True)
class OmniglotStream(Omniglot):
    meta_steps: int = 6000
    shots: int = 10  # appearances of each class in the stream
    filters: int = 32
    encoder: Literal["conv4", "pixels"] = "conv4"  # of images: a convolutional net, trained along, or none
    units: int = 128  # of the LSTM (200 in the paper)
    learning_rate: float = 2e-3
    late: bool = False  # labels come with the next image, as in the paper, and not beside their own

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "units")
        if self.normalise in ("transductive", "support"):
            wrong.append(
                f"normalise={self.normalise!r} would tell a stream of its future images; use layer, group or none"
            )
        if self.training_ways not in (0, self.ways):
            wrong.append(
                f"training_ways must be 0 here, got {self.training_ways}: a network has as many inputs for the label "
                "as there are classes"
            )
        return wrong

    def cell(self, inputs: int) -> tuple["Cell", int]:
        """The recurrent cell, and how many features it shows."""
        raise NotImplementedError

    def learner(self) -> "Learner":
        import equinox as eqx
        import jax.numpy as jnp

        from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction, Recurrent
        from quickstudy.nn.models import Chain
        from quickstudy.tasks.omniglot import SIZE

        encode, inputs = lambda image: image.reshape(-1).astype(jnp.float32), SIZE[0] * SIZE[1]
        if self.encoder == "conv4":
            network = self.embedding()
            inputs = network.features
            encode = Chain([network, eqx.nn.LayerNorm(inputs)])  # else all images look much alike to a cosine
        cell, features = self.cell(inputs + self.ways)
        heads = Prediction(features, self.ways, key=self.key(2))
        return Recurrent(cell, heads, LabelFeedback(self.ways), encode, self.late)

    def tasks(self) -> "TaskDistribution":
        return self.characters(stream=True)

    def baselines(self) -> "dict[str, Learner]":
        return {}

    def draw(self) -> None:
        return None

    def judge(self) -> "Objective":
        from quickstudy.nn.measures import accuracy, cross_entropy
        from quickstudy.objectives.online import Online

        return Online(cross_entropy, accuracy, "accuracy", lower_is_better=False, instances=self.shots)


@dataclasses.dataclass(frozen=True)
class OmniglotMANN(OmniglotStream):
    slots: int = 64  # of the memory (128 in the paper; a stream has 50 images)
    width: int = 40  # of a slot
    heads: int = 2  # reads, and writes, a step (4 in the paper)
    usage_decay: float = 0.99  # γ of the memory's usage weights

    name = "omniglot-mann"
    description = "MANN on streams of Omniglot characters: an external memory written where least is used"
    expected = "accuracy 36.4 / 82.8 / 91.0 / 94.9 / 98.1 % at the 1st / 2nd / 3rd / 5th / 10th instance in the paper"
    source = SANTORO

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "slots", "width", "heads")
        wrong += self.must(f"be at most slots={self.slots}", lambda x: x <= self.slots, "heads")
        wrong += self.must("lie in [0, 1)", lambda x: 0 <= x < 1, "usage_decay")
        return wrong

    def cell(self, inputs: int) -> tuple["Cell", int]:
        from quickstudy.learners.memory.mann import LRUAMemory

        cell = LRUAMemory(
            inputs, self.units, key=self.key(3),
            slots=self.slots, width=self.width, heads=self.heads, decay=self.usage_decay,
        )  # fmt: skip
        return cell, cell.size


@dataclasses.dataclass(frozen=True)
class OmniglotLSTM(OmniglotStream):
    name = "omniglot-lstm"
    description = "an LSTM on the same streams: all it remembers is its state"
    expected = (
        "accuracy 29 / 84 / 90 / 92 / 92 % at the 1st / 2nd / 3rd / 5th / 10th instance (--meta-steps 3000); "
        "24.4 / 49.5 / 55.3 / 63.6 / 62.5 % in the paper"
    )
    source = SANTORO

    def cell(self, inputs: int) -> tuple["Cell", int]:
        from quickstudy.nn.cells import LSTM

        # With its label one step late an image is gone when it would have to be bound to it.
        return LSTM(inputs, self.units, key=self.key(3), labels=0 if self.late else self.ways), self.units


@dataclasses.dataclass(frozen=True)
class OmniglotSNAIL(Omniglot):
    queries: int = 5
    width: int = 64  # of the tokens
    blocks: int = 2  # of attention
    heads: int = 4  # of each block
    causal: bool = False  # examples attend to those before them, as in the paper; their order matters then
    # Without these two the loss stood at chance for 1,200 meta-steps; docs/learners/few_shot.md has the figures.
    likeness: float = 3.0  # how sharply a query asks for what is like itself, where training starts
    label_scale: float = 3.0  # of a label beside the features of its image

    name = "omniglot-snail"
    description = "attention over the labelled examples, after SNAIL: no convolution over time, no order"
    expected = "accuracy 99.07 ± 0.16 % at 5-way 1-shot, 99.78 ± 0.09 % at 5 shots in the paper"
    source = MISHRA

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "width", "blocks", "heads")
        wrong += self.must("not be negative", lambda x: x >= 0, "likeness")
        wrong += self.must("be above 0", lambda x: x > 0, "label_scale")
        if self.heads >= 1 and self.width % self.heads:
            wrong.append(f"heads={self.heads} must divide width={self.width}")
        return wrong

    def learner(self) -> "Learner":
        import equinox as eqx

        from quickstudy.learners.memory.attention import Attention
        from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction
        from quickstudy.nn.models import Chain

        embed = self.embedding()
        ways = max(self.ways, self.training_ways)
        return Attention(
            Chain([embed, eqx.nn.LayerNorm(embed.features)]), embed.features,
            Prediction(self.width, ways, key=self.key(3)), LabelFeedback(ways, scale=self.label_scale),
            key=self.key(2), capacity=ways * self.shots, width=self.width, blocks=self.blocks,
            attention_heads=self.heads, causal=self.causal, likeness=self.likeness,
        )  # fmt: skip
