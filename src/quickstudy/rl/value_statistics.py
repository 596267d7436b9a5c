"""Running statistics of the values that a critic is trained on, so that no scale has to be guessed for it.

    value = m + s v̂,   target of v̂ = (R − m) / s,   s = max(σ, d / 10)

m and σ² are the running mean and variance of the λ-returns R, d is the largest distance of one from m that was met
lately, so that a target is never far beyond 10: where rewards are rare, σ alone would be next to nothing before the
first one. van Hasselt, Guez, Hessel, Mnih, Silver 2016, "Learning values across many orders of magnitude"; here the
critic's last layer is not corrected when the statistics move, as in Yu et al. 2022 ("The Surprising Effectiveness of
PPO in Cooperative Multi-Agent Games"), since a learner's heads can be anything.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quickstudy.parallel.reduce import max_over_devices, sum_over_devices

DECAY = 0.99  # of what is remembered, in a meta-step
FARTHEST = 10.0  # from 0 that a target may lie


class ValueStatistics(eqx.Module):
    """Of all tasks together; the same on all devices."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    largest: Float[Array, ""]  # distance from the mean, met lately
    weight: Float[Array, ""]  # of the past, in meta-steps; 0: nothing was seen yet

    @staticmethod
    def blank() -> "ValueStatistics":
        """Before any value was seen: mean 0 and scale 1."""
        return ValueStatistics(*(jnp.zeros(()) for _ in range(4)))

    @property
    def scale(self) -> Float[Array, ""]:
        """What 1 of the critic's is worth; 1 where all values were equal."""
        scale = jnp.maximum(jnp.sqrt(self.variance), self.largest / FARTHEST)
        return jnp.where(scale > jnp.finfo(scale.dtype).eps * jnp.abs(self.mean), scale, 1.0)

    def to_reward_units(self, output: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
        """What the critic's output means."""
        return self.mean + self.scale * output

    def normalise(self, value: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
        """The output that means `value`."""
        return (value - self.mean) / self.scale

    def after(self, value: Float[Array, "tasks *steps"], mask: Bool[Array, "tasks *steps"]) -> "ValueStatistics":
        """With the values of one more meta-step, on all devices; those without the mask are left out."""
        value = jnp.where(mask, value, 0.0)
        num = sum_over_devices(mask.sum())
        total = lambda of: sum_over_devices(jnp.where(mask, of, 0.0).sum()) / jnp.maximum(num, 1)
        mean = total(value)
        mean = mean + total(value - mean)  # the first is off by the rounding of its sum
        variance = total((value - mean) ** 2)
        weight = DECAY * self.weight + 1.0
        new = 1.0 / weight
        between = self.mean + new * (mean - self.mean)
        mixed = (1 - new) * (self.variance + (self.mean - between) ** 2) + new * (variance + (mean - between) ** 2)
        apart = max_over_devices(jnp.where(mask, jnp.abs(value - between), 0.0).max())
        seen = ValueStatistics(between, mixed, jnp.maximum(DECAY * self.largest, apart), weight)
        pick = lambda now, past: jnp.where(num > 0, now, past)
        return ValueStatistics(
            pick(seen.mean, self.mean),
            pick(seen.variance, self.variance),
            pick(seen.largest, self.largest),
            pick(seen.weight, self.weight),
        )
