"""Prediction on a labelled stream: predict, be scored, then see the label (Hochreiter et al. 2001; Santoro et al.
2016).

    loss_i = mean over t of  ℓ(f(x_t; s_{t−1}), y_t),   s_t = adapt(s_{t−1}, (x_t, y_t))
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.checks import require_whole
from quickstudy.core import Incompatible, Learner, Memory, Metrics, Objective, Tasks
from quickstudy.data.batches import Labelled
from quickstudy.nn.measures import squared_error
from quickstudy.objectives import fits
from quickstudy.objectives.few_shot import prediction_in, where_finite


class Streamed(eqx.Module):
    """A batch: streams [tasks, time], one key a step, and the quality of each prediction."""

    stream: Labelled
    key: Key[Array, "tasks"]
    keys: Key[Array, "tasks time"]
    quality: Float[Array, "tasks time"]


class Online(Objective):
    """As FewShot, with a task that is one `Labelled` stream; `burn_in` predictions at its start do not count.

    instances: the curve has a point for each k up to this number, the mean over the k-th appearances of the classes in
        the stream (Santoro et al. 2016), whose labels are whole numbers; NaN where no class appears k times.
        None: a point for each moment of the stream
    """

    of_loss: Callable = eqx.field(static=True, default=squared_error)
    of_score: Callable = eqx.field(static=True, default=squared_error)
    metric: str = eqx.field(static=True, default="stream MSE")
    lower_is_better: bool = eqx.field(static=True, default=True)
    burn_in: int = eqx.field(static=True, default=0)
    instances: int | None = eqx.field(static=True, default=None)

    def curve_axis(self, learner: Learner, points: int) -> tuple[str, tuple[int, ...]]:
        """The first prediction comes before any example; by instances the points are the 1st, 2nd, ... appearance."""
        if self.instances is None:
            return "examples", tuple(range(points))
        return "appearances", tuple(range(1, points + 1))

    def __check_init__(self):
        require_whole(0, burn_in=self.burn_in)
        require_whole(1, instances=self.instances)

    def init(self, learner: Learner, tasks: Tasks, *, keys: Key[Array, "tasks"]) -> Memory:
        if not isinstance(tasks, Labelled):
            raise Incompatible(
                f"Online takes labelled streams (Labelled), got {type(tasks).__name__}; FewShot takes episodes, Trial "
                "environments"
            )
        length = jax.tree.leaves(tasks)[0].shape[1]
        if not 0 <= self.burn_in < length:
            raise ValueError(f"burn_in={self.burn_in} must lie in [0, {length}), the length of the stream")
        if self.instances is not None:
            if not 1 <= self.instances <= length:
                raise ValueError(
                    f"instances={self.instances} must lie in [1, {length}], the length of the stream: no class appears "
                    "more often"
                )
            if not jnp.issubdtype(jnp.result_type(tasks.y), jnp.integer):
                raise ValueError(f"instances counts whole-number labels, and these are {jnp.result_type(tasks.y)}")
        fits.require_follows(learner, jax.tree.map(lambda leaf: leaf[0], tasks))
        return ()

    def collect(
        self, learner: Learner, memory: Memory, tasks: Labelled, *, keys: Key[Array, "tasks"]
    ) -> tuple[Streamed, Memory]:
        length = jax.tree.leaves(tasks)[0].shape[1]
        begin, adapt = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        adapt = jax.vmap(lambda key: jax.random.split(key, length))(adapt)
        each = lambda *given: self._along(where_finite(self.of_score), learner, *given)
        quality = jax.vmap(each)(tasks, begin, adapt)
        return Streamed(tasks, begin, adapt, quality), memory

    def loss(self, learner: Learner, batch: Streamed) -> tuple[Float[Array, "tasks"], Metrics]:
        each = lambda *given: self._along(self.of_loss, learner, *given)[self.burn_in :].mean()
        return jax.vmap(each)(batch.stream, batch.key, batch.keys), {}

    def score(self, batch: Streamed) -> Float[Array, "tasks"]:
        return batch.quality[:, self.burn_in :].mean(1) * (-1 if self.lower_is_better else 1)

    def curve(self, batch: Streamed) -> Float[Array, "tasks points"]:
        if self.instances is None:
            return batch.quality
        y, moments = batch.stream.y, jnp.arange(batch.quality.shape[1])
        until = moments[None, :] <= moments[:, None]
        appearance = ((y[:, :, None] == y[:, None, :]) & until).sum(2)  # 1 where a class is seen for the first time
        kth = appearance[:, None] == jnp.arange(1, self.instances + 1)[:, None]
        return jnp.where(kth, batch.quality[:, None], 0).sum(2) / kth.sum(2)

    def _along(
        self, measure: Callable, learner: Learner, stream: Labelled, key: Key[Array, ""], keys: Key[Array, "time"]
    ) -> Float[Array, "time"]:
        single = jax.tree.map(lambda x: x[:, None], stream)  # segments of one step each
        outputs = learner.replay(learner.init(key=key), single, key=keys)
        predicted = jax.tree.map(lambda p: p[:, 0], prediction_in(outputs, learner))
        return jax.vmap(measure)(predicted, stream.y)
