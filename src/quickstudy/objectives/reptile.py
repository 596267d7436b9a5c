"""Reptile: move the start towards where adaptation ends.

    loss_i = ½ ‖init − ⊥ adapt(init, task_i)‖²,  so  −∇ = adapted − start

⊥ stops the gradient. Nichol et al. 2018, "On First-Order Meta-Learning Algorithms". Only the start is learned:
whatever else the learner holds gets no gradient from this. Adaptation sees all there is, since nothing is held back
for a query loss: support and query of a few-shot task, every segment of a trial.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.core import Incompatible, Learner, Memory, Metrics, Objective, Tasks
from quickstudy.data.batches import Segments
from quickstudy.objectives.segments import SegmentObjective
from quickstudy.parameters import combine, partition, starts_from_leaves


class Reptile(Objective):
    """`judge` collects experience and scores what was adapted, as it would without Reptile."""

    judge: SegmentObjective

    def curve_axis(self, learner: Learner, points: int) -> tuple[str, tuple[int, ...]]:
        return self.judge.curve_axis(learner, points)

    @property
    def metric(self) -> str:
        return self.judge.metric

    @property
    def curve_metric(self) -> str:
        return self.judge.curve_metric

    @property
    def points_per_score(self) -> float:
        return self.judge.points_per_score

    @property
    def lower_is_better(self) -> bool:
        return self.judge.lower_is_better

    def init(self, learner: Learner, tasks: Tasks, *, keys: Key[Array, "tasks"]) -> Memory:
        if not starts_from_leaves(learner):
            raise Incompatible(
                f"Reptile moves the state a task starts from, and {type(learner).__name__}'s is not made of its "
                f"meta-parameters; use {type(self.judge).__name__}"
            )
        if not self.judge.from_start:
            raise Incompatible(
                "Reptile adapts from the start on: of a part of a trial it does not know what came before; use "
                "bptt_length=None"
            )
        return self.judge.init(learner, tasks, keys=keys)

    def collect(
        self, learner: Learner, memory: Memory, tasks: Tasks, *, keys: Key[Array, "tasks"]
    ) -> tuple[PyTree, Memory]:
        return self.judge.collect(learner, memory, tasks, keys=keys)

    def loss(self, learner: Learner, batch: PyTree) -> tuple[Float[Array, "tasks"], Metrics]:
        learned, rest = partition(learner)
        still = combine(jax.lax.stop_gradient(learned), rest)  # what adapts

        def distance(given: Segments):
            absorb = lambda state, item: (still.adapt(state, item[0], key=item[1]), None)
            after, _ = jax.lax.scan(absorb, still.init(key=given.begin), (given.experience, given.keys))
            start, end = eqx.filter((learner.init(key=given.begin), after), eqx.is_inexact_array)
            apart = [((s - e) ** 2).sum() for s, e in zip(*map(jax.tree.leaves, (start, end)), strict=True)]
            return 0.5 * jnp.stack(apart).sum()

        return jax.vmap(distance)(self.judge.segments(batch)), {}

    def score(self, batch: PyTree) -> Float[Array, "tasks"]:
        return self.judge.score(batch)

    def curve(self, batch: PyTree) -> Float[Array, "tasks points"]:
        return self.judge.curve(batch)
