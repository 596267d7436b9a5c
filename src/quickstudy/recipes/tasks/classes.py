"""What families of labelled classes share: how many examples a task has, and how it is judged."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import AtLeast
from quickstudy.recipes.problem import LabelledFamily, keys


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Of a task with a support and a query set."""

    shots: Annotated[int, AtLeast(1), "labelled examples of each class"] = 1
    queries: Annotated[int, AtLeast(1), "query examples of each class, in training and in testing"] = 15
    training_ways: Annotated[
        int, AtLeast(0), "classes of a training task, where that is another number (0: the same)"
    ] = 0

    def errors(self) -> list[str]:
        return ["training_ways must be 0 or at least 2, got 1"] if self.training_ways == 1 else []


@dataclasses.dataclass(frozen=True)
class Stream:
    """Of a labelled stream."""

    appearances: Annotated[int, AtLeast(1), "times that each class appears in a stream"] = 10
    encoder: Annotated[
        Literal["network", "pixels"], "what sees an example first: the family's network, trained along, or nothing"
    ] = "network"


def training_ways(ways: int, few: FewShot | None) -> int:
    """Classes of a training task."""
    return (few.training_ways if few else 0) or ways


def judged(few: FewShot | None, stream: Stream | None) -> dict[str, Any]:
    """How the tasks are drawn."""
    if few is None:
        return {"shots": (stream or Stream()).appearances, "stream": True}
    return {"shots": few.shots, "queries": few.queries, "training_ways": few.training_ways or None}


def of_classes(
    tasks: Any,
    ways: int,
    seed: int,
    *,
    few: FewShot | None = None,
    stream: Stream | None = None,
    embedding: Callable[..., Any],
    raw: tuple[Callable, int] | None = None,
    example_bytes: int = 0,
    baselines: Callable[[], dict[str, Any]] = dict,
) -> LabelledFamily:
    """Tasks of `few` examples of each class, or a `stream`. The others are as in `LabelledFamily`; an example takes
    about `example_bytes` while it is differentiated through."""
    import jax

    from quickstudy.nn.layers import Linear
    from quickstudy.nn.measures import accuracy, cross_entropy
    from quickstudy.nn.models import Chain

    measures = {"of_loss": cross_entropy, "of_score": accuracy, "metric": "accuracy", "lower_is_better": False}
    key = keys(seed)
    of_task = few or FewShot(shots=(stream or Stream()).appearances, queries=0)
    most = max(ways, of_task.training_ways)

    def net(outputs: int, at: Any = None) -> Any:
        first, second = (key(1), key(2)) if at is None else jax.random.split(at)
        embed = embedding(first)
        return Chain([embed, Linear(embed.features, outputs, key=second)])

    return LabelledFamily(
        tasks=tasks,
        objective=qs.FewShot(**measures) if few else qs.Online(**measures, instances=of_task.shots),
        loss=cross_entropy,
        outputs=most,
        classes=ways,
        shots=of_task.shots,
        key=key,
        net=net,
        embedding=embedding if stream is None or stream.encoder == "network" else None,
        raw=raw,
        task_bytes=most * (of_task.shots + of_task.queries) * example_bytes,
        baselines=baselines if few else dict,
    )
