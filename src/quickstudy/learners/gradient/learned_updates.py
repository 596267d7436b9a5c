"""Update rules that are themselves learned: small networks that see one weight at a time, the same for all weights.

Meta-LSTM (Ravi and Larochelle 2017, ICLR): the weight is the cell state of an LSTM,

    θ_t = f_t θ_{t−1} − i_t ∇_t
    i_t = σ(W_I [h_t, θ_{t−1}, i_{t−1}] + b_I),   f_t = σ(W_F [h_t, θ_{t−1}, f_{t−1}] + b_F)
    h_t = LSTM([∇_t, L_t], h_{t−1})

so f = 1 and i = α is a gradient step of rate α, and the learned start is the initial cell state. As in the paper the
gradients are taken for constants: compose it with FirstOrder.

LSTM optimiser (Andrychowicz et al. 2016, NeurIPS): the network outputs the step itself,

    θ_t = θ_{t−1} + s W h_t,   h_t = LSTM(∇_t, h_{t−1})

Both are shown gradients and losses as logarithm and sign (nn.gradients).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.learners.gradient.updates import Update
from quickstudy.nn.gradients import log_and_sign
from quickstudy.nn.layers import Linear, LSTMCell
from quickstudy.parameters import Positive


class Memory(eqx.Module):
    """What is carried for each weight, one a row."""

    hidden: tuple[Float[Array, "numbers size"], Float[Array, "numbers size"]]
    gates: Float[Array, "numbers 2"]  # i and f of the step before; not used by the LSTM optimiser


def _blank(weights: PyTree, size: int) -> Memory:
    number = sum(leaf.size for leaf in jax.tree.leaves(weights))
    return Memory((jnp.zeros((number, size)), jnp.zeros((number, size))), jnp.zeros((number, 2)))


class MetaLSTM(Update):
    cell: LSTMCell
    input_gate: Linear
    forget_gate: Linear

    learned = True

    def __init__(self, size: int = 20, *, key: Key[Array, ""], rate: float = 0.01, keep: float = 0.993):
        """size: of the recurrent network; rate, keep: about the values of the gates i and f before training."""
        if not (0 < rate < 1 and 0 < keep < 1):
            raise ValueError(f"rate and keep must lie between 0 and 1, got {rate} and {keep}")
        first, second, third = jax.random.split(key, 3)
        self.cell = LSTMCell(4, size, key=first)

        def gate(says, key):
            small = jax.tree.map(lambda w: 0.1 * w, Linear(size + 2, 1, key=key))
            return eqx.tree_at(lambda g: g.bias, small, jnp.array([math.log(says / (1 - says))]))

        self.input_gate, self.forget_gate = gate(rate, second), gate(keep, third)

    def init(self, weights: PyTree) -> Memory:
        return _blank(weights, self.cell.size)

    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: Memory) -> tuple[PyTree, Memory]:
        theta, put_back = ravel_pytree(weights)
        loss_input = log_and_sign(jax.lax.stop_gradient(loss))

        def of_one(theta, g, hidden, before):
            hidden = self.cell(jnp.concatenate([log_and_sign(jax.lax.stop_gradient(g)), loss_input]), hidden)
            gate = lambda linear, was: jax.nn.sigmoid(linear(jnp.concatenate([hidden[0], theta[None], was[None]])))[0]
            i, f = gate(self.input_gate, before[0]), gate(self.forget_gate, before[1])
            return f * theta - i * g, hidden, jnp.stack([i, f])

        moved, hidden, gates = jax.vmap(of_one)(theta, ravel_pytree(gradient)[0], memory.hidden, memory.gates)
        return put_back(moved.astype(theta.dtype)), Memory(hidden, gates)


class LSTMOptimizer(Update):
    cell: LSTMCell
    out: Linear
    scale: Positive  # s

    learned = True

    def __init__(self, size: int = 20, *, key: Key[Array, ""], scale: float = 0.01):
        first, second = jax.random.split(key)
        self.cell, self.out = LSTMCell(2, size, key=first), Linear(size, 1, key=second)
        self.scale = Positive(scale)

    def init(self, weights: PyTree) -> Memory:
        return _blank(weights, self.cell.size)

    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: Memory) -> tuple[PyTree, Memory]:
        del loss
        theta, put_back = ravel_pytree(weights)

        def of_one(g, hidden):
            hidden = self.cell(log_and_sign(jax.lax.stop_gradient(g)), hidden)
            return self.scale.value * self.out(hidden[0])[0], hidden

        moves, hidden = jax.vmap(of_one)(ravel_pytree(gradient)[0], memory.hidden)
        return put_back((theta + moves).astype(theta.dtype)), Memory(hidden, memory.gates)
