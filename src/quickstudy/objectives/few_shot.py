"""Query loss after adapting on the support set: the episodic objective of Vinyals et al. 2016 and Finn et al. 2017.

loss_i = mean over the query set of  ℓ(f(x; adapt(init, support_i)), y)
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.core import Incompatible, Learner, Memory, Metrics, Objective, Tasks
from quickstudy.data.batches import FewShotTask, Labelled, Output, Segments
from quickstudy.nn.measures import squared_error
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


def prediction_in(said: Output, learner: Learner) -> PyTree:
    """What is predicted there. Raises Incompatible for a learner that predicts nothing."""
    if not isinstance(said, Output) or said.prediction is None:
        raise Incompatible(f"{type(learner).__name__} must return an Output with a prediction, got {said!r}")
    return said.prediction


def query_mean(measure: Callable, learner: Learner, episode: FewShotTask, key: Key[Array, ""]) -> Float[Array, ""]:
    """Mean of `measure(prediction, y)` over the query set, after adapting."""
    state = adapted(learner, episode, key)

    def of_one(query: Labelled):
        return measure(prediction_in(learner.apply(state, query.x), learner), query.y)

    return over_axes(of_one)(episode.query).mean()


class FewShot(Objective):
    """`of_loss(prediction, y)` is what is minimised and `of_score(prediction, y)` what is reported, under the name
    `metric`; both are of one example and averaged over the query set."""

    of_loss: Callable = eqx.field(static=True, default=squared_error)
    of_score: Callable = eqx.field(static=True, default=squared_error)
    metric: str = eqx.field(static=True, default="query MSE")
    lower_is_better: bool = eqx.field(static=True, default=True)

    first_point = adaptations_per_point = 1

    def init(self, learner: Learner, tasks: Tasks, *, key: Key[Array, ""]) -> Memory:
        del learner, key
        if not isinstance(tasks, FewShotTask):
            raise Incompatible(
                f"FewShot takes tasks of a support and a query set (FewShotTask), got {type(tasks).__name__}; "
                "Online takes labelled streams, and Trial environments"
            )
        return ()

    def collect(
        self, learner: Learner, memory: Memory, tasks: FewShotTask, *, key: Key[Array, ""]
    ) -> tuple[Judged, Memory]:
        keys = jax.random.split(key, jax.tree.leaves(tasks)[0].shape[0])
        quality = jax.vmap(lambda e, k: query_mean(self.of_score, learner, e, k))(tasks, keys)
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
