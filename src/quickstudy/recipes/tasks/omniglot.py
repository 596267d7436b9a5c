"""Few-shot characters (Omniglot).

The papers' protocols. MAML (Finn et al. 2017): 1,200 training characters with right-angle turns as classes of their
own, strided conv-4 of 64 filters, meta-batch 32, inner rate 0.4, one inner step in training and three in testing, batch
statistics. Matching and Prototypical Networks: Vinyals' split, max-pooled conv-4, 60-way training for the latter.
Here every method stands on the same tasks and the same network unless its card says otherwise, and normalises
honestly (by the support set where there are gradient steps, by each image elsewhere) unless "transductive" is wanted.

Streams (Santoro et al. 2016): an episode is a stream of 50 images, ten of each of five characters in random order, with
labels that are drawn anew for every episode. Each image is to be named before its label is shown, and the score is the
accuracy at the 1st, 2nd, ..., 10th appearance of a character. At the 1st it can be a guess at best (and better than one
in five, by leaving out the labels that are already taken). The paper fed the networks raw pixels (20×20), and needed
100,000 episodes and more; here a strided conv-4, trained along, sees the image first (`--encoder pixels`: none).
"""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, AtLeast, Between
from quickstudy.recipes.problem import LabelledFamily, Meets, Problem, TasksConfig
from quickstudy.recipes.tasks.classes import FewShot, Stream, judged, of_classes, training_ways

LAKE = "Lake, Salakhutdinov, Tenenbaum 2015, Human-level concept learning through probabilistic program induction"


@dataclasses.dataclass(frozen=True)
class Omniglot(TasksConfig):
    ways: Annotated[int, AtLeast(2), "classes of a task"] = 5
    few_shot: FewShot | None = FewShot()
    stream: Stream | None = Stream()
    split: Annotated[Literal["maml", "vinyals"], "paper whose protocol says which characters are held out"] = "maml"
    rendering: Annotated[Literal["area", "nearest"], "how the drawings were made small"] = "area"
    turns: Annotated[Literal[4, 1], "4: training characters turned by right angles are classes of their own"] = 4
    test_turns: Annotated[Literal[4, 1], "the same in validation and tests: 4 as in the papers, 1 is harder"] = 1
    shift: Annotated[float, Between(0, 13.9), "pixels by which training images are moved each way, at most"] = 0.0
    warp: Annotated[
        float, Between(0, 0.49), "how far training images are turned, scaled and sheared (0.15: about 9 degrees)"
    ] = 0.0
    normalise: Annotated[
        Literal["support", "layer", "group", "transductive", "none"],
        "whose statistics normalise features; transductive: the queries' too, which must be asked for",
    ] = "layer"
    pool: Annotated[bool, "halve images by max-pooling instead of strides"] = False
    filters: Annotated[int, AtLeast(2, SIZES), "filters of each convolution"] = 64
    data: Annotated[str, "folder with the data (default: $QUICKSTUDY_DATA)"] = ""

    title = "Omniglot's characters"
    meets = "few-shot", "stream"
    only = {"few_shot": ("few-shot",), "stream": ("stream",)}
    suggests = {
        "few-shot": {"meta_steps": 6000, "meta_batch": 16},
        "stream": {"meta_steps": 6000, "meta_batch": 16, "learning_rate": 2e-3, "filters": 32},
    }

    def errors(self) -> list[str]:
        if self.stream and self.normalise in ("transductive", "support"):
            return [f"normalise={self.normalise!r} would let a stream see its future images; use layer, group or none"]
        return []

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets, classes=self.ways, training_classes=training_ways(self.ways, self.few_shot))

    def build(self, meets: Meets, seed: int) -> LabelledFamily:
        import jax.numpy as jnp

        from quickstudy.nn.images import Conv4, Modulated
        from quickstudy.report.traces import images
        from quickstudy.tasks.omniglot import SIZE, omniglot

        few, stream = self.few_shot, self.stream
        tasks = omniglot(
            ways=self.ways, split=self.split, rendering=self.rendering, turns=self.turns, test_turns=self.test_turns,
            shift=self.shift, warp=self.warp, data=self.data or None, **judged(few, stream),
        )  # fmt: skip

        def embedding(key: Any, shrink: int = 1) -> Any:
            filters = self.filters // shrink
            return Conv4(SIZE, key=key, filters=filters, pool=self.pool, normalise=self.normalise)

        pixels = lambda image: image.reshape(-1).astype(jnp.float32)
        flat = SIZE[0] * SIZE[1]
        family = of_classes(
            tasks, self.ways, seed, few=few, stream=stream,
            embedding=embedding,
            raw=(pixels, flat),
            example_bytes=24 * flat * self.filters,
            baselines=lambda: {"nearest centroid of pixels": qs.Prototypical(pixels, flat, self.ways)},
        )  # fmt: skip
        return dataclasses.replace(
            family,
            contextual=lambda size: Modulated(embedding(family.key(1)), self.ways, size, key=family.key(2)),
            draw=images if few else None,
            note="transductive: a query is informed by the other queries" if self.normalise == "transductive" else "",
            citations=(LAKE,),
        )
