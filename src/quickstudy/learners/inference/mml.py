"""Meta-model learning: the trial so far becomes a distribution over models of the task, and the agent plans in a draw.

    belief = model(seen)                             a distribution over r(s, a) and p(·|s, a): see meta_models.py
    (r, p) ~ belief                                  one model an episode, acted in by backward induction

The meta-model is learned in the outer loop from what comes later in the same trial, predicted before it is seen, with p̂
and r̂ the means of the belief:

    likelihood    −log p(s', r | s, a, seen)
    equivalence   |p̂ V̄ + r̂ − (r + γ V̄(s'))|²        V̄: the value of the plan in the mean model, held constant

With a constant prior and ω = 1 the belief is the conjugate posterior, so acting by it is posterior sampling (Strens
2000; Osband, Russo, Van Roy 2013) under a prior that is learned and depends on the task. The value-equivalent loss is
that of Farahmand, Barreto, Nikovski 2017 and Grimm, Barreto, Singh, Silver 2020. docs/learners/mml.md says where the
name comes from.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.checks import require_between, require_whole
from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import Output, RolloutBatch, Transition
from quickstudy.learners.inference.meta_models import Amortised, Belief
from quickstudy.learners.inference.mixture import Mixture, MixtureBelief
from quickstudy.learners.inner_rl.tabular import epsilon_greedy, one_by_one, outcome
from quickstudy.learners.replay import scan_replay
from quickstudy.parameters import unwrap
from quickstudy.rl.losses import mean, start_of
from quickstudy.rl.planning import backward_induction, greedy, lazy_cond, planned_action


class Believed(eqx.Module):
    seen: PyTree  # what the meta-model keeps of the trial so far
    posterior_key: Array  # the data of the key by which this episode's model is drawn
    policy: Int[Array, "episode states"]  # of that model
    time: Int[Array, ""]  # within the episode


class Prediction(eqx.Module):
    """What is expected of a step before it is taken."""

    belief: Belief | MixtureBelief  # the rows of its state
    following: Float[Array, "outcomes"]  # γ V̄ of what it may lead to


class MML(Learner):
    """Acts by the plan for a model that is drawn anew each episode; adapts after each step.

    An observation is a state, one-hot.
    episode: steps after which the environment truncates an episode. Where one goes on beyond it there is no plan, and
        logits are NaN
    discount: γ in [0, 1], within the episode
    spread: 1 draws from the belief (of a mixture: a kind, and plans in its mean), 0 plans in the mean of all, and
        between them draws are nearer to it
    bonus: standard deviations that are added to each mean reward; a number, or a leaf that evolution may learn
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
        require_whole(1, episode=self.episode)
        require_between(0, 1, discount=self.discount, spread=self.spread, epsilon=self.epsilon)

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
        plan = lambda arrays, *arguments: eqx.combine(arrays, rest)._plan(*arguments)
        policy = lazy_cond(ended | self.replan, plan, (arrays, seen, posterior_key), state.policy, at_once=True)
        return Believed(seen, posterior_key, policy, jnp.where(ended, 0, state.time + 1))

    def _plan(self, seen: PyTree, posterior_key: Array) -> Int[Array, "episode states"]:
        """The plan for the model that this key draws; an action has no derivative."""
        belief, bonus = jax.lax.stop_gradient((self.model(seen), unwrap(self.bonus)))
        reward, transition = belief.draw(self.spread, key=jax.random.wrap_key_data(posterior_key))
        return greedy(self.values(reward + bonus * jnp.sqrt(belief.variance), transition))

    def values(self, reward: Array, transition: Array) -> Float[Array, "episode states actions"]:
        """The optimal Q of a model at each moment of an episode, whose end is worth 0."""
        states, _, _ = self.model.size
        return backward_induction(reward, self.discount * transition[..., :states], self.episode)

    def apply(self, state: Believed, x: Float[Array, "states"]) -> Output:
        best = planned_action(state.policy, state.time, x.argmax(), self.model.size[1])
        return Output(policy=epsilon_greedy(best, self.epsilon))

    def predictions(self, state: Believed, t: Transition) -> Prediction:
        """What is expected of each step of a trial [time], which begins in `state`. Nothing is planned for acting."""

        def step(carry, t: Transition):
            seen, time = carry
            belief = self.model(seen)
            prediction = Prediction(belief.of(t.observation), self._following(belief, time))
            return (self.model.after(seen, t), jnp.where(t.terminated | t.truncated, 0, time + 1)), prediction

        return jax.lax.scan(step, (state.seen, state.time), t)[1]

    def _following(self, belief: Belief | MixtureBelief, time: Int[Array, ""]) -> Float[Array, "outcomes"]:
        belief = jax.lax.stop_gradient(belief)
        value = self.values(belief.reward, belief.transition).max(-1)
        states, _, outcomes = self.model.size
        later = jnp.concatenate([value[1:], jnp.zeros((1, states))])[time]
        return self.discount * jnp.pad(later, (0, outcomes - states))

    replay = scan_replay


def likelihood(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """−log p(s', r | s, a, seen): how surprising each step was, in nats."""

    def surprise(prediction: Prediction, t: Transition) -> Array:
        action = jax.nn.one_hot(t.action, prediction.belief.reward.size)
        return -prediction.belief.log_prob(action, outcome(t, prediction.following.size), t.reward)

    return _mean_over_steps(surprise, learner, batch)


def equivalence(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """|p̂ V̄ + r̂ − (r + γ V̄(s'))|²: a model need only be right about what values depend on."""

    def error(prediction: Prediction, t: Transition) -> Array:
        belief, taken = prediction.belief, jax.nn.one_hot(t.action, prediction.belief.reward.size)
        expected = taken @ (belief.reward + belief.transition @ prediction.following)
        return (expected - t.reward - outcome(t, prediction.following.size) @ prediction.following) ** 2

    return _mean_over_steps(error, learner, batch)


def _mean_over_steps(measure: Callable[[Prediction, Transition], Array], learner: Any, batch: RolloutBatch) -> Array:
    if not isinstance(learner, MML):
        raise Incompatible(f"this loss is of what MML predicts, and {type(learner).__name__} is another learner")
    t = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.transition)
    measured = jax.vmap(measure)(learner.predictions(start_of(learner, batch), t), t)
    return mean(measured.reshape(batch.log_prob.shape), batch)
