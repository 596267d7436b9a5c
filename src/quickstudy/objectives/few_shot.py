"""Query loss after adapting on the support set: the episodic objective of Vinyals et al. 2016 and Finn et al. 2017.

loss_i = mean over the query set of  ℓ(f(x; adapt(init, support_i)), y)
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.core import Incompatible, Learner, Memory, Metrics, Tasks
from quickstudy.data.batches import FewShotTask, Labelled, Output, Segments
from quickstudy.nn.measures import squared_error
from quickstudy.objectives import fits
from quickstudy.objectives.segments import SegmentObjective
from quickstudy.parallel.axes import over_axes


class Judged(eqx.Module):
    """A batch: the episodes, the keys they are adapted with, and how well that went."""

    episode: FewShotTask
    key: Key[Array, "tasks"]
    quality: Float[Array, "tasks"]


def adapted(learner: Learner, episode: FewShotTask, key: Key[Array, ""]):
    """The state after adapting on the support set."""
    begin, learn = jax.random.split(key)
    return learner.adapt(learner.init(key=begin), episode.support, key=learn)


def prediction_in(output: Output, learner: Learner) -> PyTree:
    """What is predicted there. Raises Incompatible for a learner that predicts nothing."""
    if not isinstance(output, Output) or output.prediction is None:
        raise Incompatible(f"{type(learner).__name__} must return an Output with a prediction, got {output!r}")
    return output.prediction


def where_finite(measure: Callable) -> Callable:
    """`measure(prediction, y)`, and NaN where the prediction is not finite: the place of the largest of numbers that
    are none is no answer, whether it is right or not."""

    def judged(prediction: PyTree, y: PyTree) -> Float[Array, ""]:
        leaves = jax.tree.leaves(eqx.filter(prediction, eqx.is_inexact_array))
        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in leaves], bool).all()
        return jnp.where(finite, measure(prediction, y), jnp.nan)

    return judged


def query_mean(measure: Callable, learner: Learner, episode: FewShotTask, key: Key[Array, ""]) -> Float[Array, ""]:
    """Mean of `measure(prediction, y)` over the query set, after adapting."""
    state = adapted(learner, episode, key)

    def of_one(query: Labelled):
        return measure(prediction_in(learner.apply(state, query.x), learner), query.y)

    return over_axes(of_one)(episode.query).mean()


class FewShot(SegmentObjective):
    """`of_loss(prediction, y)` is what is minimised and `of_score(prediction, y)` what is reported, under the name
    `metric`; both are of one example and averaged over the query set. A score of predictions that are not finite is
    NaN."""

    of_loss: Callable = eqx.field(static=True, default=squared_error)
    of_score: Callable = eqx.field(static=True, default=squared_error)
    metric: str = eqx.field(static=True, default="query MSE")
    lower_is_better: bool = eqx.field(static=True, default=True)

    from_start = True

    def curve_axis(self, learner: Learner, points: int) -> tuple[str, tuple[int, ...]]:
        return ("adaptations", (1,)) if learner.inner_steps is None else ("gradient steps", (learner.inner_steps,))

    def init(self, learner: Learner, tasks: Tasks, *, keys: Key[Array, "tasks"]) -> Memory:
        del keys
        if not isinstance(tasks, FewShotTask):
            raise Incompatible(
                f"FewShot takes tasks of a support and a query set (FewShotTask), got {type(tasks).__name__}; "
                "Online takes labelled streams, and Trial environments"
            )
        fits.require_adapts(learner, jax.tree.map(lambda leaf: leaf[0], tasks))
        return ()

    def collect(
        self, learner: Learner, memory: Memory, tasks: FewShotTask, *, keys: Key[Array, "tasks"]
    ) -> tuple[Judged, Memory]:
        quality = jax.vmap(lambda e, k: query_mean(where_finite(self.of_score), learner, e, k))(tasks, keys)
        return Judged(tasks, keys, quality), memory

    def loss(self, learner: Learner, batch: Judged) -> tuple[Float[Array, "tasks"], Metrics]:
        losses = jax.vmap(lambda e, k: query_mean(self.of_loss, learner, e, k))(batch.episode, batch.key)
        return losses, {}

    def segments(self, batch: Judged) -> Segments:
        """One of support and query together: what is there to adapt on where nothing is held back."""
        begin, learn = jnp.moveaxis(jax.vmap(jax.random.split)(batch.key), 1, 0)
        join = lambda s, q: jnp.concatenate([s, q], 1)[:, None]
        return Segments(begin, jax.tree.map(join, batch.episode.support, batch.episode.query), learn[:, None])

    def score(self, batch: Judged) -> Float[Array, "tasks"]:
        return -batch.quality if self.lower_is_better else batch.quality

    def curve(self, batch: Judged) -> Float[Array, "tasks points"]:
        return batch.quality[:, None]
