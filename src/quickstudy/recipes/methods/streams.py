"""Learners that remember a labelled stream: an LSTM, and an external memory.

In the paper (Santoro et al. 2016) a label comes one step late, with the next image: the network has to hold an image in
mind until it hears its name. Here it sees an image beside no label to name it, and again beside its label to remember
it: the same predictions are asked for with the same knowledge, and the key of a memory is the same both times from the
start. `--late` is the paper's way.
"""

import dataclasses
from typing import Annotated, Any

import quickstudy as qs
from quickstudy.config import SIZES, AtLeast, Between, Training
from quickstudy.recipes.methods.labelled import composed
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, LabelledFamily, MethodConfig

SANTORO = "Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, Meta-Learning with Memory-Augmented Neural Networks"
Units = Annotated[int, AtLeast(1, SIZES), "hidden size of the LSTM (200 in the paper)"]
Late = Annotated[bool, "labels come with the next example, as in the paper, and not beside their own"]


def _recurrent(family: LabelledFamily, late: bool, cell: Any) -> Any:
    """`cell`: (inputs, classes) -> the cell and how many features it shows."""
    import equinox as eqx

    from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction
    from quickstudy.nn.models import Chain

    if family.embedding is None:
        assert family.raw is not None
        encode, inputs = family.raw
    else:
        network = family.embedding(family.key(1))
        inputs = network.features
        encode = Chain([network, eqx.nn.LayerNorm(inputs)])  # else all images look much alike to a cosine
    feedback = LabelFeedback(None, family.outputs) if family.classes is None else LabelFeedback(family.classes)
    cell, features = cell(inputs + feedback.size, feedback.size)
    return qs.Recurrent(cell, Prediction(features, family.outputs, key=family.key(2)), feedback, encode, late)


@dataclasses.dataclass(frozen=True)
class MANN(MethodConfig):
    units: Units = 128
    slots: Annotated[int, AtLeast(1, SIZES), "slots of the memory (128 in the paper)"] = 64
    slot_size: Annotated[int, AtLeast(1, SIZES), "numbers in a slot of the memory"] = 40
    heads: Annotated[int, AtLeast(1, 1000), "reads from the memory, and writes, a step (4 in the paper)"] = 2
    usage_decay: Annotated[float, Between(0, 0.999999), "decay of the memory's usage weights (γ)"] = 0.99
    late: Late = False
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "a memory-augmented network (MANN)", SANTORO, "stream"

    def errors(self) -> list[str]:
        return [f"heads must be at most slots={self.slots}, got {self.heads}"] if self.heads > self.slots else []

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.learners.memory.mann import LRUAMemory

        def cell(inputs: int, feedback: int) -> tuple[Any, int]:
            made = LRUAMemory(
                inputs, self.units, key=family.key(3), slots=self.slots, width=self.slot_size, heads=self.heads,
                decay=self.usage_decay,
            )  # fmt: skip
            return made, made.size

        return composed(family, training, self.outer, _recurrent(family, self.late, cell))


@dataclasses.dataclass(frozen=True)
class LSTM(MethodConfig):
    units: Units = 128
    late: Late = False
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "an LSTM", SANTORO, "stream"

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.nn.cells import LSTM

        # With its label one step late an image is gone when it would have to be bound to it.
        labels = lambda size: 0 if self.late else size
        cell = lambda inputs, feedback: (
            LSTM(inputs, self.units, key=family.key(3), labels=labels(feedback)),
            self.units,
        )
        return composed(family, training, self.outer, _recurrent(family, self.late, cell))
