"""One row a learner: what the contract suite runs it on. A new learner is one more row."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from quickstudy.baselines import bandits, mdps
from quickstudy.baselines.from_scratch import FromScratch
from quickstudy.baselines.goal_grids import BestExplorer, GoalSampling
from quickstudy.baselines.logistic_regression import LogisticRegression
from quickstudy.baselines.sinusoid_posterior import SinusoidPosterior
from quickstudy.baselines.structured_bandits import TargetSearch
from quickstudy.baselines.two_step import TwoStepFilter, TwoStepValues
from quickstudy.data.batches import Labelled, Transition
from quickstudy.learners.generated.mktn import MKTN, Control, Proximal, Regression, Ridge
from quickstudy.learners.generated.mpo import MPO, no_generation_yet
from quickstudy.learners.gradient.adjoints import FirstOrder, Implicit, Unrolled
from quickstudy.learners.gradient.inner_losses import PolicyAndValue, PolicyGradient, Supervised
from quickstudy.learners.gradient.learned_updates import LSTMOptimizer, MetaLSTM
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.learners.gradient.task_memory import OfPairs, TaskMemory, empty_memory
from quickstudy.learners.gradient.updates import SGD, Scaled, per_step, per_weight
from quickstudy.learners.inference.meta_models import Amortised
from quickstudy.learners.inference.mixture import Mixture
from quickstudy.learners.inference.mml import MML
from quickstudy.learners.inference.varibad import Decoder, Latent, VariBAD, reconstruction
from quickstudy.learners.initialisation import RandomInit
from quickstudy.learners.inner_rl.actor_critic import actor_critic
from quickstudy.learners.inner_rl.ddpg import DDPG, ActorAndCritics
from quickstudy.learners.inner_rl.dqn import DQN
from quickstudy.learners.inner_rl.dyna_q import DynaQ
from quickstudy.learners.inner_rl.lpg import LPG
from quickstudy.learners.inner_rl.ppo import ppo
from quickstudy.learners.inner_rl.q_learning import SARSA, QLearning
from quickstudy.learners.inner_rl.r_max import RMax
from quickstudy.learners.inner_rl.reinforce import reinforce
from quickstudy.learners.memory.attention import Attention
from quickstudy.learners.memory.mann import LRUAMemory
from quickstudy.learners.memory.recurrent import ActorCritic, LabelFeedback, OutcomeFeedback, Prediction, Recurrent
from quickstudy.learners.metric.matching import FullContext, Matching
from quickstudy.learners.metric.meta_networks import MetaNetworks
from quickstudy.learners.metric.prototypical import Prototypical
from quickstudy.nn.cells import GRU, LSTM
from quickstudy.nn.layers import Linear
from quickstudy.nn.linear_recurrence import LinearRecurrence
from quickstudy.nn.models import (
    MLP,
    CategoricalPolicy,
    Chain,
    Contextual,
    GaussianPolicy,
    Predictor,
    TablePolicy,
    WithValue,
    context,
    everything,
    head,
)
from quickstudy.parameters import Bounded, Positive


class Row(NamedTuple):
    make: Callable[[], Any]
    experience: Callable[[int], Any]  # segments of experience: leaves are [segments, steps, ...]
    learned: bool = True  # whether it has meta-parameters
    terms: tuple[Callable, ...] = ()  # loss terms that reach what no output depends on


K = jax.random.key(7)


def labelled(segments: int, shots: int = 4) -> Labelled:
    x = jax.random.uniform(K, (segments, shots, 1), minval=-3, maxval=3)
    return Labelled(x, jnp.sin(x))


def classified(segments: int, shots: int = 4) -> Labelled:
    examples = labelled(segments, shots)
    return Labelled(examples.x, jnp.tile(jnp.arange(shots) % 3, (segments, 1)))


def stream(segments: int) -> Labelled:
    return labelled(segments, 1)


def pulls(segments: int, arms: int = 3) -> Transition:
    a, r = jax.random.split(K)
    shape = (segments, 1)
    none, never = jnp.zeros((*shape, 0)), jnp.zeros(shape, bool)
    reward = jax.random.bernoulli(r, 0.5, shape).astype(float)
    return Transition(none, jax.random.randint(a, shape, 0, arms), reward, never, never, never, none)


def walks(segments: int, steps: int = 6, num_envs: int = 3) -> Transition:
    o, a, r = jax.random.split(K, 3)
    shape = (segments, steps, num_envs)
    observation, never = jax.random.normal(o, (*shape, 2)), jnp.zeros(shape, bool)
    cut = never.at[:, -1].set(True)
    action, reward = jax.random.normal(a, (*shape, 2)), jax.random.normal(r, shape)
    return Transition(observation, action, reward, never, cut, never, observation)


def choices(segments: int, steps: int = 4, num_envs: int = 2, actions: int = 3) -> Transition:
    """Vectors observed, one of a few actions taken; episodes are cut at the segment's end."""
    t = walks(segments, steps, num_envs)
    action = jax.random.randint(K, t.reward.shape, 0, actions)
    return dataclasses.replace(t, action=action, next_observation=jnp.roll(t.observation, -1, 1))


def visits(segments: int, states: int = 2, actions: int = 2) -> Transition:
    """A walk through a tabular MDP; episodes of two steps."""
    a, r, s = jax.random.split(K, 3)
    shape = (segments, 1)
    path = jax.nn.one_hot(jax.random.randint(s, (segments + 1,), 0, states), states)[:, None]
    never, cut = jnp.zeros(shape, bool), (jnp.arange(segments) % 2 == 1)[:, None]
    action, reward = jax.random.randint(a, shape, 0, actions), jax.random.normal(r, shape)
    return Transition(path[:-1], action, reward, never, cut, never, path[1:])


def predictor(inputs: int = 1) -> Predictor:
    return Predictor(MLP((inputs, 8, 8, 1), key=K, activation=jnp.tanh))


def policy(critic: bool = False) -> GaussianPolicy:
    return GaussianPolicy(MLP((2, 8, 2 + critic), key=K, activation=jnp.tanh), jnp.zeros(2), critic=critic)


def actor_and_critic(key=K) -> WithValue:
    return WithValue(
        CategoricalPolicy(MLP((2, 8, 3), key=key, activation=jnp.tanh)), MLP((2, 8, 1), key=key, activation=jnp.tanh)
    )


def actor_and_critics(key=K) -> ActorAndCritics:
    net = lambda inputs, outputs: MLP((inputs, 8, outputs), key=key, activation=jnp.tanh)
    return ActorAndCritics(net(2, 2), [net(4, 1), net(4, 1)])


def waypoints(segments: int) -> Transition:
    """One stream, a step at a time; episodes of two steps."""
    o, a, r = jax.random.split(K, 3)
    shape = (segments, 1)
    observation, never = jax.random.normal(o, (*shape, 2)), jnp.zeros(shape, bool)
    cut = (jnp.arange(segments) % 2 == 1)[:, None]
    action, reward = jax.random.normal(a, (*shape, 2)), jax.random.normal(r, shape)
    return Transition(observation, action, reward, never, cut, never, observation)


def mpo(**changes) -> MPO:
    feedback = OutcomeFeedback(None, 2)
    start = changes.get("start", GaussianPolicy(MLP((2, 4, 2), key=K, activation=jnp.tanh), jnp.zeros(2)))
    fast = changes.get("fast", everything)
    parts = {
        "cell": GRU(2 + feedback.size, 8, key=K),
        "start": start,
        "generator": no_generation_yet(start, 8, fast),
        "critic": Linear(8, 1, key=K),
        "feedback": feedback,
        "inner_loss": PolicyGradient(Bounded(0.8), Bounded(0.9), ridge=0.1),
        "update": SGD(Positive(0.2)),
        "kl_weight": Positive(0.5),
        "inputs": 2,
        "episode": 2,
    }
    return MPO(**{**parts, **changes})


def gradient(update=None, **choices) -> Gradient:
    start = choices.pop("start", None)
    return Gradient(predictor() if start is None else start, Supervised(), update or SGD(0.05), **choices)


def task_memory(within: Gradient) -> TaskMemory:
    return empty_memory(within, OfPairs(MLP((2, 8, 3), key=K, activation=jnp.tanh)), 3, key=K, slots=4, scale=0.1)


def mktn(rule, reading, inputs: int, **choices) -> MKTN:
    net = MLP((inputs, 8, inputs * (1 + 3)), key=K, activation=jnp.tanh)  # as many outputs as inputs
    return MKTN(net, rule, reading, 3, **choices)


def mann() -> Recurrent:
    cell = LRUAMemory(2, 6, key=K, slots=5, width=3, heads=2)
    return Recurrent(cell, Prediction(cell.size, 1, key=K), LabelFeedback(None, 1))


def recurrent(cell=GRU) -> Recurrent:
    feedback = OutcomeFeedback(3)
    return Recurrent(cell(feedback.size, 8, key=K), ActorCritic(8, 3, key=K), feedback)


def predicted(learner, outputs, batch):
    """A number of all that MML expects of the steps."""
    t = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.transition)
    expected = learner.predictions(learner.init(key=batch.key), t)
    return sum((leaf**2).sum() + leaf.sum() for leaf in jax.tree.leaves(expected))


def varibad() -> VariBAD:
    feedback = OutcomeFeedback(2)
    return VariBAD(
        Recurrent(GRU(2 + feedback.size, 8, key=K), Latent(8, 3, key=K), feedback),
        MLP((2 + 6, 4), key=K),
        ActorCritic(4, 2, key=K),
        Decoder(3, 2, 2, key=K, hidden=4, transitions=True),
        through=True,
    )


REGISTRY: dict[str, Row] = {
    "maml": Row(lambda: gradient(adjoint=Unrolled(), steps=2), labelled),
    "minibatches": Row(lambda: gradient(steps=2, batch=2), labelled),
    "fomaml": Row(lambda: gradient(adjoint=FirstOrder(), steps=2), labelled),
    "imaml": Row(lambda: gradient(adjoint=Implicit(1.0, 5), steps=10), labelled),
    "anil": Row(lambda: gradient(fast=head), labelled),
    "cavia": Row(
        lambda: gradient(start=Contextual(MLP((3, 8, 1), key=K, activation=jnp.tanh), jnp.zeros(2)), fast=context),
        labelled,
    ),
    "meta-sgd": Row(lambda: gradient(per_weight(predictor(), 0.05)), labelled),
    "per-step-rates": Row(lambda: gradient(per_step(predictor(), 0.05, 2), steps=2), labelled),
    "maml-rl": Row(lambda: Gradient(policy(), PolicyGradient(), SGD(0.1)), walks),
    "maml-rl-critic": Row(lambda: Gradient(policy(critic=True), PolicyAndValue(PolicyGradient()), SGD(0.1)), walks),
    "mpo": Row(lambda: mpo(), waypoints),
    "meta-lstm": Row(lambda: gradient(MetaLSTM(4, key=K, rate=0.1), adjoint=FirstOrder(), steps=2), labelled),
    "lstm-optimizer": Row(
        lambda: FromScratch(lambda key: predictor(), Supervised(), LSTMOptimizer(4, key=K), steps=2), labelled
    ),
    # A bias at the end of the embedding would move prototypes and queries alike, so there is none to learn.
    "prototypical": Row(
        lambda: Prototypical(Chain([MLP((1, 8, 3), key=K, activation=jnp.tanh), jnp.tanh]), 3, 3), classified
    ),
    "matching": Row(lambda: Matching(MLP((1, 8, 3), key=K, activation=jnp.tanh), 3, capacity=9, classes=3), classified),
    "matching-full-context": Row(
        lambda: Matching(
            MLP((1, 8, 3), key=K, activation=jnp.tanh), 3, capacity=6, context=FullContext(3, key=K, steps=2)
        ),
        labelled,
    ),
    "logistic-regression": Row(lambda: LogisticRegression(1, 3, capacity=12), classified, learned=False),
    "meta-networks": Row(
        lambda: MetaNetworks(MLP((1, 8, 5), key=K, activation=jnp.tanh), 5, 1, key=K, capacity=10, width=6, units=4),
        labelled,
    ),
    "task-memory": Row(lambda: task_memory(gradient(steps=2)), labelled),
    "mktn": Row(lambda: mktn(Proximal(Positive(0.3), Positive(0.1)), Regression(), 1, steps=2), labelled),
    "mktn-control": Row(lambda: mktn(Ridge(Positive(1.0)), Control(0.9, Positive(0.5), 0.1), 2), visits),
    "rl2-gru": Row(recurrent, pulls),
    "rl2-s5": Row(lambda: recurrent(LinearRecurrence), pulls),
    "rl2-lstm": Row(lambda: recurrent(LSTM), pulls),
    "varibad": Row(varibad, visits, terms=(reconstruction,)),
    "stream-gru": Row(
        lambda: Recurrent(GRU(2, 8, key=K), Prediction(8, 1, key=K), LabelFeedback(None, 1)),
        stream,
    ),
    "mann": Row(mann, stream),
    "attention": Row(
        lambda: Attention(
            MLP((1, 4, 3), key=K),
            3,
            Prediction(4, 1, key=K),
            LabelFeedback(None, 1),
            key=K,
            capacity=3,
            width=4,
            attention_heads=2,
        ),
        stream,
    ),
    "rl2-attention": Row(
        lambda: Attention(
            eqx.nn.Identity(),
            2,
            ActorCritic(4, 2, key=K),
            OutcomeFeedback(2, observation=2),
            key=K,
            capacity=3,
            width=4,
            attention_heads=2,
        ),
        visits,
    ),
    "bayes-greedy": Row(lambda: bandits.bayes_greedy(3), pulls, learned=False),
    "ucb1": Row(lambda: bandits.ucb1(3), pulls, learned=False),
    "thompson": Row(lambda: bandits.thompson(3), pulls, learned=False),
    "gittins": Row(lambda: bandits.gittins(3, pulls=8, discount=0.9), pulls, learned=False),
    "anticorrelated-arms": Row(lambda: bandits.anticorrelated(), lambda segments: pulls(segments, 2), learned=False),
    "informed-arms": Row(lambda: TargetSearch(2), pulls, learned=False),
    "two-step-model-based": Row(lambda: TwoStepValues(0.3, 2.0, True), visits, learned=False),
    "two-step-filter": Row(TwoStepFilter, visits, learned=False),
    "best-explorer": Row(lambda: BestExplorer(2, (1, 3, 2)), lambda n: visits(n, 4), learned=False),
    "goal-sampling": Row(lambda: GoalSampling(2, (1, 2, 3), True), lambda n: visits(n, 4), learned=False),
    "mdp-psrl": Row(lambda: mdps.psrl(2, 2, 2), visits, learned=False),
    "mdp-ucrl2": Row(lambda: mdps.ucrl2(2, 2, 2, scale=0.1), visits, learned=False),
    "q-learning": Row(lambda: QLearning(2, 2, rate=Bounded(0.2), initial=jnp.zeros(2)), visits),
    "sarsa": Row(lambda: SARSA(2, 2, decay=Bounded(0.7), epsilon=Bounded(0.1)), visits),
    "dyna-q": Row(lambda: DynaQ(2, 2, discount=Bounded(0.9), planning=3), visits),
    "reinforce": Row(
        lambda: reinforce(actor_and_critic().policy, Scaled(Positive(0.1)), entropy=Positive(0.1)), choices
    ),
    "a2c": Row(
        lambda: actor_critic(
            actor_and_critic(),
            SGD(Positive(0.1)),
            discount=Bounded(0.9),
            gae_lambda=Bounded(0.8),
            value=Positive(0.5),
            entropy=Positive(0.1),
        ),
        choices,
    ),
    "ppo": Row(lambda: ppo(actor_and_critic(), Scaled(Positive(0.01)), epochs=2, minibatches=2), choices),
    "lpg": Row(
        lambda: LPG(
            RandomInit(lambda key: TablePolicy(2, 3, 4, key=key)),
            SGD(Positive(0.3)),
            key=K,
            predictions=4,
            size=6,
            predicting=Positive(0.5),
            exploring=Positive(0.1),
        ),
        choices,
    ),
    "dqn": Row(
        lambda: DQN(
            RandomInit(lambda key: MLP((2, 8, 3), key=key)),
            Scaled(Positive(0.01)),
            2,
            capacity=10,
            learning_starts=9,
            batch=4,
            epsilon=Bounded(0.1),
            decay=8,
        ),
        choices,
    ),
    "td3": Row(
        lambda: DDPG(
            actor_and_critics(),
            Scaled(Positive(0.01)),
            2,
            capacity=40,
            learning_starts=20,
            batch=4,
            gradient_steps=2,
            dims=2,
            tau=Bounded(0.1),
            target_noise=0.2,
            policy_delay=2,
        ),
        walks,
    ),
    "r-max": Row(lambda: RMax(2, 2, visits=2, discount=0.8), visits, learned=False),
    "mml": Row(lambda: MML(Amortised(2, 2, 3, key=K, hidden=8, latent=3, steps=1), 2), visits, terms=(predicted,)),
    "mml_mixture": Row(lambda: MML(Mixture(2, 2, 3, kinds=2, key=K), 2, replan=True), visits, terms=(predicted,)),
    "sinusoid-posterior": Row(lambda: SinusoidPosterior(20, 0.3), labelled, learned=False),
}
