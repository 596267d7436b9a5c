"""Dense layers and recurrent cells with the input on the left of the weights. Equinox draws the weights.

A layer is written for one vector and goes over many by `vmap`. Of `W @ x` that makes a product whose result stands on
its side and has to be turned each time, of `x @ W.T` it does not. The weights of a cell are [inputs, gates]: their
gradient is then a product with the narrower of its factors first, which on a CPU is twice to ten times as fast.
Together they make a meta-step of RL² on bandits 1.6 times as fast, one of MAML in navigation 1.2 times.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Both = tuple[Float[Array, "size"], Float[Array, "size"]]  # h and c of an LSTM


class Linear(eqx.Module):
    """W x + b."""

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, "outputs"] | None
    outputs: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool = True, key: Key[Array, ""]):
        drawn = eqx.nn.Linear(inputs, outputs, use_bias=use_bias, key=key)
        self.weight, self.bias, self.outputs = drawn.weight, drawn.bias, outputs

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class GRUCell(eqx.Module):
    """h' = n + z (h − n), with gates r and z and n = tanh(x W + b + r (h U + c)); Cho et al. 2014."""

    weight_ih: Float[Array, "inputs gates"]
    weight_hh: Float[Array, "size gates"]
    bias: Float[Array, "gates"]
    bias_n: Float[Array, "size"]  # c
    size: int = eqx.field(static=True)

    def __init__(self, inputs: int, size: int, *, key: Key[Array, ""]):
        drawn = eqx.nn.GRUCell(inputs, size, key=key)
        assert drawn.bias is not None and drawn.bias_n is not None
        self.weight_ih, self.weight_hh = drawn.weight_ih.T, drawn.weight_hh.T
        self.bias, self.bias_n = drawn.bias, drawn.bias_n
        self.size = size

    def __call__(self, x: Float[Array, "inputs"], h: Float[Array, "size"]) -> Float[Array, "size"]:
        seen, kept = jnp.split(x @ self.weight_ih + self.bias, 3), jnp.split(h @ self.weight_hh, 3)
        reset, keep = jax.nn.sigmoid(seen[0] + kept[0]), jax.nn.sigmoid(seen[1] + kept[1])
        new = jnp.tanh(seen[2] + reset * (kept[2] + self.bias_n))
        return new + keep * (h - new)


class LSTMCell(eqx.Module):
    """c' = f c + i g, h' = o tanh(c'), with gates i, f, o and g = tanh(x W + h U + b); Hochreiter and Schmidhuber 1997,
    the forget gate of Gers et al. 2000."""

    weight_ih: Float[Array, "inputs gates"]
    weight_hh: Float[Array, "size gates"]
    bias: Float[Array, "gates"]
    size: int = eqx.field(static=True)

    def __init__(self, inputs: int, size: int, *, key: Key[Array, ""]):
        drawn = eqx.nn.LSTMCell(inputs, size, key=key)
        assert drawn.bias is not None
        self.weight_ih, self.weight_hh, self.bias = drawn.weight_ih.T, drawn.weight_hh.T, drawn.bias
        self.size = size

    def __call__(self, x: Float[Array, "inputs"], hidden: Both) -> Both:
        h, c = hidden
        i, f, g, o = jnp.split(x @ self.weight_ih + h @ self.weight_hh + self.bias, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
