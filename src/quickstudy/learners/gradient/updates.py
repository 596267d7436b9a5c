"""How one inner step moves the fast weights.

    SGD        φ ← φ − α g            one rate for all, or (Meta-SGD, Li et al. 2017) one for each weight
    PerStep    φ ← φ − α_k g          a learned rate for each weight and each step k (Antoniou et al. 2019)
    Scaled     φ ← φ − α u(g, m)      u an optax transformation without a rate of its own, as scale_by_adam
    Optax      φ ← φ + u(g, m)        any optax transformation as it is, nothing in it learned

A rate is a plain number (constant), an array or a `Positive` (learned), or a tree of them shaped like the
fast weights.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from quickstudy.checks import require_above
from quickstudy.learners.gradient.zeros import derivative_at_zero
from quickstudy.parameters import meta_parameters, unwrap


class Update(eqx.Module):
    """One step of an inner optimiser; `memory` is its own (moments), started afresh for each task."""

    @property
    @abc.abstractmethod
    def learned(self) -> bool:
        """Whether it has meta-parameters, which need an adjoint that differentiates the path."""

    @abc.abstractmethod
    def init(self, weights: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        """(moved weights, memory); `loss` is the inner loss at `weights`, one number."""


class SGD(Update):
    rate: Any

    @property
    def learned(self) -> bool:
        return bool(meta_parameters(self))

    def init(self, weights: PyTree) -> PyTree:
        return ()

    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        return _moved(weights, self.rate, gradient), memory


def _moved(weights: PyTree, rate: Any, against: PyTree) -> PyTree:
    """`rate` is one for all, or a tree like the weights."""
    rates = unwrap(rate)
    if jax.tree.structure(rates) != jax.tree.structure(weights):
        rates = jax.tree.map(lambda _: rates, weights)
    return jax.tree.map(lambda w, a, g: w - a * g, weights, rates, against)


def per_weight(weights: PyTree, rate: float) -> SGD:
    """Meta-SGD's update: a learned rate for each of `weights` (signed, as in the paper), all starting at `rate`."""
    return SGD(jax.tree.map(lambda w: jnp.full_like(w, rate), eqx.filter(weights, eqx.is_inexact_array)))


class PerStep(Update):
    """Learned rates for every weight and every step: leaf shapes are [steps, ...], later steps use the last row.

    A task's later steps can then be smaller than its first, which one rate for all cannot be. With a rate a layer
    it is a part of MAML++ (Antoniou et al. 2019).
    """

    rates: PyTree

    @property
    def learned(self) -> bool:
        return bool(meta_parameters(self))

    def init(self, weights: PyTree) -> Int[Array, ""]:
        return jnp.zeros((), int)

    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: Int[Array, ""]) -> tuple[PyTree, PyTree]:
        move = lambda w, a, g: w - a[jnp.minimum(memory, len(a) - 1)] * g
        return jax.tree.map(move, weights, unwrap(self.rates), gradient), memory + 1


def per_step(weights: PyTree, rate: float, steps: int) -> PerStep:
    """`PerStep` for `weights`, all rates starting at `rate`."""
    learned = eqx.filter(weights, eqx.is_inexact_array)
    return PerStep(jax.tree.map(lambda w: jnp.full((steps, *w.shape), rate), learned))


class Scaled(Update):
    """By default Adam (Kingma and Ba 2015), its rate a leaf."""

    rate: Any
    transformation: optax.GradientTransformation = eqx.field(static=True, default=optax.scale_by_adam(eps=1e-5))

    @property
    def learned(self) -> bool:
        return bool(meta_parameters(self))

    def init(self, weights: PyTree) -> PyTree:
        return self.transformation.init(weights)

    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        against, memory = derivative_at_zero(self.transformation.update)(gradient, memory, weights)
        return _moved(weights, self.rate, against), memory


def clipped(norm: float) -> optax.GradientTransformation:
    """Gradients no longer than `norm`. That of optax has no derivative where a gradient is zero, as where nothing was
    earned, and inner steps are differentiated."""

    require_above(0, norm=norm)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = jnp.stack([(leaf**2).sum() for leaf in jax.tree.leaves(updates)]).sum()
        shorter = norm / jnp.sqrt(jnp.maximum(square, norm**2))
        return jax.tree.map(lambda leaf: shorter * leaf, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Optax(Update):
    transformation: optax.GradientTransformation = eqx.field(static=True)

    @property
    def learned(self) -> bool:
        return False

    def init(self, weights: PyTree) -> PyTree:
        return self.transformation.init(weights)

    def step(self, weights: PyTree, gradient: PyTree, loss: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        moves, memory = derivative_at_zero(self.transformation.update)(gradient, memory, weights)
        return optax.apply_updates(weights, moves), memory
