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

from quickstudy.learners.gradient.updates import Update

Loss = Callable[[PyTree], Float[Array, ""]]


class Adjoint(eqx.Module):
    exact_path: ClassVar[bool]  # whether what shapes the path (a learned rate) gets a gradient
    exact_gradient: ClassVar[bool] = True  # and what shapes the inner gradient

    @abc.abstractmethod
    def solve(
        self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int
    ) -> tuple[PyTree, PyTree]:
        """`steps` steps of `update` on `loss`, from `weights`: (adapted weights, the update's memory)."""


def _descend(loss: Loss, weights: PyTree, memory: PyTree, update: Update, steps: int, seen: Callable):
    def step(carry, _):
        weights, memory = carry
        value, gradient = seen(jax.value_and_grad(loss)(seen(weights)))
        return update.step(weights, gradient, value, memory), None

    if steps == 1:  # outside a loop XLA sees that all tasks begin from the same weights
        return step((weights, memory), None)[0]
    return jax.lax.scan(step, (weights, memory), None, length=steps)[0]


class Unrolled(Adjoint):
    exact_path = True

    def solve(self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int):
        return _descend(loss, weights, memory, update, steps, lambda tree: tree)


class FirstOrder(Adjoint):
    exact_path = True
    exact_gradient = False

    def solve(self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int):
        return _descend(loss, weights, memory, update, steps, jax.lax.stop_gradient)


class Implicit(Adjoint):
    """`strength` is the paper's λ: how strongly the adapted weights are held to the start."""

    strength: float = eqx.field(static=True)
    solver_steps: int = eqx.field(static=True, default=5)

    exact_path = False

    def solve(self, loss: Loss, weights: PyTree, memory: PyTree, *, update: Update, steps: int):
        def optimality(adapted):
            pull = jax.tree.map(lambda a, w: self.strength * (a - w), adapted, weights)
            return jax.tree.map(jnp.add, jax.grad(loss)(adapted), pull)

        def step(carry, _):
            adapted, memory = carry
            return update.step(adapted, optimality(adapted), loss(adapted), memory), None

        (found, _), _ = jax.lax.scan(step, (weights, memory), None, length=steps)
        found = jax.lax.stop_gradient(found)
        # φ* solves optimality(φ*) = 0, so dφ* = −H⁻¹ ∂optimality with H its derivative by φ: one Newton step
        # whose value is 0 and whose derivative is that. H is symmetric, and constant to first order.
        residual = optimality(found)
        residual = jax.tree.map(jnp.subtract, residual, jax.lax.stop_gradient(residual))
        pull_back = jax.vjp(optimality, found)[1]  # symmetric, so back is forth; some networks have no forward mode
        hessian = lambda v: jax.lax.stop_gradient(pull_back(v)[0])
        newton, _ = jax.scipy.sparse.linalg.cg(hessian, residual, maxiter=self.solver_steps, tol=0.0)
        # The memory is not carried on: the next solve starts from this optimum with a fresh one.
        return jax.tree.map(jnp.subtract, found, newton), memory
