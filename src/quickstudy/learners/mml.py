"""Meta-model learning: what was seen of a task becomes a distribution over models of it, and the agent plans in a draw.

    z = e_ψ(w, R)                                    what kind of task this is
    z ← z − η ∇_z mean −log p(seen | g_ψ(z))         `steps` times, 0 unless asked for
    α, μ, κ = g_ψ(z)                                 the prior of each (s, a) in such a task
    p(·|s, a) ~ Dirichlet(α + ω w)                   w: how often (s, a) led where;  n = Σ w
    r(s, a) ~ N((κ μ + ω R)/(κ + ω n), σ²/(κ + ω n)) R: the sum of its rewards, which scatter by σ about r(s, a)

One model is drawn an episode, and the episode is acted by backward induction in it. ψ, ω, σ and η are learned outside
from what comes later in the same trial, said before it was seen, with p̂ and r̂ the means of the belief:

    likelihood    −log p̂(s'|s, a) − log N(r; r̂, σ² + its variance)
    equivalence   |p̂ V̄ + r̂ − (r + γ V̄(s'))|²        V̄: the value of the plan in the mean model, held constant

With ω = 1 and constant α, μ, κ this is the conjugate posterior, so acting by it is posterior sampling (Strens 2000;
Osband, Russo, Van Roy 2013) under a prior that is learned and depends on the task. The value-equivalent loss is that of
Farahmand, Barreto, Nikovski 2017 and Grimm, Barreto, Singh, Silver 2020. docs/learners/mml.md says where the name comes
from.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from quickstudy.core import Learner, Positive, over_axes, scan_replay, unwrap
from quickstudy.data import Output, Transition
from quickstudy.learners.tabular import epsilon_greedy, one_by_one
from quickstudy.nn.models import MLP
from quickstudy.rl.losses import mean
from quickstudy.rl.planning import backward_induction, greedy, only_when


class Statistics(eqx.Module):
    """What a task showed of itself. Outcomes are the states and, where episodes end by themselves, the end."""

    moves: Float[Array, "states actions outcomes"]  # how often (s, a) led there
    rewards: Float[Array, "states actions"]  # their sum

    @staticmethod
    def none(states: int, actions: int, outcomes: int) -> "Statistics":
        return Statistics(jnp.zeros((states, actions, outcomes)), jnp.zeros((states, actions)))

    @property
    def visits(self) -> Float[Array, "states actions"]:
        return self.moves.sum(-1)

    def add(self, t: Transition) -> "Statistics":
        """With one more transition."""
        s, a = t.observation.argmax(), t.action
        return Statistics(
            self.moves.at[s, a].add(outcome(t, self.moves.shape[-1])), self.rewards.at[s, a].add(t.reward)
        )


def outcome(t: Transition, outcomes: int) -> Float[Array, "outcomes"]:
    """What one transition led to, one-hot: the next state, or the end where that is one more outcome."""
    if outcomes == t.next_observation.size:
        return t.next_observation
    return jnp.append(jnp.where(t.terminated, 0.0, t.next_observation), t.terminated.astype(float))


def seen_in(t: Transition, counts: Bool[Array, "time"], size: tuple[int, int, int]) -> Statistics:
    """Of a life [time], the steps that count."""
    _, actions, outcomes = size
    pair = jnp.einsum("t,ts,ta->tsa", counts.astype(float), t.observation, jax.nn.one_hot(t.action, actions))
    led = jax.vmap(lambda t: outcome(t, outcomes))(t)
    return Statistics(jnp.einsum("tsa,to->sao", pair, led), jnp.einsum("tsa,t->sa", pair, t.reward))


class Prior(eqx.Module):
    """What is expected of each (s, a) before it is tried."""

    logits: Float[Array, "states actions outcomes"]  # of α/Σα
    strength: Float[Array, "states actions"]  # Σα, in visits
    reward: Float[Array, "states actions"]  # μ
    certainty: Float[Array, "states actions"]  # κ, in visits


class Belief(eqx.Module):
    """A distribution over models: of the whole task, or the rows of one state."""

    concentration: Float[Array, "*pairs outcomes"]  # of the Dirichlet
    reward: Float[Array, "*pairs"]  # mean of the mean reward
    variance: Float[Array, "*pairs"]  # of the mean reward
    noise: Float[Array, ""]  # σ: deviation of a reward from its mean

    @property
    def transition(self) -> Float[Array, "*pairs outcomes"]:
        return self.concentration / self.concentration.sum(-1, keepdims=True)

    @property
    def transition_deviation(self) -> Float[Array, "*pairs outcomes"]:
        """How uncertain each probability is, as a standard deviation."""
        p = self.transition
        return jnp.sqrt(p * (1 - p) / (1 + self.concentration.sum(-1, keepdims=True)))

    def draw(self, spread: float, *, key: Key[Array, ""]) -> tuple[Array, Array]:
        """(rewards, transitions) of one model, its distance from the mean model scaled by `spread`."""
        if spread == 0:
            return self.reward, self.transition
        move, pay = jax.random.split(key)
        transition = jax.random.dirichlet(move, self.concentration)
        reward = spread * jnp.sqrt(self.variance) * jax.random.normal(pay, self.reward.shape)
        return self.reward + reward, self.transition + spread * (transition - self.transition)

    def of(self, x: Float[Array, "states"]) -> "Belief":
        """The rows of one state."""
        row = lambda table: jnp.tensordot(x, table, 1)  # a product: its derivative is one too
        return Belief(row(self.concentration), row(self.reward), row(self.variance), self.noise)


class MetaModel(eqx.Module):
    """From statistics to a belief. The encoder sees the statistics of all pairs as they are, so that it can tell one
    known table from another, beside the sum of a network of each pair's own, the same for all pairs, which tells what
    they have in common. The generator is linear in z: a part for each pair and a part that is the same for all.

    steps: gradient steps that refine z, with a learned rate
    """

    pair: MLP
    encode: MLP
    shared: eqx.nn.Linear
    own: eqx.nn.Linear
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
        keys = jax.random.split(key, 4)
        pooled, each = hidden // 4, outcomes + 3
        self.pair = MLP((outcomes + 2, pooled, pooled), key=keys[0], activation=jnp.tanh)
        everything = states * actions * (outcomes + 1)
        self.encode = MLP((everything + pooled, hidden, latent), key=keys[1], activation=jnp.tanh)
        # A generator near 0: the model starts from one prior for all tasks, α = 1/outcomes, μ = 0 and κ = 1.
        small = lambda layer: jax.tree.map(lambda w: 0.1 * w, layer)
        none = lambda layer: eqx.tree_at(lambda l: l.bias, layer, jnp.zeros_like(layer.bias))
        self.shared = none(small(eqx.nn.Linear(latent, each, key=keys[2])))
        self.own = none(small(eqx.nn.Linear(latent, states * actions * each, key=keys[3])))
        self.trust, self.noise = Positive(1.0), Positive(1.0)
        self.rate = Positive(rate) if steps else None
        self.size, self.steps = (states, actions, outcomes), steps

    def __call__(self, seen: Statistics) -> Belief:
        z = self.kind(seen)
        for _ in range(self.steps):
            z = z - unwrap(self.rate) * jax.grad(self.surprise)(z, seen)
        prior, trust, noise = self.prior(z), unwrap(self.trust), unwrap(self.noise)
        concentration = prior.strength[..., None] * jax.nn.softmax(prior.logits) + trust * seen.moves
        certainty = prior.certainty + trust * seen.visits
        reward = (prior.certainty * prior.reward + trust * seen.rewards) / certainty
        return Belief(concentration, reward, noise**2 / certainty, noise)

    def kind(self, seen: Statistics) -> Float[Array, "latent"]:
        """z, before it is refined."""
        statistics = jnp.concatenate([seen.moves, seen.rewards[..., None]], -1)
        of_pairs = over_axes(self.pair, 2)(jnp.concatenate([statistics, seen.visits[..., None]], -1))
        tried = (seen.visits > 0)[..., None]  # of the others there is nothing to say
        return self.encode(jnp.concatenate([statistics.reshape(-1), (of_pairs * tried).sum((0, 1))]))

    def prior(self, z: Float[Array, "latent"]) -> Prior:
        states, actions, outcomes = self.size
        tables = self.own(z).reshape(states, actions, outcomes + 3) + self.shared(z)
        strength, reward, certainty = jnp.moveaxis(tables[..., outcomes:], -1, 0)
        return Prior(tables[..., :outcomes], jnp.exp(strength), reward, jnp.exp(certainty))

    def surprise(self, z: Float[Array, "latent"], seen: Statistics) -> Float[Array, ""]:
        """Mean −log p of what was seen under the means of the prior of z, without what does not depend on z."""
        prior = self.prior(z)
        moves = (seen.moves * jax.nn.log_softmax(prior.logits)).sum()
        rewards = (seen.rewards - 0.5 * seen.visits * prior.reward) * prior.reward  # of −½ Σ (r − μ)²
        return -(moves + rewards.sum() / unwrap(self.noise) ** 2) / jnp.maximum(seen.visits.sum(), 1)


def constant(
    concentration: Float[Array, "states actions outcomes"],
    reward: Float[Array, "states actions"],
    certainty: Float[Array, "states actions"],
    noise: float = 1.0,
) -> MetaModel:
    """The meta-model that has this prior α, μ, κ in every task, and this σ, and learns by the conjugate formulas alone.
    A flat prior is a model from scratch in each task; a very certain one is one model for all of them, or the true one.
    """
    states, actions, outcomes = concentration.shape
    model = MetaModel(states, actions, outcomes, key=jax.random.key(0), hidden=4, latent=1)
    zero = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else x, model)  # ω = exp(0)
    strength = concentration.sum(-1, keepdims=True)
    likely = jnp.log(jnp.maximum(concentration / strength, 1e-9))  # a Dirichlet has no zeros
    tables = likely, jnp.log(strength), reward[..., None], jnp.log(certainty)[..., None]
    return eqx.tree_at(
        lambda m: (m.own.bias, m.noise), zero, (jnp.concatenate(tables, -1).reshape(-1), Positive(noise))
    )


class Believed(eqx.Module):
    seen: Statistics
    belief: Belief
    policy: Int[Array, "episode states"]  # of the model drawn for this episode
    time: Int[Array, ""]  # within the episode


class Foretold(eqx.Module):
    """What is said of a step before it is taken."""

    belief: Belief  # the rows of its state
    following: Float[Array, "outcomes"]  # γ V̄ of what it may lead to


class MML(Learner):
    """Acts by the plan for a model that is drawn anew each episode; absorbs one step after another.

    An observation is a state, one-hot.
    episode: steps after which an episode is cut
    discount: γ in [0, 1], within the episode
    spread: 1 draws from the belief, 0 plans in its mean, and between them draws are nearer to it
    bonus: what is added to each mean reward, in standard deviations of it; a number, or a leaf that evolution may learn
    epsilon: probability of any action instead of the planned one
    """

    model: MetaModel
    episode: int = eqx.field(static=True)
    discount: float = eqx.field(static=True, default=1.0)
    spread: float = eqx.field(static=True, default=1.0)
    bonus: Any = 0.0
    epsilon: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread must lie in [0, 1], got {self.spread}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must lie in [0, 1], got {self.epsilon}")

    def init(self, *, key: Key[Array, ""]) -> Believed:
        seen = Statistics.none(*self.model.size)
        belief = self.model(seen)
        return Believed(seen, belief, self._plan(*self._given(belief, key)), jnp.zeros((), int))

    def adapt(self, state: Believed, experience: Transition, *, key: Key[Array, ""]) -> Believed:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Believed, t: Transition, key: Key[Array, ""]) -> Believed:
        seen = state.seen.add(t)
        belief = self.model(seen)
        ended = t.terminated | t.truncated
        policy = only_when(ended, self._plan, self._given(belief, key), state.policy)
        return Believed(seen, belief, policy, jnp.where(ended, 0, state.time + 1))

    def _given(self, belief: Belief, key: Key[Array, ""]) -> tuple[Belief, Array, Array]:
        """What a plan is made from. Nothing is differentiated through it; keys go as plain numbers, as conditions want
        them."""
        belief, bonus = jax.lax.stop_gradient((belief, jnp.asarray(unwrap(self.bonus), float)))
        return belief, bonus, jax.random.key_data(key)

    def _plan(self, belief: Belief, bonus: Float[Array, ""], key: Array) -> Int[Array, "episode states"]:
        reward, transition = belief.draw(self.spread, key=jax.random.wrap_key_data(key))
        return greedy(self.values(reward + bonus * jnp.sqrt(belief.variance), transition))

    def values(self, reward: Array, transition: Array) -> Float[Array, "episode states actions"]:
        """The optimal Q of a model at each moment of an episode; past its end there is nothing."""
        states, _, _ = self.model.size
        return backward_induction(reward, self.discount * transition[..., :states], self.episode)

    def apply(self, state: Believed, x: Float[Array, "states"]) -> Output:
        best = jax.nn.one_hot(state.policy[state.time, x.argmax()], self.model.size[1])
        return Output(
            policy=epsilon_greedy(best, self.epsilon), prediction=Foretold(state.belief.of(x), self._following(state))
        )

    def _following(self, state: Believed) -> Float[Array, "outcomes"]:
        belief = jax.lax.stop_gradient(state.belief)
        value = self.values(belief.reward, belief.transition).max(-1)
        states, _, outcomes = self.model.size
        later = jnp.concatenate([value[1:], jnp.zeros((1, states))])[state.time]
        return self.discount * jnp.pad(later, (0, outcomes - states))

    replay = scan_replay


def likelihood(outputs: Output, lived: Any) -> Float[Array, ""]:
    """−log p̂(s'|s, a) − log N(r; r̂, σ² + variance): how surprising each step was, in nats."""

    def surprise(said: Foretold, t: Transition) -> Array:
        belief, taken = said.belief, jax.nn.one_hot(t.action, said.belief.reward.size)
        p = taken @ belief.transition @ outcome(t, said.following.size)
        deviation = jnp.sqrt(belief.noise**2 + taken @ belief.variance)
        return -jnp.log(p) - jax.scipy.stats.norm.logpdf(t.reward, taken @ belief.reward, deviation)

    return mean(over_axes(surprise, lived.log_prob.ndim)(outputs.prediction, lived.transition), lived)


def equivalence(outputs: Output, lived: Any) -> Float[Array, ""]:
    """|p̂ V̄ + r̂ − (r + γ V̄(s'))|²: a model need only be right about what values depend on."""

    def error(said: Foretold, t: Transition) -> Array:
        belief, taken = said.belief, jax.nn.one_hot(t.action, said.belief.reward.size)
        expected = taken @ (belief.reward + belief.transition @ said.following)
        return (expected - t.reward - outcome(t, said.following.size) @ said.following) ** 2

    return mean(over_axes(error, lived.log_prob.ndim)(outputs.prediction, lived.transition), lived)
