"""A cell whose recurrence is linear, so that a whole trial is computed in parallel (S5: Smith, Warrington, Linderman
2023; with the parametrisation of the LRU: Orvieto et al. 2023).

    layer      z_t = λ ⊙ z_{t−1} + √(1 − |λ|²) ⊙ B n(u_t),      u_t ← u_t + W gelu(Re(C z_t) + d ⊙ n(u_t))
               λ = exp(−exp ν + i exp θ), complex; n: layer norm; u_t = V x_t before the first layer

What follows two segments of such steps is associative: (λ₁, b₁) and then (λ₂, b₂) is (λ₂ λ₁, λ₂ b₁ + b₂). So all z of
T steps are found in log T rounds, layer by layer, where a GRU needs T steps one after the other. |λ| starts uniform
between `least` and `most`, and no λ can leave the unit circle: nothing explodes, and a λ close to 1 remembers for long.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Key

from quickstudy.checks import require_whole
from quickstudy.nn.cells import Cell
from quickstudy.nn.layers import Linear


def _complex(real: Float[Array, "*shape"], imaginary: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """Of halves of 32 bits at least: there are no complex numbers of fewer."""
    kind = jnp.promote_types(real.dtype, jnp.float32)
    return jax.lax.complex(real.astype(kind), imaginary.astype(kind))


class Layer(eqx.Module):
    norm: eqx.nn.LayerNorm
    decay: Float[Array, "states"]  # ν
    angle: Float[Array, "states"]  # θ
    into: Float[Array, "2 states width"]  # B
    out: Float[Array, "2 width states"]  # C
    skip: Float[Array, "width"]  # d
    mix: Linear  # W

    def __init__(self, width: int, states: int, least: float, most: float, *, key: Key[Array, ""]):
        size, turn, into, out, skip, mix = jax.random.split(key, 6)
        radius = jnp.sqrt(jax.random.uniform(size, (states,), minval=least**2, maxval=most**2))
        self.norm = eqx.nn.LayerNorm(width)
        self.decay = jnp.log(-jnp.log(radius))
        self.angle = jnp.log(jax.random.uniform(turn, (states,), minval=1e-3, maxval=jnp.pi / 10))
        self.into = jax.random.normal(into, (2, states, width)) / jnp.sqrt(2 * width)
        self.out = jax.random.normal(out, (2, width, states)) / jnp.sqrt(states)
        self.skip = jax.random.normal(skip, (width,))
        self.mix = Linear(width, width, key=mix)

    @property
    def rate(self) -> Complex[Array, "states"]:
        return jnp.exp(_complex(-jnp.exp(self.decay), jnp.exp(self.angle)))

    def driven(self, u: Float[Array, "width"]) -> Complex[Array, "states"]:
        """What an input adds to the state."""
        gain = jnp.sqrt(-jnp.expm1(-2 * jnp.exp(self.decay)))  # 1 − |λ|², which near 1 no difference can tell
        return gain * (self.norm(u) @ _complex(*self.into).T)

    def read(self, z: Complex[Array, "states"], u: Float[Array, "width"]) -> Float[Array, "width"]:
        """What the next layer is given."""
        output = z.real @ self.out[0].T - z.imag @ self.out[1].T + self.skip * self.norm(u)
        return u + self.mix(jax.nn.gelu(output))


class LinearRecurrence(Cell):
    """A stack of linear recurrences; its hidden state holds the states of all layers, and the last one's output."""

    enter: Linear  # V
    layers: list[Layer]

    def __init__(
        self,
        inputs: int,
        size: int,
        *,
        key: Key[Array, ""],
        layers: int = 2,
        states: int | None = None,
        least: float = 0.5,
        most: float = 0.999,
    ):
        require_whole(1, size=size, layers=layers, states=states)
        if not 0 < least < most < 1:
            raise ValueError(f"0 < least < most < 1 is needed for |λ|, got least={least} and most={most}")
        enter, *rest = jax.random.split(key, layers + 1)
        self.enter = Linear(inputs, size, key=enter)
        self.layers = [Layer(size, states or size, least, most, key=k) for k in rest]

    def initial(self) -> tuple[list[Array], Array]:
        return [jnp.zeros((2, len(layer.decay))) for layer in self.layers], jnp.zeros(self.enter.outputs)

    def __call__(self, hidden: tuple[list[Array], Array], x: Float[Array, "inputs"]) -> tuple[list[Array], Array]:
        u, states = self.enter(x), []
        for layer, before in zip(self.layers, hidden[0], strict=True):
            z = layer.rate * _complex(*before) + layer.driven(u)
            u = layer.read(z, u)
            states.append(jnp.stack([z.real, z.imag]))
        return states, u

    def along(self, hidden: tuple[list[Array], Array], x: Float[Array, "time inputs"]) -> Float[Array, "time size"]:
        u = jax.vmap(self.enter)(x)
        for layer, before in zip(self.layers, hidden[0], strict=True):
            driven = jax.vmap(layer.driven)(u)
            driven = driven.at[0].add(layer.rate * _complex(*before))
            rates = jnp.broadcast_to(layer.rate, driven.shape)
            _, z = jax.lax.associative_scan(lambda a, b: (b[0] * a[0], b[0] * a[1] + b[1]), (rates, driven))
            u = jax.vmap(layer.read)(z, u)
        return u

    def features(self, hidden: tuple[list[Array], Array]) -> Float[Array, "size"]:
        return hidden[1]
