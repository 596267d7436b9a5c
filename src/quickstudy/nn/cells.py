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
        hidden = cell(hidden, x)
        return hidden, cell.features(hidden)

    return jax.lax.scan(step, hidden, x)[1]


def _orthogonal(cell, size: int, gates: int, key: Key[Array, ""]):
    blocks = jax.vmap(lambda k: jax.random.orthogonal(k, size))(jax.random.split(key, gates))
    return eqx.tree_at(lambda c: c.weight_hh, cell, blocks.reshape(gates * size, size).T)


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
    cell: LSTMCell

    def __init__(self, inputs: int, size: int, *, key: Key[Array, ""]):
        outer, inner = jax.random.split(key)
        self.cell = _orthogonal(LSTMCell(inputs, size, key=outer), size, 4, inner)

    def initial(self) -> PyTree:
        return jnp.zeros(self.cell.size), jnp.zeros(self.cell.size)

    def __call__(self, hidden: PyTree, x: Float[Array, "inputs"]) -> PyTree:
        return self.cell(x, hidden)

    def features(self, hidden: PyTree) -> Float[Array, "size"]:
        return hidden[0]

    along = scan_along
