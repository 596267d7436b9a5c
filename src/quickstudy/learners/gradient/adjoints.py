"""How the outer gradient passes through the inner steps.

Unrolled     differentiate every step: MAML (Finn et al. 2017)
FirstOrder   take the inner gradients for constants: FOMAML (the same paper)
Implicit     φ* = argmin ℓ(φ) + λ/2 ‖φ − θ‖²,  dφ*/dθ = (I + ∇²ℓ(φ*)/λ)⁻¹, by conjugate gradients:
             iMAML (Rajeswaran et al. 2019); the path to φ* does not matter, and costs no memory
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from quickstudy.checks import require_above, require_whole
from quickstudy.learners.gradient.updates import Update
from quickstudy.parameters import in_types_of

Loss = Callable[[PyTree], Float[Array, ""]]


class Adjoint(eqx.Module):
    exact_path: ClassVar[bool]  # whether what shapes the path (a learned rate) gets a gradient
    exact_gradient: ClassVar[bool] = True  # and what shapes the inner gradient

    @abc.abstractmethod
    def solve(
        self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int
    ) -> tuple[PyTree, PyTree]:
        """`steps` steps of `update` on `loss`, from `weights`: (adapted weights, the update's memory)."""


def _descend(
    loss: Loss, weights: PyTree, memory: PyTree, update: Update, steps: int, seen: Callable, checkpoint: bool = False
):
    """One program of a step in a loop, however many steps there are: what has to be compiled does not grow."""

    def step(carry, _):
        weights, memory = carry
        value, gradient = seen(jax.value_and_grad(loss)(seen(weights)))
        return in_types_of(carry, update.step(weights, gradient, value, memory)), None

    if checkpoint:
        step = jax.checkpoint(step)
    if steps == 1:  # outside a loop XLA sees that all tasks begin from the same weights
        return step((weights, memory), None)[0]
    return jax.lax.scan(step, (weights, memory), None, length=steps)[0]


class Unrolled(Adjoint):
    """`checkpoint`: keep only the weights of each step and compute the rest again on the way back: the memory of many
    steps is then hardly more than that of one, and a gradient takes about a third longer."""

    checkpoint: bool = eqx.field(static=True, default=False)

    exact_path = True

    def solve(self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int):
        return _descend(loss, weights, memory, update, steps, lambda tree: tree, self.checkpoint)


class FirstOrder(Adjoint):
    exact_path = True
    exact_gradient = False

    def solve(self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int):
        return _descend(loss, weights, memory, update, steps, jax.lax.stop_gradient)


def conjugate_gradients(product: Callable[[PyTree], PyTree], target: PyTree, steps: int) -> PyTree:
    """x with product(x) = target, for a symmetric positive definite product, after so many steps from 0 (Hestenes and
    Stiefel 1952). A loop of fixed length: it stands still once the residual is 0."""
    inner = lambda a, b: sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    along = lambda x, rate, d: jax.tree.map(lambda x, d: x + rate * d, x, d)
    ratio = lambda above, below: jnp.where(above == 0, 0.0, above / jnp.where(above == 0, 1.0, below))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        x, residual, direction, square = carry
        moved = product(direction)
        rate = ratio(square, inner(direction, moved))
        x, residual = along(x, rate, direction), along(residual, -rate, moved)
        new = inner(residual, residual)
        return (x, residual, along(residual, ratio(new, square), direction), new), None

    start = jax.tree.map(jnp.zeros_like, target), target, target, inner(target, target)
    return jax.lax.scan(step, start, None, length=steps)[0][0]


class Implicit(Adjoint):
    """`strength` is the paper's λ: how strongly the adapted weights are held to the start.

    Both solves are truncated, as in the paper: φ* is what the inner steps reach, and dφ*/dθ is exact as far as
    `solver_steps` conjugate gradients make it (in exact arithmetic, where they are as many as H has eigenvalues).
    """

    strength: float = eqx.field(static=True)
    solver_steps: int = eqx.field(static=True, default=5)

    exact_path = False

    def __check_init__(self):
        # Without it nothing holds to the start, and the gradient by the start is 0.
        require_above(0, strength=self.strength)
        require_whole(1, solver_steps=self.solver_steps)

    def solve(self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int):
        def optimality(adapted):
            pull = jax.tree.map(lambda a, w: self.strength * (a - w), adapted, weights)
            return jax.tree.map(jnp.add, jax.grad(loss)(adapted), pull)

        def step(carry, _):
            adapted, memory = carry
            return in_types_of(carry, update.step(adapted, optimality(adapted), loss(adapted), memory)), None

        (found, _), _ = jax.lax.scan(step, (weights, memory), None, length=steps)
        found = jax.lax.stop_gradient(found)
        # φ* solves optimality(φ*) = 0, so dφ* = −H⁻¹ ∂optimality with H its derivative by φ: one Newton step
        # whose value is 0 and whose derivative is that. H is symmetric, and constant to first order.
        residual = optimality(found)
        residual = jax.tree.map(jnp.subtract, residual, jax.lax.stop_gradient(residual))
        pull_back = jax.vjp(optimality, found)[1]  # symmetric, so back is forth; some networks have no forward mode
        hessian = lambda v: jax.lax.stop_gradient(pull_back(v)[0])
        solve = lambda product, target: conjugate_gradients(product, target, self.solver_steps)
        newton = jax.lax.custom_linear_solve(hessian, residual, solve, symmetric=True)
        # The memory is not carried on: the next solve starts from this optimum with a fresh one.
        return jax.tree.map(jnp.subtract, found, newton), memory
