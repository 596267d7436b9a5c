"""Multinomial logistic regression on the examples so far, a baseline that needs no meta-training.

min_W  1/n Σ_i −log softmax(W x_i + b)[y_i] + λ/2 ‖W‖²        to convergence, by L-BFGS

A fit whose gradient is still more than `RESIDUAL` of that at W = 0 after all iterations has not converged: its
predictions are NaN, so that the task counts as diverged.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from quickstudy.checks import require_at_least, require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.data.ring import Ring
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.measures import require_labels

RESIDUAL = 1e-3


class Fit(eqx.Module):
    ring: Ring  # of examples
    weight: Float[Array, "classes features"]
    bias: Float[Array, "classes"]  # at `centre`
    centre: Float[Array, "features"]  # mean of the examples


class LogisticRegression(Learner):
    """Logistic regression of vectors of `features` numbers into `classes`, fitted anew to the last `capacity` items."""

    features: int = eqx.field(static=True)
    classes: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    penalty: float = eqx.field(static=True, default=1e-2)  # λ
    iterations: int = eqx.field(static=True, default=50)

    def __check_init__(self):
        require_whole(1, features=self.features, capacity=self.capacity, iterations=self.iterations)
        require_whole(2, classes=self.classes)
        require_at_least(0, penalty=self.penalty)

    def init(self, *, key: Key[Array, ""]) -> Fit:
        del key
        ring = Ring.empty(Labelled(jnp.zeros(self.features), jnp.zeros((), int)), self.capacity)
        weight, nowhere = jnp.zeros((self.classes, self.features)), jnp.zeros(self.features)
        return Fit(ring, weight, jnp.zeros(self.classes), nowhere)

    def adapt(self, state: Fit, experience: Labelled, *, key: Key[Array, ""]) -> Fit:
        del key
        require_labels(experience.y)
        ring = state.ring.push(experience)
        examples, valid = ring.items, ring.known
        num = jnp.maximum(valid.sum(), 1)
        # From their mean: the bias is free, so the fit is the same, and no search ends before it has found an offset.
        centre = jnp.where(valid[:, None], examples.x, 0.0).sum(0) / num
        x = jnp.where(valid[:, None], examples.x - centre, 0.0)

        def loss(parameters):
            weight, bias = parameters
            each = optax.softmax_cross_entropy_with_integer_labels(x @ weight.T + bias, examples.y)
            return jnp.where(valid, each, 0.0).sum() / num + 0.5 * self.penalty * (weight**2).sum()

        before = state.bias + state.weight @ (centre - state.centre)
        found = _minimise(loss, (state.weight, before), self.iterations)
        steepness = lambda at: optax.tree.norm(jax.grad(loss)(at))
        converged = steepness(found) <= RESIDUAL * jnp.maximum(steepness(jax.tree.map(jnp.zeros_like, found)), 1e-3)
        # Labels of no class say nothing of any: what was fitted to them is no answer.
        sound = converged & ((examples.y >= 0) & (examples.y < self.classes) | ~valid).all()
        weight, bias = jax.tree.map(lambda w: jnp.where(sound, w, jnp.nan), found)
        return Fit(ring, weight, bias, centre)

    def apply(self, state: Fit, x: Float[Array, "features"]) -> Output:
        return Output(prediction=state.weight @ (x - state.centre) + state.bias)

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
