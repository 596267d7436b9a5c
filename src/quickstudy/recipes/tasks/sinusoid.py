"""Regression of sine waves from a few points (Finn et al. 2017, section 5.1).

The paper's protocol: 5 or 10 shots, an MLP of 40-40 ReLUs, one inner step of rate 0.01, meta-batch 25, Adam 1e-3,
70,000 meta-steps; tested after 1, 5 and 10 steps. Query MSE at 5 shots: MAML 0.67 / 0.38 / 0.35, pre-training on
all tasks and fine-tuning 2.41 / 2.23 / 2.19.

Trained with one step, nothing keeps further ones from overshooting: in one task of some thousands, most of whose points
lie on one side, the error grows from step to step, to 10² and more, and the mean with it. So the entries of an inner
gradient are cut at a size that one first step in ten reaches; the paper cuts none (`--inner-clip 0`).
"""

import dataclasses
from typing import Annotated, Any

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast
from quickstudy.recipes.problem import LabelledFamily, Meets, Problem, TasksConfig, keys


@dataclasses.dataclass(frozen=True)
class Points:
    """Of a few-shot task."""

    shots: Annotated[int, AtLeast(1), "labelled points of a task"] = 5
    queries: Annotated[int, AtLeast(1), "query points of a task"] = 5
    scratch_rate: Annotated[float, Above(0), "step size of the baseline that learns each task from scratch"] = 0.003


@dataclasses.dataclass(frozen=True)
class Length:
    """Of a stream."""

    length: Annotated[int, AtLeast(2), "points of a stream"] = 20


@dataclasses.dataclass(frozen=True)
class Sinusoid(TasksConfig):
    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the network's two hidden layers"] = 40
    points: Points | None = Points()
    stream: Length | None = Length()

    title = "sine waves"
    meets = "few-shot", "stream"
    only = {"points": ("few-shot",), "stream": ("stream",)}
    suggests = {
        "few-shot": {
            "meta_batch": 25, "cores": 1, "inner_rate": 0.01, "inner_clip": 30.0, "test_steps": (0, 1, 5, 10),
            "final_rate": 1.0, "clip_norm": 0.0, "meta_steps": 70_000,
        },
        "stream": {"meta_batch": 32, "meta_steps": 6000, "units": 64},
    }  # fmt: skip

    def problem(self, meets: Meets) -> Problem:
        return Problem(meets=meets)

    def build(self, meets: Meets, seed: int) -> LabelledFamily:
        import jax

        from quickstudy.baselines.sinusoid_posterior import SinusoidPosterior
        from quickstudy.nn.models import MLP, Contextual, Predictor
        from quickstudy.report.traces import sinusoid
        from quickstudy.tasks.sinusoid import Sinusoids, SinusoidStreams

        wide = self.hidden_size, self.hidden_size
        key = keys(seed)
        first, second = jax.random.split(key(1))
        net = lambda outputs, key=first: MLP((1, *wide, outputs), key=key)
        few = self.points or Points()

        def contextual(size: int) -> Any:
            return Contextual(MLP((1 + size, *wide, 1), key=jax.random.key(seed)), jax.numpy.zeros(size))

        return LabelledFamily(
            tasks=Sinusoids(few.shots, few.queries) if self.stream is None else SinusoidStreams(self.stream.length),
            objective=qs.FewShot() if meets == "few-shot" else qs.Online(),
            loss=qs.FewShot().of_loss,
            outputs=1,
            shots=few.shots,
            key=key,
            net=net,
            contextual=contextual,
            embedding=lambda key: MLP((1, *wide), key=key),
            baselines=lambda: {
                "from scratch": qs.Gradient(Predictor(net(1, second)), qs.Supervised(), qs.SGD(few.scratch_rate)),
                "Bayes posterior": SinusoidPosterior(),
            },
            draw=sinusoid if meets == "few-shot" else None,
        )
