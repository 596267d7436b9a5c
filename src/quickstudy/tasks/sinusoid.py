"""Sinusoid regression: y = A sin(x − φ), A ~ U[0.1, 5], φ ~ U[0, π], x ~ U[−5, 5].

Finn et al. 2017, section 5.1. The authors' code shifts by −φ, as here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from quickstudy.checks import require_whole
from quickstudy.core import Splits, TaskDistribution, split_by_stream
from quickstudy.data.batches import FewShotTask, Labelled

AMPLITUDE, PHASE, RANGE = (0.1, 5.0), (0.0, float(jnp.pi)), (-5.0, 5.0)


class Sinusoids(TaskDistribution):
    """A task is a `FewShotTask` of `shots` support and `queries` query points; x and y are vectors of length 1."""

    shots: int = eqx.field(static=True, default=5)
    queries: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        require_whole(1, shots=self.shots)
        require_whole(0, queries=self.queries)  # 0: streams, which are not asked anything

    def sample(self, *, key: Key[Array, ""]) -> FewShotTask:
        a, p, x = jax.random.split(key, 3)
        amplitude = jax.random.uniform(a, minval=AMPLITUDE[0], maxval=AMPLITUDE[1])
        phase = jax.random.uniform(p, minval=PHASE[0], maxval=PHASE[1])
        x = jax.random.uniform(x, (self.shots + self.queries, 1), minval=RANGE[0], maxval=RANGE[1])
        y = amplitude * jnp.sin(x - phase)
        return FewShotTask(Labelled(x[: self.shots], y[: self.shots]), Labelled(x[self.shots :], y[self.shots :]))

    def split(self) -> Splits:
        return split_by_stream(self)


class SinusoidStreams(TaskDistribution):
    """The same functions as `Labelled` streams of `length` points, for the Online objective."""

    length: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        require_whole(1, length=self.length)

    def sample(self, *, key: Key[Array, ""]) -> Labelled:
        return Sinusoids(self.length, 0).sample(key=key).support

    def split(self) -> Splits:
        return split_by_stream(self)
