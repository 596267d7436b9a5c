"""Recurrent cells with orthogonal recurrent weights, behind one interface.

Orthogonal: the hidden state of a long trial neither dies nor explodes before anything is learned
(Saxe et al. 2014). GRU: Cho et al. 2014. LSTM: Hochreiter and Schmidhuber 1997.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.nn.layers import GRUCell, LSTMCell
from quickstudy.parameters import in_types_of


class Cell(eqx.Module):
    """hidden' = cell(hidden, x); `features` is the part of it that the heads read, and `along` what they read after
    each of many inputs. Most cells use `scan_along` for it; it must equal that."""

    @abc.abstractmethod
    def initial(self) -> PyTree: ...

    @abc.abstractmethod
    def __call__(self, hidden: PyTree, x: Float[Array, "inputs"]) -> PyTree: ...

    @abc.abstractmethod
    def features(self, hidden: PyTree) -> Float[Array, "size"]: ...

    @abc.abstractmethod
    def along(self, hidden: PyTree, x: Float[Array, "time inputs"]) -> Float[Array, "time size"]: ...


def scan_along(cell: Any, hidden: PyTree, x: Float[Array, "time inputs"]) -> Float[Array, "time size"]:
    """One step after the other."""

    def step(hidden, x):
        hidden = in_types_of(hidden, cell(hidden, x))
        return hidden, cell.features(hidden)

    return jax.lax.scan(step, hidden, x)[1]


def _orthogonal(cell, size: int, gates: int, key: Key[Array, ""]):
    blocks = jax.vmap(lambda k: jax.random.orthogonal(k, size))(jax.random.split(key, gates))
    return eqx.tree_at(lambda c: c.weight_hh, cell, blocks.reshape(gates * size, size).T)


def _associative(cell: LSTMCell, labels: int, key: Key[Array, ""]) -> LSTMCell:
    """c' = σ(4) c + σ(A x) tanh(B y),   h' = σ(A x) tanh(c')       x the other inputs, y the labels, h unused at first

    Each unit holds labels of the inputs that open its gates, and shows them to inputs that open them too: a label to
    whatever looks like what it came with, faintly, which training has but to sharpen. From small weights a gate is open
    by half whatever comes, and the gradient through that product of three factors is found late or never.
    """
    others = cell.weight_ih.shape[0] - labels
    if others < 1:
        raise ValueError(f"of {cell.weight_ih.shape[0]} inputs {labels} cannot be labels: nothing is left to label")
    input_gate, forget_gate, candidate, output_gate = range(4)
    written, opened = jax.random.split(key)
    gates = 2 * jax.random.normal(opened, (others, cell.size)) / others**0.5
    weight = jnp.zeros((others + labels, 4, cell.size))
    weight = weight.at[-labels:, candidate].set(jax.random.normal(written, (labels, cell.size)))
    weight = weight.at[:-labels, input_gate].set(gates).at[:-labels, output_gate].set(gates)
    bias = jnp.zeros((4, cell.size)).at[forget_gate].set(4.0)  # half is left after 38 steps
    leaves = lambda c: (c.weight_ih, c.weight_hh, c.bias)
    return eqx.tree_at(
        leaves, cell, (weight.reshape(cell.weight_ih.shape), jnp.zeros_like(cell.weight_hh), bias.reshape(-1))
    )


class GRU(Cell):
    cell: GRUCell

    def __init__(self, inputs: int, size: int, *, key: Key[Array, ""]):
        outer, inner = jax.random.split(key)
        self.cell = _orthogonal(GRUCell(inputs, size, key=outer), size, 3, inner)

    def initial(self) -> Float[Array, "size"]:
        return jnp.zeros(self.cell.size)

    def __call__(self, hidden: Float[Array, "size"], x: Float[Array, "inputs"]) -> Float[Array, "size"]:
        return self.cell(x, hidden)

    def features(self, hidden: Float[Array, "size"]) -> Float[Array, "size"]:
        return hidden

    along = scan_along


class LSTM(Cell):
    """labels: how many inputs, the last ones, are to be remembered by the others, which are about 1 in size. It then
    begins as an associative memory, and not with orthogonal weights: see `_associative`."""

    cell: LSTMCell

    def __init__(self, inputs: int, size: int, *, key: Key[Array, ""], labels: int = 0):
        outer, inner = jax.random.split(key)
        cell = LSTMCell(inputs, size, key=outer)
        self.cell = _associative(cell, labels, inner) if labels else _orthogonal(cell, size, 4, inner)

    def initial(self) -> PyTree:
        return jnp.zeros(self.cell.size), jnp.zeros(self.cell.size)

    def __call__(self, hidden: PyTree, x: Float[Array, "inputs"]) -> PyTree:
        return self.cell(x, hidden)

    def features(self, hidden: PyTree) -> Float[Array, "size"]:
        return hidden[0]

    along = scan_along
