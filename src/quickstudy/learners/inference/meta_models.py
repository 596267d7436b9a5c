"""Meta-models, in which MML plans: from the counts of a task to a distribution over models of it.

Meta-models have priors, from which the conjugate formulas go on, for each state and action:

    p(·|s, a) ~ Dirichlet(α + ω w)                   w: how often (s, a) led where;  n = Σ w
    r(s, a) ~ N((κ μ + ω R)/(κ + ω n), σ²/(κ + ω n)) R: the sum of its rewards, which scatter by σ about r(s, a)

Outcomes are the states and, where episodes may terminate, the end. Where the end is left out the prior gives it no
weight, and visits that terminated count all the same: as visits that led to none of the outcomes. Meta-models
differ in where α, μ, κ come from:

    Amortised    one prior, of what the task looks like: α, μ, κ = g_ψ(z),  z = e_ψ(w, R)
    Mixture      one for each of some kinds of task, in `mixture.py`
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.data.batches import Transition
from quickstudy.learners.inner_rl.tabular import Statistics, draw_transition
from quickstudy.nn.layers import Linear
from quickstudy.nn.models import MLP
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import Positive, unwrap

LEAST = 1e-30  # of a probability, so that its logarithm and the slope of that are finite


def seen_in(model: Any, t: Transition) -> PyTree:
    """The meta-model's statistics of a trial, whose leaves are [time, ...]."""
    return jax.lax.scan(lambda seen, t: (model.after(seen, t), None), model.nothing(), t)[0]


class Prior(eqx.Module):
    """The prior of each (s, a), before it is tried."""

    concentration: Float[Array, "*pairs outcomes"]  # α
    reward: Float[Array, "*pairs"]  # μ
    certainty: Float[Array, "*pairs"]  # κ, in visits

    @staticmethod
    def of(tables: Float[Array, "*pairs numbers"]) -> "Prior":
        """From logits, log Σα, μ and log κ side by side: outcomes + 3 numbers."""
        strength, reward, certainty = jnp.moveaxis(tables[..., -3:], -1, 0)
        return Prior(jnp.exp(strength)[..., None] * jax.nn.softmax(tables[..., :-3]), reward, jnp.exp(certainty))


class Belief(eqx.Module):
    """A distribution over models, independent from pair to pair: of the whole task, or the rows of one state."""

    concentration: Float[Array, "*pairs outcomes"]  # of the Dirichlet
    ended: Float[Array, "*pairs"]  # its concentration at the end of an episode, where that is not an outcome
    reward: Float[Array, "*pairs"]  # mean of the mean reward
    variance: Float[Array, "*pairs"]  # of the mean reward
    noise: Float[Array, ""]  # σ: deviation of a reward from its mean

    @property
    def transition(self) -> Float[Array, "*pairs outcomes"]:
        """The mean transitions; what is missing to 1 is the probability of an end that is not an outcome."""
        return self.concentration / (self.concentration.sum(-1) + self.ended)[..., None]

    @property
    def transition_deviation(self) -> Float[Array, "*pairs outcomes"]:
        """How uncertain each probability is, as a standard deviation."""
        p = self.transition
        return jnp.sqrt(p * (1 - p) / (1 + self.concentration.sum(-1) + self.ended)[..., None])

    def draw(self, spread: float, *, key: Key[Array, ""]) -> tuple[Array, Array]:
        """(rewards, transitions) of one model, its distance from the mean model scaled by `spread`."""
        if spread == 0:
            return self.reward, self.transition
        move, pay = jax.random.split(key)
        transition = draw_transition(self.concentration, self.ended, key=move)
        reward = spread * jnp.sqrt(self.variance) * jax.random.normal(pay, self.reward.shape)
        return self.reward + reward, self.transition + spread * (transition - self.transition)

    def of(self, x: Float[Array, "states"]) -> "Belief":
        """The rows of one state."""
        row = lambda table: jnp.tensordot(x, table, 1)  # a product: its derivative is one too
        return Belief(row(self.concentration), row(self.ended), row(self.reward), row(self.variance), self.noise)

    def log_prob(self, action: Array, to: Array, reward: Array) -> Float[Array, "*kinds"]:
        """The log-probability of one step's outcome and reward under the rows of its state, [actions, ...]. `action`
        and `to` are one-hot; `to` is zeros where the episode terminated and the end is not an outcome."""
        deviation = jnp.sqrt(self.noise**2 + action @ self.variance)
        paid = jax.scipy.stats.norm.logpdf(reward, action @ self.reward, deviation)
        row = jnp.tensordot(action, self.transition, 1)
        likely = row @ to + (1 - to.sum()) * (1 - row.sum(-1))
        return jnp.log(jnp.maximum(likely, LEAST)) + paid


def posterior(prior: Prior, seen: Statistics, trust: Array | float, noise: Array) -> Belief:
    """The belief by the conjugate formulas, where a visit counts `trust`."""
    certainty = prior.certainty + trust * seen.visits
    reward = (prior.certainty * prior.reward + trust * seen.rewards) / certainty
    concentration = prior.concentration + trust * seen.moves
    ended = jnp.broadcast_to(trust * seen.ended, reward.shape)
    return Belief(concentration, ended, reward, noise**2 / certainty, noise)


class Amortised(eqx.Module):
    """A network from statistics to a belief. The encoder sees the statistics of all pairs as they are, so that it can
    distinguish known tables, beside the sum of a network of each pair's own, the same for all pairs, which
    says what they have in common. The generator is linear in z: a part for each pair and a part that all share.

    steps: gradient steps that refine z, with a learned rate
    """

    pair: MLP
    encode: MLP
    shared: Linear
    own: Linear
    trust: Positive  # ω
    noise: Positive  # σ
    rate: Positive | None  # η
    size: tuple[int, int, int] = eqx.field(static=True)  # states, actions, outcomes
    steps: int = eqx.field(static=True)

    def __init__(
        self,
        states: int,
        actions: int,
        outcomes: int,
        *,
        key: Key[Array, ""],
        hidden: int = 64,
        latent: int = 32,
        steps: int = 0,
        rate: float = 0.1,
    ):
        require_whole(1, states=states, actions=actions, outcomes=outcomes, hidden=hidden, latent=latent)
        require_whole(0, steps=steps)
        keys = jax.random.split(key, 4)
        pooled, each = hidden // 4, outcomes + 3
        self.pair = MLP((outcomes + 2, pooled, pooled), key=keys[0], activation=jnp.tanh)
        everything = states * actions * (outcomes + 1)
        self.encode = MLP((everything + pooled, hidden, latent), key=keys[1], activation=jnp.tanh)
        # A generator near 0: the model starts from one prior for all tasks, α = 1/outcomes, μ = 0 and κ = 1.
        small = lambda layer: jax.tree.map(lambda w: 0.1 * w, layer)
        none = lambda layer: eqx.tree_at(lambda l: l.bias, layer, jnp.zeros_like(layer.bias))
        self.shared = none(small(Linear(latent, each, key=keys[2])))
        self.own = none(small(Linear(latent, states * actions * each, key=keys[3])))
        self.trust, self.noise = Positive(1.0), Positive(1.0)
        self.rate = Positive(rate) if steps else None
        self.size, self.steps = (states, actions, outcomes), steps

    def nothing(self) -> Statistics:
        return Statistics.none(*self.size)

    def after(self, seen: Statistics, t: Transition) -> Statistics:
        return seen.add(t)

    def __call__(self, seen: Statistics) -> Belief:
        z = self.kind(seen)
        if self.steps:
            refine = lambda z, _: (z - unwrap(self.rate) * jax.grad(self.surprise)(z, seen), None)
            z, _ = jax.lax.scan(refine, z, None, length=self.steps)
        return posterior(self.prior(z), seen, unwrap(self.trust), unwrap(self.noise))

    def kind(self, seen: Statistics) -> Float[Array, "latent"]:
        """z, before it is refined."""
        statistics = jnp.concatenate([seen.moves, seen.rewards[..., None]], -1)
        of_pairs = over_axes(self.pair, 2)(jnp.concatenate([statistics, seen.visits[..., None]], -1))
        tried = (seen.visits > 0)[..., None]  # the others are not informative
        return self.encode(jnp.concatenate([statistics.reshape(-1), (of_pairs * tried).sum((0, 1))]))

    def prior(self, z: Float[Array, "latent"]) -> Prior:
        return Prior.of(self._tables(z))

    def _tables(self, z: Float[Array, "latent"]) -> Float[Array, "states actions numbers"]:
        states, actions, outcomes = self.size
        return self.own(z).reshape(states, actions, outcomes + 3) + self.shared(z)

    def surprise(self, z: Float[Array, "latent"], seen: Statistics) -> Float[Array, ""]:
        """The mean −log p of the statistics under the means of the prior of z, up to a constant."""
        tables = self._tables(z)
        prior, moves = Prior.of(tables), (seen.moves * jax.nn.log_softmax(tables[..., :-3])).sum()
        rewards = (seen.rewards - 0.5 * seen.visits * prior.reward) * prior.reward  # of −½ Σ (r − μ)²
        return -(moves + rewards.sum() / unwrap(self.noise) ** 2) / jnp.maximum(seen.visits.sum(), 1)


def constant(
    concentration: Float[Array, "states actions outcomes"],
    reward: Float[Array, "states actions"],
    certainty: Float[Array, "states actions"],
    noise: float = 1.0,
) -> Amortised:
    """The meta-model with one prior α, μ, κ for every task, and this σ, which learns by the conjugate formulas alone.
    With a flat prior it learns a model from scratch in each task; a very certain one is one model for all of them.
    """
    states, actions, outcomes = concentration.shape
    model = Amortised(states, actions, outcomes, key=jax.random.key(0), hidden=4, latent=1)
    zero = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else x, model)  # ω = exp(0)
    tables = as_tables(concentration, reward, certainty)
    return eqx.tree_at(lambda m: (m.own.bias, m.noise), zero, (tables.reshape(-1), Positive(noise)))


def as_tables(concentration: Array, reward: Array, certainty: Array) -> Float[Array, "*pairs numbers"]:
    """A prior α, μ, κ as `Prior.of` takes it."""
    strength = concentration.sum(-1, keepdims=True)
    likely = jnp.log(jnp.maximum(concentration / strength, 1e-9))  # a Dirichlet has no zeros
    return jnp.concatenate([likely, jnp.log(strength), reward[..., None], jnp.log(certainty)[..., None]], -1)
