"""The meta-model of K kinds of task, each with a prior α_k, μ_k, κ_k of its own (see meta_models.py) and ω = 1. The
probability that a task is of each kind follows by Bayes' rule, one transition after another:

    p(k | seen) ∝ π_k Π_t p_k(s', r | s, a, seen before)

A belief that is independent from pair to pair cannot know that a maze has one goal: draws from it have several, or
none. A draw of a kind, with what that kind expects of every pair, agrees with itself; what is uncertain within a kind
is not drawn.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.checks import require_whole
from quickstudy.data.batches import Transition
from quickstudy.learners.inference.meta_models import Belief, Prior, posterior
from quickstudy.learners.inner_rl.tabular import Statistics, outcome
from quickstudy.parameters import Positive, unwrap


class Weighed(eqx.Module):
    statistics: Statistics
    evidence: Float[Array, "kinds"]  # log p of all transitions in a task of each kind, up to a constant


class MixtureBelief(eqx.Module):
    """Kinds of task and their log-probabilities: of the whole task, or the rows of one state."""

    log_weights: Float[Array, "kinds"]
    prior: Prior  # [*pairs, kinds, ...]
    seen: Statistics  # [*pairs, ...]
    noise: Float[Array, ""]

    @property
    def each(self) -> Belief:
        """The belief given that the task is of each kind: [*pairs, kinds, ...]."""
        seen = Statistics(self.seen.moves[..., None, :], self.seen.rewards[..., None], self.seen.ended[..., None])
        return posterior(self.prior, seen, 1.0, self.noise)

    @property
    def transition(self) -> Float[Array, "*pairs outcomes"]:
        # Σ_k w_k (α_k + moves) / Σ(α_k + moves), without an array of all tasks, kinds and outcomes.
        strength = self.prior.concentration.sum(-1) + self.seen.visits[..., None]
        share = jnp.exp(self.log_weights) / strength
        expected = jnp.einsum("...k,...ko->...o", share, self.prior.concentration)
        return expected + share.sum(-1, keepdims=True) * self.seen.moves

    @property
    def reward(self) -> Float[Array, "*pairs"]:
        return self.each.reward @ jnp.exp(self.log_weights)

    @property
    def variance(self) -> Float[Array, "*pairs"]:
        each = self.each
        apart = each.reward - self.reward[..., None]
        return (each.variance + apart**2) @ jnp.exp(self.log_weights)

    @property
    def transition_deviation(self) -> Float[Array, "*pairs outcomes"]:
        each = self.each
        apart = each.transition - self.transition[..., None, :]
        square = each.transition_deviation**2 + apart**2
        return jnp.sqrt(jnp.einsum("k,...ko->...o", jnp.exp(self.log_weights), square))

    def draw(self, spread: float, *, key: Key[Array, ""]) -> tuple[Array, Array]:
        """(rewards, transitions) in the mean of one kind, its distance from the mean of all scaled by `spread`."""
        mean = self.reward, self.transition
        if spread == 0:
            return mean
        kind = jax.random.categorical(key, self.log_weights)
        prior = Prior(
            self.prior.concentration[..., kind, :], self.prior.reward[..., kind], self.prior.certainty[..., kind]
        )
        drawn = posterior(prior, self.seen, 1.0, self.noise)
        towards = lambda drawn, mean: mean + spread * (drawn - mean)
        return towards(drawn.reward, mean[0]), towards(drawn.transition, mean[1])

    def of(self, x: Float[Array, "states"]) -> "MixtureBelief":
        """The rows of one state."""
        prior, seen = jax.tree.map(lambda table: jnp.tensordot(x, table, 1), (self.prior, self.seen))
        return MixtureBelief(self.log_weights, prior, seen, self.noise)

    def log_prob(self, action: Array, to: Array, reward: Array) -> Float[Array, ""]:
        """The log-probability of one step's outcome and reward; see `Belief.log_prob`."""
        return jax.nn.logsumexp(self.log_weights + self.each.log_prob(action, to, reward))


class Mixture(eqx.Module):
    """`kinds` priors, each the sum of a shared table and a small random one of its own.

    Its log-probabilities of one step after another add up to the marginal likelihood of the trial. So the loss
    `likelihood` fits the priors by maximum likelihood (empirical Bayes), and its beliefs are the exact posterior under
    them.
    """

    shared: Float[Array, "states actions 1 numbers"]  # as `Prior.of` takes them
    own: Float[Array, "states actions kinds numbers"]
    frequency: Float[Array, "kinds"]  # logits of π
    noise: Positive  # σ
    size: tuple[int, int, int] = eqx.field(static=True)

    def __init__(
        self, states: int, actions: int, outcomes: int, *, kinds: int, key: Key[Array, ""], unlike: float = 0.3
    ):
        require_whole(1, states=states, actions=actions, outcomes=outcomes, kinds=kinds)
        self.size = states, actions, outcomes
        self.shared = jnp.zeros((states, actions, 1, outcomes + 3))
        self.own = unlike * jax.random.normal(key, (states, actions, kinds, outcomes + 3))
        self.frequency, self.noise = jnp.zeros(kinds), Positive(1.0)

    def nothing(self) -> Weighed:
        return Weighed(Statistics.none(*self.size), jnp.zeros(len(self.frequency)))

    def after(self, seen: Weighed, t: Transition) -> Weighed:
        rows, action = self(seen).of(t.observation), jax.nn.one_hot(t.action, self.size[1])
        evidence = seen.evidence + rows.each.log_prob(action, outcome(t, self.size[2]), t.reward)
        # Only differences count, and in a long trial those of large numbers would be lost.
        return Weighed(seen.statistics.add(t), evidence - jax.nn.logsumexp(evidence))

    def __call__(self, seen: Weighed) -> MixtureBelief:
        log_weights = jax.nn.log_softmax(self.frequency + seen.evidence)
        return MixtureBelief(log_weights, Prior.of(self.shared + self.own), seen.statistics, unwrap(self.noise))
