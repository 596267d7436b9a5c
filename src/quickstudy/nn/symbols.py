"""Grids of symbols, as agents of MiniGrid see them: three 2×2 convolutions, the first on embedded symbols.

    y[h, w] = relu(Σ_ij  x[h + i, w + j] k[i, j] + b)        (no padding)

A convolution of embedded symbols is a sum of rows of a table, one table for each place in the window and each layer of
symbols: embedding and kernel are one linear map, and that is what is learned here. Written as products of patches,
which stay fast on a CPU when a gradient is taken (see nn.convolution).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key


class SymbolGrid(eqx.Module):
    """From [size · size · layers + 1] integers to a vector of `features`. The last one is the direction that is looked
    in; `symbols` says how many there are in each layer (tiles, colours)."""

    kernels: list[Float[Array, "inputs outputs"]]
    biases: list[Float[Array, "outputs"]]
    size: int = eqx.field(static=True)
    symbols: tuple[int, ...] = eqx.field(static=True)
    directions: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        symbols: tuple[int, ...],
        filters: tuple[int, ...] = (16, 32, 64),
        directions: int = 4,
        *,
        key: Key[Array, ""],
    ):
        inputs = (4 * sum(symbols), *(4 * n for n in filters[:-1]))
        sizes, keys = list(zip(inputs, filters, strict=True)), jax.random.split(key, len(filters))
        # Of the first patch, one symbol a layer and place is not zero: that many inputs.
        fan_in = [4 * len(symbols), *inputs[1:]]
        draw = lambda k, shape, n: jax.random.normal(k, shape) * (2 / n) ** 0.5
        self.kernels = [draw(k, shape, n) for k, shape, n in zip(keys, sizes, fan_in, strict=True)]
        self.biases = [jnp.zeros(n) for n in filters]
        self.size, self.symbols, self.directions = size, symbols, directions

    @property
    def features(self) -> int:
        return (self.size - len(self.kernels)) ** 2 * len(self.biases[-1]) + self.directions

    def __call__(self, x: Integer[Array, "symbols"]) -> Float[Array, "features"]:
        seen, direction = x[:-1].reshape(self.size, self.size, -1), x[-1]
        each = [jax.nn.one_hot(seen[..., i], n) for i, n in enumerate(self.symbols)]
        y = jnp.concatenate(each, -1)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            patches = jnp.concatenate([y[:-1, :-1], y[:-1, 1:], y[1:, :-1], y[1:, 1:]], -1)
            y = jax.nn.relu(patches @ kernel + bias)
        return jnp.concatenate([y.reshape(-1), jax.nn.one_hot(direction, self.directions)])
