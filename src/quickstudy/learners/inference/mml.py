"""Meta-model learning: what was seen of a task becomes a distribution over models of it, and the agent plans in a draw.

    belief = model(seen)                             a distribution over r(s, a) and p(·|s, a): see meta_models.py
    (r, p) ~ belief                                  one model an episode, acted in by backward induction

What the meta-model holds is learned outside from what comes later in the same trial, said before it was seen, with p̂
and r̂ the means of the belief:

    likelihood    −log p(s', r | s, a, seen)
    equivalence   |p̂ V̄ + r̂ − (r + γ V̄(s'))|²        V̄: the value of the plan in the mean model, held constant

With a constant prior and ω = 1 the belief is the conjugate posterior, so acting by it is posterior sampling (Strens
2000; Osband, Russo, Van Roy 2013) under a prior that is learned and depends on the task. The value-equivalent loss is
that of Farahmand, Barreto, Nikovski 2017 and Grimm, Barreto, Singh, Silver 2020. docs/learners/mml.md says where the
name comes from.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.learners.inference.meta_models import Amortised, Belief
from quickstudy.learners.inference.mixture import Mixture, MixtureBelief
from quickstudy.learners.inner_rl.tabular import epsilon_greedy, one_by_one, outcome
from quickstudy.learners.replay import scan_replay
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import unwrap
from quickstudy.rl.losses import mean
from quickstudy.rl.planning import backward_induction, greedy, lazy_cond


class Believed(eqx.Module):
    seen: PyTree  # what the meta-model keeps of the trial so far
    posterior_key: Array  # the data of the key by which this episode's model is drawn
    policy: Int[Array, "episode states"]  # of that model
    time: Int[Array, ""]  # within the episode


class Reconstructed(eqx.Module):
    """What is said of a step before it is taken."""

    belief: Belief | MixtureBelief  # the rows of its state
    following: Float[Array, "outcomes"]  # γ V̄ of what it may lead to


class MML(Learner):
    """Acts by the plan for a model that is drawn anew each episode; absorbs one step after another.

    An observation is a state, one-hot.
    episode: steps after which an episode is cut
    discount: γ in [0, 1], within the episode
    spread: 1 draws from the belief (of a mixture: a kind, and plans in its mean), 0 plans in the mean of all, and
        between them draws are nearer to it
    bonus: what is added to each mean reward, in standard deviations of it; a number, or a leaf that evolution may learn
    epsilon: probability of any action instead of the planned one
    replan: plan anew at every step, with the same posterior-sampling key until the episode ends, so that the model
        changes only as the belief does; else a plan stands until then
    """

    model: Amortised | Mixture
    episode: int = eqx.field(static=True)
    discount: float = eqx.field(static=True, default=1.0)
    spread: float = eqx.field(static=True, default=1.0)
    bonus: Any = 0.0
    epsilon: float = eqx.field(static=True, default=0.0)
    replan: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread must lie in [0, 1], got {self.spread}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must lie in [0, 1], got {self.epsilon}")

    def init(self, *, key: Key[Array, ""]) -> Believed:
        seen, posterior_key = self.model.nothing(), jax.random.key_data(key)
        return Believed(seen, posterior_key, self._plan(seen, posterior_key), jnp.zeros((), int))

    def adapt(self, state: Believed, experience: Transition, *, key: Key[Array, ""]) -> Believed:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Believed, t: Transition, key: Key[Array, ""]) -> Believed:
        seen = self.model.after(state.seen, t)
        ended = t.terminated | t.truncated
        posterior_key = jnp.where(ended, jax.random.key_data(key), state.posterior_key)
        arrays, rest = eqx.partition(self, eqx.is_array)
        plan = lambda arrays, *given: eqx.combine(arrays, rest)._plan(*given)
        given = jax.lax.stop_gradient((arrays, seen, posterior_key))  # a condition can not be differentiated
        policy = lazy_cond(ended | self.replan, plan, given, state.policy, at_once=True)
        return Believed(seen, posterior_key, policy, jnp.where(ended, 0, state.time + 1))

    def _plan(self, seen: PyTree, posterior_key: Array) -> Int[Array, "episode states"]:
        belief = self.model(seen)
        reward, transition = belief.draw(self.spread, key=jax.random.wrap_key_data(posterior_key))
        return greedy(self.values(reward + unwrap(self.bonus) * jnp.sqrt(belief.variance), transition))

    def values(self, reward: Array, transition: Array) -> Float[Array, "episode states actions"]:
        """The optimal Q of a model at each moment of an episode; past its end there is nothing."""
        states, _, _ = self.model.size
        return backward_induction(reward, self.discount * transition[..., :states], self.episode)

    def apply(self, state: Believed, x: Float[Array, "states"]) -> Output:
        belief = self.model(state.seen)
        best = jax.nn.one_hot(state.policy[state.time, x.argmax()], self.model.size[1])
        return Output(
            policy=epsilon_greedy(best, self.epsilon),
            prediction=Reconstructed(belief.of(x), self._following(belief, state.time)),
        )

    def _following(self, belief: Belief | MixtureBelief, time: Int[Array, ""]) -> Float[Array, "outcomes"]:
        belief = jax.lax.stop_gradient(belief)
        value = self.values(belief.reward, belief.transition).max(-1)
        states, _, outcomes = self.model.size
        later = jnp.concatenate([value[1:], jnp.zeros((1, states))])[time]
        return self.discount * jnp.pad(later, (0, outcomes - states))

    replay = scan_replay


def likelihood(outputs: Output, lived: Any) -> Float[Array, ""]:
    """−log p(s', r | s, a, seen): how surprising each step was, in nats."""

    def surprise(said: Reconstructed, t: Transition) -> Array:
        action = jax.nn.one_hot(t.action, said.belief.reward.size)
        return -said.belief.log_prob(action, outcome(t, said.following.size), t.reward)

    return mean(over_axes(surprise, lived.log_prob.ndim)(outputs.prediction, lived.transition), lived)


def equivalence(outputs: Output, lived: Any) -> Float[Array, ""]:
    """|p̂ V̄ + r̂ − (r + γ V̄(s'))|²: a model need only be right about what values depend on."""

    def error(said: Reconstructed, t: Transition) -> Array:
        belief, taken = said.belief, jax.nn.one_hot(t.action, said.belief.reward.size)
        expected = taken @ (belief.reward + belief.transition @ said.following)
        return (expected - t.reward - outcome(t, said.following.size) @ said.following) ** 2

    return mean(over_axes(error, lived.log_prob.ndim)(outputs.prediction, lived.transition), lived)
