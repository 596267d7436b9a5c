"""Reptile: move the start towards where adaptation ends.

    loss_i = ½ ‖init − ⊥ adapt(init, task_i)‖²,  so  −∇ = adapted − start

⊥ stops the gradient. Nichol et al. 2018, "On First-Order Meta-Learning Algorithms". Only the start is learned:
whatever else the learner holds gets no gradient from this. Adaptation sees support and query together, since
nothing is held back to judge it by.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.core import Incompatible, Learner, Memory, Metrics, Objective, Tasks, starts_from_leaves
from quickstudy.data import Episode
from quickstudy.objectives.few_shot import FewShot, Judged, adapted


class Reptile(Objective):
    """`judge` scores what was adapted, as it would without Reptile."""

    judge: FewShot

    first_point = adaptations_per_point = 1

    @property
    def metric(self) -> str:
        return self.judge.metric

    @property
    def lower_is_better(self) -> bool:
        return self.judge.lower_is_better

    def init(self, learner: Learner, tasks: Tasks, *, key: Key[Array, ""]) -> Memory:
        if not starts_from_leaves(learner):
            raise Incompatible(
                f"Reptile moves the state a task starts from, and {type(learner).__name__}'s is not made of its "
                "meta-parameters; use FewShot"
            )
        return self.judge.init(learner, tasks, key=key)

    def collect(
        self, learner: Learner, memory: Memory, tasks: Episode, *, key: Key[Array, ""]
    ) -> tuple[Judged, Memory]:
        return self.judge.collect(learner, memory, tasks, key=key)

    def loss(self, learner: Learner, batch: Judged) -> tuple[Float[Array, "tasks"], Metrics]:
        def distance(episode: Episode, key: Key[Array, ""]):
            together = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), episode.support, episode.query)
            before, after = adapted(learner, Episode(together, episode.query), key)
            start, end = eqx.filter((before, jax.lax.stop_gradient(after)), eqx.is_inexact_array)
            apart = [((s - e) ** 2).sum() for s, e in zip(*map(jax.tree.leaves, (start, end)), strict=True)]
            return 0.5 * jnp.stack(apart).sum()

        return jax.vmap(distance)(batch.episode, batch.key), {}

    def score(self, batch: Judged) -> Float[Array, "tasks"]:
        return self.judge.score(batch)

    def curve(self, batch: Judged) -> Float[Array, "tasks points"]:
        return self.judge.curve(batch)
