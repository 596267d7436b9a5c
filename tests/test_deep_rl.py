"""Policy gradients, DQN and DDPG as inner loops: their updates against ones worked out by hand."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from per_task import BLANK, per_task
from quickstudy.core import Incompatible
from quickstudy.data.batches import Output, Transition
from quickstudy.data.ring import Ring
from quickstudy.learners.gradient.learned_updates import LSTMOptimizer
from quickstudy.learners.gradient.updates import SGD, Scaled
from quickstudy.learners.initialisation import RandomInit
from quickstudy.learners.inner_rl.actor_critic import actor_critic
from quickstudy.learners.inner_rl.ddpg import DDPG, ActorAndCritics
from quickstudy.learners.inner_rl.dqn import DQN
from quickstudy.learners.inner_rl.lpg import LPG
from quickstudy.learners.inner_rl.ppo import ppo
from quickstudy.learners.inner_rl.reinforce import reinforce
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.meta_optimizers.evolution import Evolution
from quickstudy.nn.models import MLP, CategoricalPolicy, TablePolicy, WithValue
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import Bounded, Positive
from quickstudy.recipes import configure
from quickstudy.rl import losses
from quickstudy.tasks.mazes import Mazes
from quickstudy.tasks.mdps import TabularMDPs
from quickstudy.tasks.transfer import Transfer
from quickstudy.train.run import Training, train
from registry import actor_and_critic, choices

K = jax.random.split(jax.random.key(5), 4)


class Linear(eqx.Module):
    """Logits, or values, W x."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


def segment():
    return jax.tree.map(lambda x: x[0], choices(1))


def test_reinforce_takes_the_step_worked_out_by_hand():
    t, weight, discount, rate = segment(), 0.3 * jax.random.normal(K[0], (3, 2)), 0.9, 0.5
    learner = reinforce(CategoricalPolicy(Linear(weight)), SGD(rate), discount=discount)
    after = learner.adapt(learner.init(key=K[1]), t, key=K[2]).weights.net.weight

    time, num_envs = t.reward.shape
    returns = np.zeros((time, num_envs))
    for copy in range(num_envs):  # one episode each, cut at the end
        for at in range(time):
            returns[at, copy] = sum(discount ** (k - at) * t.reward[k, copy] for k in range(at, time))
    returns = (returns - returns.mean()) / returns.std()
    step = np.zeros((3, 2))
    for at in range(time):
        for copy in range(num_envs):
            x = np.asarray(t.observation[at, copy])
            policy = np.asarray(jax.nn.softmax(weight @ x))
            step += returns[at, copy] * np.outer(np.eye(3)[t.action[at, copy]] - policy, x)
    np.testing.assert_allclose(after, weight + rate * step / (time * num_envs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [reinforce, ppo])
def test_where_nothing_is_earned_the_discount_has_a_gradient_and_it_is_zero(make):
    t = eqx.tree_at(lambda t: t.reward, segment(), jnp.zeros_like(segment().reward))
    start = WithValue(CategoricalPolicy(Linear(0.3 * jax.random.normal(K[0], (3, 2)))), Linear(jnp.zeros((1, 2))))

    def moved(discount):
        learner = make(start, SGD(0.5), discount=discount)
        return sum(leaf.sum() for leaf in jax.tree.leaves(learner.adapt(learner.init(key=K[1]), t, key=K[2]).weights))

    assert jax.grad(moved)(0.9) == 0


def test_ppo_starts_with_the_step_of_the_actor_critic():
    """Where the policy has not moved yet the clipped surrogate has the policy gradient."""
    t, options = segment(), {"discount": 0.9, "gae_lambda": 0.8, "value": 0.3, "entropy": 0.05}
    one = ppo(actor_and_critic(), SGD(0.1), epochs=1, minibatches=1, **options)
    other = actor_critic(actor_and_critic(), SGD(0.1), normalise=True, **options)
    moved = [learner.adapt(learner.init(key=K[0]), t, key=K[1]).weights for learner in (one, other)]
    for a, b in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_ppo_does_not_follow_a_policy_beyond_the_clip():
    """After a first step that takes every ratio beyond the clip, the second counts only those that went astray."""
    t = segment()
    options = {"value": 0.0, "entropy": 0.0, "epochs": 2, "minibatches": 1}
    after = {}
    for clip in (1e-6, 1e3):
        learner = ppo(actor_and_critic(), SGD(0.3), clip=clip, **options)
        state = learner.init(key=K[0])
        judged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), learner.batch(state, t))
        moved = learner.adapt(state, t, key=K[1]).weights
        log_prob = jax.vmap(lambda o, a, m=learner, w=moved: m._network(w)(o).policy.log_prob(a))
        ratio = jnp.exp(log_prob(judged.transition.observation, judged.transition.action) - judged.log_prob)
        after[clip] = (jnp.sign(judged.advantage) * (ratio - 1)).mean()
    assert 0 < after[1e-6] < 0.75 * after[1e3]


def test_advantages_bootstrap_from_what_was_cut_and_not_from_what_ended():
    class Knows(eqx.Module):
        def __call__(self, x):
            return Output(policy=CategoricalPolicy(Linear(jnp.zeros((3, 2))))(x).policy, value=10.0 + x[0])

    t = segment()
    learner = actor_critic(Knows(), SGD(0.1), discount=0.5, gae_lambda=0.0)
    judged = learner.batch(learner.init(key=K[0]), t)
    value, following = 10 + t.observation[..., 0], 10 + t.next_observation[..., 0]
    np.testing.assert_allclose(judged.value_target, t.reward + 0.5 * following, rtol=1e-5)
    ended = dataclasses.replace(t, terminated=jnp.ones_like(t.terminated))
    np.testing.assert_allclose(learner.batch(learner.init(key=K[0]), ended).advantage, t.reward - value, rtol=1e-4)


def one_hot_walk(rows):
    s, a, r, then, terminated, truncated = (jnp.array(column) for column in zip(*rows, strict=True))
    hot = lambda index: jax.nn.one_hot(index, 3)
    return Transition(hot(s), a, r, terminated, truncated, jnp.zeros(len(s), bool), hot(then))


@pytest.mark.parametrize("double", [False, True])
def test_dqn_on_tables_is_q_learning(double):
    """One transition in the buffer, one weight a state and action, SGD: the step is α δ."""
    q, rate, discount = 0.3 * jax.random.normal(K[0], (2, 3)), 0.5, 0.9
    for terminated, truncated in ((False, False), (True, False), (False, True)):
        t = one_hot_walk([(0, 1, 0.4, 2, terminated, truncated)])
        learner = DQN(Linear(q), SGD(rate), 3, capacity=4, learning_starts=1, batch=8, discount=discount, double=double)
        state = learner.adapt(learner.init(key=K[0]), t, key=K[1])
        target = 0.4 + (0.0 if terminated else discount * q[:, 2].max())
        np.testing.assert_allclose(state.weights.weight, q.at[1, 0].add(rate * (target - q[1, 0])), rtol=1e-5)


def test_dqn_doubles_and_copies():
    t = one_hot_walk([(0, 1, 0.4, 2, False, False)])
    net = Linear(jnp.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.1]]))
    slow = Linear(jnp.array([[0.0, 0.0, 0.2], [0.0, 0.0, 0.9]]))
    for double, follows in ((False, 0.9), (True, 0.2)):  # the target's best; the target's view of the network's best
        learner = DQN(
            net,
            SGD(1.0),
            3,
            capacity=2,
            learning_starts=1,
            batch=4,
            discount=1.0,
            double=double,
            target_update_interval=2,
        )
        state = eqx.tree_at(lambda s: s.target, learner.init(key=K[0]), slow)
        once = learner.adapt(state, t, key=K[1])
        np.testing.assert_allclose(once.weights.weight[1, 0], 0.4 + follows, rtol=1e-5)
        np.testing.assert_allclose(once.target.weight, slow.weight)
        twice = learner.adapt(once, t, key=K[2])
        np.testing.assert_allclose(twice.target.weight, twice.weights.weight)


def test_dqn_explores_less_and_less_and_waits_for_its_warm_up():
    learner = DQN(Linear(jnp.eye(2, 3)), SGD(0.5), 3, capacity=6, learning_starts=3, batch=2, epsilon=0.1, decay=4)
    state, t = learner.init(key=K[0]), one_hot_walk([(0, 1, 1.0, 2, False, False)])
    for rollout, epsilon in enumerate((1.0, 0.775, 0.55, 0.325, 0.1, 0.1)):
        policy = jax.nn.softmax(learner.apply(state, jax.nn.one_hot(0, 3)).policy.logits)
        np.testing.assert_allclose(policy[1 - policy.argmax()], epsilon / 2, rtol=1e-5)
        np.testing.assert_allclose(state.steps, max(0, rollout - 2))
        state = learner.adapt(state, t, key=K[1])


def test_td3_takes_the_steps_worked_out_by_hand():
    t = Transition(*(x[None] for x in (
        jnp.array([0.3, -0.2]), jnp.array([3.0]), jnp.array(0.7), jnp.array(False), jnp.array(False), jnp.array(False),
        jnp.array([0.1, 0.5]),
    )))  # fmt: skip
    actor = Linear(jnp.array([[0.4, -0.3]]))
    critics = [Linear(jnp.array([[0.2, 0.1, 0.5]])), Linear(jnp.array([[-0.1, 0.3, 0.4]]))]
    start, rate, discount, max_action = ActorAndCritics(actor, critics), 0.1, 0.9, 2.0
    learner = DDPG(
        start,
        SGD(rate),
        2,
        capacity=2,
        learning_starts=1,
        batch=4,
        dims=1,
        max_action=max_action,
        discount=discount,
        tau=0.5,
        policy_delay=2,
    )
    x, then = np.asarray(t.observation[0]), np.asarray(t.next_observation[0])
    action = 2.0  # what the environment made of 3
    following = max_action * np.tanh(np.asarray(actor.weight) @ then)
    q = [np.asarray(c.weight)[0] for c in critics]
    target = 0.7 + discount * min(w @ np.concatenate([then, following]) for w in q)
    seen = np.concatenate([x, [action]])
    expected = [w - rate * 2 * (w @ seen - target) * seen for w in q]

    once = learner.adapt(learner.init(key=K[0]), t, key=K[1])
    for critic, by_hand in zip(once.weights.critics, expected, strict=True):
        np.testing.assert_allclose(critic.weight[0], by_hand, rtol=1e-5)
    np.testing.assert_allclose(once.weights.actor.weight, actor.weight)  # not its turn
    np.testing.assert_allclose(once.target.actor.weight, actor.weight)

    twice = learner.adapt(once, t, key=K[2])
    squashed = np.tanh(np.asarray(actor.weight)[0] @ x)
    uphill = expected[0][2] * max_action * (1 - squashed**2) * x  # by the first critic as it was when the step began
    np.testing.assert_allclose(twice.weights.actor.weight[0], np.asarray(actor.weight)[0] + rate * uphill, rtol=1e-4)
    halfway = (actor.weight + twice.weights.actor.weight) / 2
    np.testing.assert_allclose(twice.target.actor.weight, halfway, rtol=1e-5)


@pytest.mark.parametrize("update", [Scaled(0.1), LSTMOptimizer(4, key=K[0])])
def test_between_its_steps_the_actor_and_its_optimiser_stand_still(update):
    """Whatever the optimiser's memory looks like: by weight, or in one flat array for all of them."""
    t = Transition(jnp.ones((1, 2)), jnp.ones((1, 1)), jnp.ones(1), *jnp.zeros((3, 1), bool), jnp.full((1, 2), 0.5))
    start = ActorAndCritics(Linear(jnp.array([[0.4, -0.3]])), [Linear(jnp.array([[0.2, 0.1, 0.5]]))])
    learner = DDPG(start, update, 2, capacity=2, learning_starts=1, batch=2, policy_delay=3)
    states = [learner.init(key=K[0])]
    for _ in range(6):
        states.append(eqx.filter_jit(learner.adapt)(states[-1], t, key=K[1]))
    same = lambda a, b: all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    actors = [(state.weights.actor, state.memory[1]) for state in states]
    assert [same(a, b) for a, b in itertools.pairwise(actors)] == [True, True, False, True, True, False]
    assert not any(same(a.memory[0], b.memory[0]) for a, b in itertools.pairwise(states))


def test_a_ring_forgets_the_oldest():
    ring = Ring.empty(jnp.zeros((), int), 3)
    assert not ring.known.any()
    ring = ring.push(jnp.arange(1, 3)).push(jnp.arange(3, 5))
    np.testing.assert_array_equal(ring.items, [4, 2, 3])
    assert ring.known.all()
    assert set(np.asarray(ring.sample(50, key=K[0])).tolist()) == {2, 3, 4}
    with pytest.raises(ValueError, match="do not fit"):
        ring.push(jnp.arange(4))
    with pytest.raises(ValueError, match="capacity"):
        Ring.empty(jnp.zeros(()), 0)


def lpg() -> LPG:
    return LPG(
        RandomInit(lambda key: TablePolicy(2, 3, 4, key=key)), SGD(0.5), key=K[3], predictions=4, size=6, exploring=0.0
    )


def test_a_learned_loss_takes_the_step_worked_out_by_hand():
    """What is to be reinforced and predicted given, the step is that of the two parts of the loss."""
    t = segment()
    time, num_envs = t.reward.shape
    advice, target = jax.random.normal(K[0], (time, num_envs)), jax.random.normal(K[1], (time, num_envs, 4))

    class Told(LPG):
        def advise(self, state, t):
            return advice, target

    made = lpg()
    learner = object.__new__(Told)
    for name, value in vars(made).items():
        object.__setattr__(learner, name, value)
    state = learner.init(key=K[2])
    after = learner.adapt(state, t, key=K[2]).weights
    logits, symbols = np.zeros((2, 3)), np.zeros((2, 4))
    for at in range(time):
        for copy in range(num_envs):
            x = np.asarray(t.observation[at, copy])
            policy = np.asarray(jax.nn.softmax(x @ state.weights.logits))
            logits += np.outer(x, float(advice[at, copy]) * (np.eye(3)[t.action[at, copy]] - policy))
            said = np.asarray(jax.nn.softmax(x @ state.weights.symbols))
            apart = np.log(said) - np.asarray(jax.nn.log_softmax(target[at, copy]))
            symbols -= 0.5 * np.outer(x, said * (apart - said @ apart))  # of KL(y ‖ ŷ) by the logits of y
    np.testing.assert_allclose(
        after.logits, state.weights.logits + 0.5 * logits / (time * num_envs), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        after.symbols, state.weights.symbols + 0.5 * symbols / (time * num_envs), rtol=1e-4, atol=1e-5
    )


def test_a_learned_loss_looks_ahead_to_the_end_of_the_episode_and_no_further():
    t, learner = segment(), lpg()
    state = learner.init(key=K[0])
    ended = dataclasses.replace(t, terminated=t.terminated.at[1].set(True))
    richer = lambda t: dataclasses.replace(t, reward=t.reward.at[3].add(5.0))
    advice = lambda t: learner.advise(state, t)[0]
    assert (advice(t)[:3] != advice(richer(t))[:3]).all()
    np.testing.assert_array_equal(advice(ended)[:2], advice(richer(ended))[:2])
    assert (advice(ended)[2] != advice(richer(ended))[2]).all()


def test_transfer_trains_in_one_family_and_tests_in_the_other():
    mazes, mdps = Mazes(3), TabularMDPs(9, 4)
    splits = Transfer(mdps, mazes).split()
    assert isinstance(splits.train, TabularMDPs)
    for held_out, other in zip(splits[1:], mazes.split()[1:], strict=True):
        ours, theirs = held_out.tasks(3), other.tasks(3)
        assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True))
    with pytest.raises(Incompatible, match="differ"):
        Transfer(TabularMDPs(8, 4), mazes)


def test_meta_gradients_reach_the_discount_over_one_trial():
    """Xu et al. 2018: the trial goes on in the objective's memory, its weights drawn anew."""
    tasks = TabularMDPs(3, 3, 4)
    draw = lambda key: WithValue(CategoricalPolicy(MLP((3, 3), key=key)), MLP((3, 1), key=key))
    learner = actor_critic(RandomInit(draw), SGD(Positive(0.5)), discount=Bounded(0.9), gae_lambda=Bounded(0.5))
    objective = Trial(
        tasks.environment, trial_length=48, bptt_length=16, segment_length=8, num_envs=2, terms=((1.0, losses.a2c),)
    )
    config = Training(3, 4, log_every=3, validate_every=-1)
    trained = train(learner, objective, Backprop(optax.adam(1e-2)), tasks, config=config).learner
    for name in ("discount", "gae_lambda"):
        assert getattr(trained, name).logit != getattr(learner, name).logit


def test_evolution_improves_what_back_propagation_refuses():
    tasks = TabularMDPs(2, 2, 3)
    learner = DQN(
        Linear(jnp.zeros((2, 2))), Scaled(Positive(0.1)), 2, capacity=20, learning_starts=2, batch=2, decay=10
    )
    trial = Trial(tasks.environment, trial_length=60, baseline="none", normalise=False)
    with pytest.raises(Incompatible, match="Evolution"):
        Backprop(optax.sgd(0.1)).init(learner)
    config = Training(2, 2, log_every=2, validate_every=-1)
    result = train(learner, trial, Evolution(optax.adam(0.1), population=4, sigma=1.0), tasks, config=config)
    assert result.learner.update.rate.log != learner.update.rate.log


def test_the_return_per_episode_counts_episodes_that_ended():
    class Counts(eqx.Module):
        """Pays 1 a step; every third step ends an episode, unless the task says never."""

        def reset(self, key, params):
            return jnp.zeros(1), jnp.zeros((), int)

        def step(self, key, state, action, params):
            state = state + 1
            ended = (state % 3 == 0) & params
            return jnp.zeros(1), state, 1.0, ended, False, {"final_observation": jnp.zeros(1)}

    learner = reinforce(CategoricalPolicy(Linear(jnp.zeros((2, 1)))), SGD(0.0))
    trial = Trial(
        Counts(),
        trial_length=12,
        segment_length=2,
        num_envs=2,
        burn_in=6,
        baseline="none",
        curve_interval=4,
        per_episode=True,
    )
    batch, _ = trial.collect(learner, BLANK, jnp.array([True, False]), keys=per_task(jnp.array([True, False]), K[0]))
    assert trial.metric == "return per episode"
    np.testing.assert_allclose(trial.score(batch), [3, 12])  # of what never ends, all there is
    np.testing.assert_allclose(trial.curve(batch), [[3, 3, 3], [4, 8, 12]])


@pytest.mark.parametrize("values", [{"segment_length": 0}, {"steps": 100}, {"rate": 0.0}])
def test_recipes_say_what_is_wrong(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        configure("cartpole-ppo", values)
