"""The baselines of the two-step task (tasks.two_step): agents without meta-parameters, after Daw et al. 2011.

    model-free     Q(a) ← Q(a) + α (r − Q(a))  of the choice that was made
    model-based    V(s) ← V(s) + α (r − V(s))  of the state it led to,    Q(a) = Σ_s p(s|a) V(s)
    Bayes-optimal  b = P(state 0 pays more | all seen),    Q(a) = Σ_s p(s|a) (reward to expect in s)

The first two choose with probability ∝ exp(β Q); α and β are to be tuned on validation tasks. The last is greedy: the
states' rewards mirror each other, so either one is as informative as the other and there is nothing to explore.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.checks import require_between
from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.distributions import Categorical, Deterministic
from quickstudy.learners.inner_rl.tabular import one_by_one
from quickstudy.learners.replay import scan_replay
from quickstudy.tasks.two_step import COMMON, PAYS, SWITCHES, value


class TwoStepValues(Learner):
    """Learns values of the two choices or, with a model, of the two states; they are its state."""

    rate: float = eqx.field(static=True)
    sharpness: float = eqx.field(static=True)  # β
    with_model: bool = eqx.field(static=True)

    differentiable = False

    def __check_init__(self):
        require_between(0, 1, rate=self.rate)

    def init(self, *, key: Key[Array, ""]) -> Float[Array, "2"]:
        del key
        return jnp.full(2, 0.5)

    def adapt(self, state: Float[Array, "2"], experience: Transition, *, key: Key[Array, ""]) -> Float[Array, "2"]:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Float[Array, "2"], t: Transition, key: Key[Array, ""]) -> Float[Array, "2"]:
        del key
        of = t.next_observation.argmax() if self.with_model else t.action
        return state.at[of].add(self.rate * (t.reward - state[of]))

    def apply(self, state: Float[Array, "2"], x: Float[Array, "2"]) -> Output:
        del x
        q = COMMON * state + (1 - COMMON) * state[::-1] if self.with_model else state
        return Output(policy=Categorical(self.sharpness * q))

    replay = scan_replay


class TwoStepFilter(Learner):
    """The Bayes-optimal agent, whose state is b."""

    differentiable = False

    def init(self, *, key: Key[Array, ""]) -> Float[Array, ""]:
        del key
        return jnp.full((), 0.5)

    def adapt(self, state: Float[Array, ""], experience: Transition, *, key: Key[Array, ""]) -> Float[Array, ""]:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Float[Array, ""], t: Transition, key: Key[Array, ""]) -> Float[Array, ""]:
        del key
        speaks_for = (t.next_observation.argmax() == 0) == (t.reward > 0)
        likely = jnp.where(speaks_for, PAYS, 1 - PAYS)
        belief = state * likely / (state * likely + (1 - state) * (1 - likely))
        return belief * (1 - SWITCHES) + (1 - belief) * SWITCHES

    def apply(self, state: Float[Array, ""], x: Float[Array, "2"]) -> Output:
        del x
        return Output(policy=Deterministic(value(state).argmax()))

    replay = scan_replay
