"""Multinomial logistic regression on the examples seen so far: what needs no meta-training, a baseline.

min_W  1/n Σ_i −log softmax(W x_i + b)[y_i] + λ/2 ‖W‖²        to convergence, by L-BFGS
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.data.ring import Ring
from quickstudy.learners.replay import scan_replay


class Fit(eqx.Module):
    ring: Ring  # of examples
    weight: Float[Array, "classes features"]
    bias: Float[Array, "classes"]


class LogisticRegression(Learner):
    """Of vectors of `features` numbers into `classes`, fitted anew to all it remembers, `capacity` examples."""

    features: int = eqx.field(static=True)
    classes: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    penalty: float = eqx.field(static=True, default=1e-2)  # λ
    iterations: int = eqx.field(static=True, default=50)

    def init(self, *, key: Key[Array, ""]) -> Fit:
        del key
        ring = Ring.empty(Labelled(jnp.zeros(self.features), jnp.zeros((), int)), self.capacity)
        return Fit(ring, jnp.zeros((self.classes, self.features)), jnp.zeros(self.classes))

    def adapt(self, state: Fit, experience: Labelled, *, key: Key[Array, ""]) -> Fit:
        del key
        ring = state.ring.push(experience)
        examples, known = ring.items, ring.known

        def loss(parameters):
            weight, bias = parameters
            each = optax.softmax_cross_entropy_with_integer_labels(examples.x @ weight.T + bias, examples.y)
            return jnp.where(known, each, 0.0).sum() / known.sum() + 0.5 * self.penalty * (weight**2).sum()

        weight, bias = _minimise(loss, (state.weight, state.bias), self.iterations)
        return Fit(ring, weight, bias)

    def apply(self, state: Fit, x: Float[Array, "features"]) -> Output:
        return Output(prediction=state.weight @ x + state.bias)

    replay = scan_replay


def _minimise(loss: Callable, start: Any, iterations: int) -> Any:
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        parameters, memory = carry
        value, gradient = value_and_grad(parameters, state=memory)
        moves, memory = solver.update(gradient, memory, parameters, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(parameters, moves), memory), None

    return jax.lax.scan(step, (start, solver.init(start)), None, length=iterations)[0][0]
