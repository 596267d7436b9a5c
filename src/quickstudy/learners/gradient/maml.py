"""Learning by gradient steps: the family of MAML as a product of independent choices.

φ_0 = θ,   φ_{k+1} = u(φ_k, ∇ℓ(φ_k; support)),   prediction = f(x; φ_K)

start × inner loss × update × adjoint × which leaves are fast × how many examples a step sees

MAML       SGD, Unrolled                 Finn et al. 2017
FOMAML     SGD, FirstOrder               the same
iMAML      SGD, Implicit                 Rajeswaran et al. 2019
ANIL       SGD, only the head is fast    Raghu et al. 2020
CAVIA      SGD, only a context is fast   Zintgraf et al. 2019
Meta-SGD   a learned rate per weight     Li et al. 2017
Reptile    MAML's learner under the Reptile objective; Nichol et al. 2018
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Int, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import Output
from quickstudy.learners.gradient.adjoints import Adjoint, Unrolled
from quickstudy.learners.gradient.inner_losses import InnerLoss, must_reach
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.models import everything
from quickstudy.nn.statistics import compute_support_stats, initial_stats, with_statistics
from quickstudy.parameters import combine, partition


class GradientState(eqx.Module):
    weights: PyTree  # the fast weights φ: `start` with None where a leaf is slow
    memory: PyTree  # the update's own
    given: PyTree = ()  # statistics of the support set, of networks that normalise by them


def split(start: PyTree, fast: Callable) -> tuple[PyTree, PyTree]:
    """`start` as (fast weights, all the rest); `fast` names the part that is fast, as in `eqx.tree_at`."""
    learned, fixed = partition(start)
    nothing = jax.tree.map(lambda _: False, learned)
    chosen = eqx.tree_at(fast, nothing, replace_fn=lambda part: jax.tree.map(lambda _: True, part))
    weights, slow = eqx.partition(learned, chosen)
    return weights, (slow, fixed)


def joined(weights: PyTree, rest: PyTree) -> Callable[[PyTree], Output]:
    """The inverse of `split`."""
    slow, fixed = rest
    return combine(eqx.combine(weights, slow), fixed)


Rows = Int[Array, "steps batch"]


def descend(
    learner: Any, model: Callable, state: GradientState, experience: PyTree, rows: Rows | None = None
) -> GradientState:
    """The state after `learner.steps` steps of its update on its inner loss; `model` is one of the fast weights. Each
    step sees all of `experience`, or the examples that its line of `rows` names."""

    def solve(carry, part, steps):
        loss = lambda weights: learner.inner_loss(lambda x: model(weights)(x), part)
        return learner.adjoint.solve(loss, *carry, update=learner.update, steps=steps)

    carry = state.weights, state.memory
    if rows is None:
        carry = solve(carry, experience, learner.steps)
    else:
        of = lambda chosen: jax.tree.map(lambda leaf: leaf[chosen], experience)
        carry, _ = jax.lax.scan(lambda carry, chosen: (solve(carry, of(chosen), 1), None), carry, rows)
    weights, memory = carry
    return GradientState(weights, memory, compute_support_stats(model(weights), experience.x))


def minibatches(num: int, batch: int, steps: int, *, key: Key[Array, ""]) -> Rows:
    """Which of `num` examples each step sees: they come in random order, and again when all have had their turn."""
    rounds = jax.random.split(key, -(-steps * batch // num))
    order = jax.vmap(lambda key: jax.random.permutation(key, num))(rounds)
    return order.reshape(-1)[: steps * batch].reshape(steps, batch)


class Gradient(Learner):
    """Adapts by `steps` inner gradient steps on each segment of experience.

    `start` maps an input to an `Output` and holds the learned initialisation; `fast` names the part of it that
    adapts (a function of `start`, as in `eqx.tree_at`). With `batch` a step sees that many of the examples where there
    are more, and the next step others. Raises `Incompatible` for compositions without sense.
    """

    start: eqx.Module
    inner_loss: InnerLoss
    update: Update
    adjoint: Adjoint = Unrolled()
    steps: int = eqx.field(static=True, default=1)
    fast: Callable = eqx.field(static=True, default=everything)
    batch: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        require_whole(0, steps=self.steps)
        require_whole(1, batch=self.batch)
        if self.batch and not (self.inner_loss.has_minimiser and self.adjoint.exact_path):
            raise Incompatible(
                "batch takes examples one by one and another loss for every step: it needs a supervised inner loss, "
                "and Unrolled or FirstOrder"
            )
        if not jax.tree.leaves(self.split()[0]):
            raise Incompatible("nothing would adapt: `fast` selects no learnable array of `start`")
        must_reach(self.inner_loss, self.adjoint)
        if not self.adjoint.exact_path:
            if not self.inner_loss.has_minimiser:
                raise Incompatible(
                    f"{type(self.adjoint).__name__} differentiates the minimiser of the inner loss, and "
                    f"{type(self.inner_loss).__name__} has none; use Unrolled or FirstOrder"
                )
            if self.update.learned:
                raise Incompatible(
                    "the implicit adjoint gives a learned rate no gradient: the minimiser does not depend on it; "
                    "use a constant rate, or Unrolled"
                )

    @property
    def inner_steps(self) -> int:
        return self.steps

    def with_inner_steps(self, steps: int) -> "Gradient":
        return dataclasses.replace(self, steps=steps)

    def split(self) -> tuple[PyTree, PyTree]:
        """`start` as (fast weights, all the rest)."""
        return split(self.start, self.fast)

    def init(self, *, key: Key[Array, ""]) -> GradientState:
        del key
        weights, _ = self.split()
        return GradientState(weights, self.update.init(weights), initial_stats(self.start))

    def adapt(self, state: GradientState, experience: PyTree, *, key: Key[Array, ""]) -> GradientState:
        num = jax.tree.leaves(experience)[0].shape[0]
        rows = minibatches(num, self.batch, self.steps, key=key) if self.batch and self.batch < num else None
        return descend(self, self._model, state, experience, rows)

    def apply(self, state: GradientState, x: PyTree) -> Output:
        return with_statistics(self._model(state.weights), state.given)(x)

    replay = scan_replay

    def _model(self, weights: PyTree) -> Callable[[PyTree], Output]:
        return joined(weights, self.split()[1])
