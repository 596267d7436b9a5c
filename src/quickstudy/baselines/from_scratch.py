"""A network that is initialised at random for every task and trained on it: only the update rule can be meta-learned.

    φ_0 ~ draw,   φ_{k+1} = u(φ_k, ∇ℓ(φ_k; support)),   prediction = f(x; φ_K)

With a learned update it is a learned optimiser (Andrychowicz et al. 2016): the update rule alone is meta-learned, and
serves from any start. With Adam it is the baseline for that, learning from scratch.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Output
from quickstudy.learners.gradient.adjoints import Adjoint, FirstOrder
from quickstudy.learners.gradient.inner_losses import InnerLoss, must_reach
from quickstudy.learners.gradient.maml import GradientState, descend
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.initialisation import require_alike
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.statistics import initial_stats, with_statistics
from quickstudy.parameters import combine, partition


class FromScratch(Learner):
    """`draw` makes a model from a key (as the `start` of Gradient, but never learned); all of it adapts."""

    draw: Callable[[Key[Array, ""]], PyTree] = eqx.field(static=True)
    inner_loss: InnerLoss
    update: Update
    adjoint: Adjoint = FirstOrder()
    steps: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        require_whole(0, steps=self.steps)
        require_alike(self.draw)
        must_reach(self.inner_loss, self.adjoint)

    @property
    def inner_steps(self) -> int:
        return self.steps

    def with_inner_steps(self, steps: int) -> "FromScratch":
        return dataclasses.replace(self, steps=steps)

    def init(self, *, key: Key[Array, ""]) -> GradientState:
        model = self.draw(key)
        weights, _ = partition(model)
        return GradientState(weights, self.update.init(weights), initial_stats(model))

    def adapt(self, state: GradientState, experience: PyTree, *, key: Key[Array, ""]) -> GradientState:
        del key
        return descend(self, self._model, state, experience)

    def apply(self, state: GradientState, x: PyTree) -> Output:
        return with_statistics(self._model(state.weights), state.given)(x)

    replay = scan_replay

    def _model(self, weights: PyTree) -> Callable[[PyTree], Output]:
        _, rest = partition(self.draw(jax.random.key(0)))  # `require_alike` saw to it that any key gives the same
        return combine(weights, rest)
