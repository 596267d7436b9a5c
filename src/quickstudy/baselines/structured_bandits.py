"""The baselines of the eleven arms (tasks.structured_bandits.InformativeBandits): strategies without meta-parameters.

    asks        pulls the informative arm, then the one it names                                     Bayes-optimal
    searches    pulls one arm after another until one pays more than the others

A reward reveals which arm it came from: 5 from the target, less than 1.1 from the informative arm, whose reward is the
number of the target in tenths.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.distributions import Deterministic
from quickstudy.learners.inner_rl.tabular import one_by_one
from quickstudy.learners.replay import scan_replay
from quickstudy.tasks.structured_bandits import TARGET, UNIT


class TargetSearch(Learner):
    """Either strategy; its state is the arm to pull next."""

    targets: int = eqx.field(static=True, default=10)
    asks: bool = eqx.field(static=True, default=True)

    differentiable = False

    def __check_init__(self):
        require_whole(1, targets=self.targets)

    def init(self, *, key: Key[Array, ""]) -> Int[Array, ""]:
        del key
        return jnp.full((), self.targets if self.asks else 0)

    def adapt(self, state: Int[Array, ""], experience: Transition, *, key: Key[Array, ""]) -> Int[Array, ""]:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Int[Array, ""], t: Transition, key: Key[Array, ""]) -> Int[Array, ""]:
        del state, key
        named = jnp.rint(t.reward / UNIT).astype(int) - 1
        other = jnp.where(t.reward == TARGET, t.action, (t.action + 1) % self.targets)
        return jnp.where(t.action == self.targets, named, other)

    def apply(self, state: Int[Array, ""], x: PyTree) -> Output:
        del x
        return Output(policy=Deterministic(state))

    replay = scan_replay
