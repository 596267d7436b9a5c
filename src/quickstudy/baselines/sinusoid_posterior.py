"""The limit of sinusoid regression: the Bayes posterior mean under the known prior, on a grid.

    p(A, φ | support) ∝ Π exp(−(y − A sin(x − φ))²/2σ²),   prediction = E[A sin(x − φ)]

y = a sin x + b cos x is linear in (a, b) = (A cos φ, −A sin φ), so two noise-free points in general position fix
the function: with five shots the limit is the grid's resolution, with none the prior mean.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.checks import require_above, require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.learners.replay import scan_replay
from quickstudy.tasks.sinusoid import AMPLITUDE, PHASE


class SinusoidPosterior(Learner):
    """State: log-weights over amplitudes × phases. `noise` (σ) should be about the grid's spacing."""

    resolution: int = eqx.field(static=True, default=200)
    noise: float = eqx.field(static=True, default=0.03)

    differentiable = False

    def __check_init__(self):
        require_whole(2, resolution=self.resolution)
        require_above(0, noise=self.noise)

    def init(self, *, key: Key[Array, ""]) -> Float[Array, "amplitudes phases"]:
        del key
        return jnp.zeros((self.resolution, self.resolution))

    def adapt(
        self, state: Float[Array, "amplitudes phases"], experience: Labelled, *, key: Key[Array, ""]
    ) -> Float[Array, "amplitudes phases"]:
        del key
        errors = jax.vmap(lambda x, y: (self._functions(x) - y[0]) ** 2)(experience.x, experience.y)
        return state - errors.sum(0) / (2 * self.noise**2)

    def apply(self, state: Float[Array, "amplitudes phases"], x: Float[Array, "1"]) -> Output:
        weights = jax.nn.softmax(state.reshape(-1))
        return Output(prediction=(weights @ self._functions(x).reshape(-1))[None])

    replay = scan_replay

    def _functions(self, x: Float[Array, "1"]) -> Float[Array, "amplitudes phases"]:
        amplitude, phase = (jnp.linspace(*bounds, self.resolution) for bounds in (AMPLITUDE, PHASE))
        return amplitude[:, None] * jnp.sin(x[0] - phase)
