"""What is bootstrapped at which end, what is not finite, in which unit values are, and witnesses by hand: advantages
across windows and segments, PPO after the ratios have moved, the meta-gradient through an inner policy gradient."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from per_task import BLANK
from quickstudy.core import Incompatible, Learner, ObjectiveMemory
from quickstudy.data.batches import FewShotTask, Labelled, Output
from quickstudy.data.distributions import Categorical
from quickstudy.learners.gradient.inner_losses import PolicyGradient
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.learners.gradient.updates import SGD
from quickstudy.learners.memory.recurrent import ActorCritic, Feedback, OutcomeFeedback, Recurrent
from quickstudy.learners.replay import scan_replay
from quickstudy.meta_optimizers.backprop import mean_gradient
from quickstudy.nn.cells import GRU
from quickstudy.nn.measures import accuracy
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.online import Online
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import combine, partition
from quickstudy.rl import losses
from quickstudy.rl.value_statistics import ValueStatistics
from quickstudy.tasks.navigation import Navigation
from registry import policy

K = jax.random.split(jax.random.key(21), 6)
PPO = ((1.0, losses.ppo(0.2)), (0.5, losses.value), (0.01, losses.entropy))


def keys(num, key=K[0]):
    return jax.random.split(key, num)


class Walk(eqx.Module):
    """Numbers that follow from the last action; cut every `cut` steps, over by themselves where the third action is
    taken. `params` [2] is a factor of the reward, and whether the observation is a number at all."""

    cut: int = eqx.field(static=True, default=4)

    def reset(self, key, params):
        return jnp.array([0.0, params[1]]), jnp.zeros((), int)

    def step(self, key, state, action, params):
        state = state + 1
        seen = jnp.stack([jnp.sin(1.0 * state + action), params[1]])
        terminated, truncated = action == 2, state % self.cut == 0
        ended = terminated | truncated
        first, blank = self.reset(key, params)
        shown = jnp.where(ended, first, seen)
        reward = params[0] * (action == 0)
        return shown, jnp.where(ended, blank, state), reward, terminated, truncated, {"final_observation": seen}


def walks(num, factor=1.0):
    return jnp.stack([jnp.full(num, factor), jnp.zeros(num)], 1)


class Counts(Learner):
    """Its value is the number of steps that it has absorbed; it never takes the action that ends an episode."""

    def init(self, *, key):
        return jnp.zeros(())

    def adapt(self, state, experience, *, key):
        return state + len(experience.reward)

    def apply(self, state, x):
        return Output(policy=Categorical(jnp.array([0.0, 0.0, -jnp.inf])), value=state)

    replay = scan_replay


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("segment", "differences"), [(1, [1] * 8), (2, [0, 2] * 4)])
def test_the_value_after_a_cut_is_of_the_state_that_saw_the_cut(whole, segment, differences):
    """Nothing is earned and λ is 0, so an advantage is V' − V: what was absorbed from one step to the next."""
    trial = Trial(
        Walk(), 8, segment_length=segment, bptt_length=None if whole else 4, discount=1.0, gae_lambda=0.0,
        across_episodes=False, normalise=False,
    )  # fmt: skip
    tasks = walks(1, factor=0.0)
    memory, found = trial.init(Counts(), tasks, keys=keys(1)), []
    for _ in range(1 if whole else 2):
        batch, memory = trial.collect(Counts(), memory, tasks, keys=keys(1))
        found.append(np.asarray(batch.advantage).reshape(-1))
    expected = [*differences[:-1], -(8 - segment)]  # nothing follows the last step
    np.testing.assert_allclose(np.concatenate(found), expected)


def agent(key=K[1]) -> Recurrent:
    feedback = OutcomeFeedback(3)
    return Recurrent(GRU(2 + feedback.size, 6, key=key), ActorCritic(6, 3, key=key), feedback)


def stepped(learner, batch, task):
    """(values, values of what would have followed each cut, log-probabilities) along all of a task's segments of one
    step, by doing one thing after another."""
    state, said = learner.init(key=batch.key[task]), []
    for i in range(batch.transition.reward.shape[1]):
        t = jax.tree.map(lambda x: x[task, i], batch.transition)
        one = jax.tree.map(lambda x: x[0], t)
        output = learner.apply(state, one.observation)
        uncut = learner.adapt(state, dataclasses.replace(t, truncated=jnp.zeros(1, bool)), key=batch.keys[task, i])
        after_cut = learner.apply(uncut, one.next_observation).value
        said.append((output.value, after_cut, output.policy.log_prob(one.action)))
        state = learner.adapt(state, t, key=batch.keys[task, i])
    return np.asarray(said, float).T


@pytest.mark.parametrize("across_episodes", [True, False])
def test_advantages_across_windows_by_hand(across_episodes):
    """A trial of 12 steps in windows of 6: each looks beyond its end by the value of what waits there."""
    discount, lam = 0.9, 0.7
    trial = Trial(
        Walk(), 12, bptt_length=6, discount=discount, gae_lambda=lam, across_episodes=across_episodes, normalise=False
    )
    learner, tasks = agent(), walks(8)
    memory, windows = trial.init(learner, tasks, keys=keys(8)), []
    for i in range(2):
        batch, memory = eqx.filter_jit(trial.collect)(learner, memory, tasks, keys=keys(8, K[i]))
        windows.append(batch)
    whole = dataclasses.replace(
        windows[0],
        transition=jax.tree.map(lambda *x: jnp.concatenate(x, 1), *[b.transition for b in windows]),
        keys=jnp.concatenate([b.keys for b in windows], 1),
    )
    t = jax.tree.map(np.asarray, whole.transition)
    assert t.terminated.any() and t.truncated.any()
    for task in range(8):
        value, after_cut, _ = stepped(learner, whole, task)
        advantage = np.zeros(13)
        for i in reversed(range(12)):
            terminated, truncated = (bool(x[task, i, 0]) and not across_episodes for x in (t.terminated, t.truncated))
            over = terminated or i == 11
            following = 0.0 if over else after_cut[i] if truncated else value[i + 1]
            goes_on = not (over or truncated or i == 5)  # λ-returns end where the window does
            advantage[i] = t.reward[task, i, 0] + discount * following - value[i]
            advantage[i] += discount * lam * goes_on * advantage[i + 1]
        ours = np.concatenate([np.asarray(b.advantage)[task, :, 0] for b in windows])
        np.testing.assert_allclose(ours, advantage[:12], rtol=1e-3, atol=1e-5)
        targets = np.concatenate([np.asarray(b.value_target)[task, :, 0] for b in windows])
        np.testing.assert_allclose(targets, advantage[:12] + value, rtol=1e-3, atol=1e-5)


def test_ppo_after_the_ratios_have_moved_by_hand():
    """The value from ratios that are worked out step by step; the gradient as a sum of scores, where the clip leaves
    one."""
    clip, tasks, learner = 0.05, walks(6), agent()
    trial = Trial(Walk(), 8, terms=((1.0, losses.ppo(clip)),))
    batch, _ = trial.collect(learner, BLANK, tasks, keys=keys(6))
    learned, rest = partition(learner)
    moved = jax.tree.map(lambda w: w + 0.2 * jax.random.normal(K[2], w.shape), learned)
    ours, gradient = jax.value_and_grad(lambda w: trial.loss(combine(w, rest), batch)[0].mean())(moved)
    now = np.stack([stepped(combine(moved, rest), batch, task)[2] for task in range(6)])
    ratio = np.exp(now - np.asarray(batch.log_prob)[..., 0])
    advantage = np.asarray(batch.advantage)[..., 0]
    inside = np.where(advantage > 0, ratio < 1 + clip, ratio > 1 - clip)
    assert 0.2 < inside.mean() < 0.8  # both kinds of steps are there
    clipped = np.where(inside, ratio, np.where(advantage > 0, 1 + clip, 1 - clip))
    np.testing.assert_allclose(ours, -(clipped * advantage).mean(), rtol=1e-4)

    weights = jnp.asarray(-ratio * advantage * inside / advantage.size)

    def scores(w):
        replayed = lambda b: losses.log_probs(
            combine(w, rest).replay(combine(w, rest).init(key=b.key), b.transition, key=b.keys), b
        )
        return (weights * jax.vmap(replayed)(batch)[..., 0]).sum()

    for a, b in zip(*map(jax.tree.leaves, (gradient, jax.grad(scores)(moved))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


# --- MAML's meta-gradient through an inner policy gradient, by hand ----------------------------------------------


def fitted_advantages(t, discount):
    """Rewards to go less Duan's linear baseline, to mean 0 and deviation 1, in numpy."""
    reward, ended = np.asarray(t.reward, float), np.asarray(t.terminated | t.truncated | t.last)
    time, num = reward.shape
    to_go, following = np.zeros((time, num)), np.zeros(num)
    for i in reversed(range(time)):
        following = to_go[i] = reward[i] + discount * np.where(ended[i], 0, following)
    o, when = np.asarray(t.observation, float), np.arange(time)[:, None, None] / 100 * np.ones((1, num, 1))
    features = np.concatenate([o, o**2, when, when**2, when**3], -1).reshape(time * num, -1)
    features = features - features.mean(0)
    features = features / np.maximum(features.std(0), 1)
    gram = features.T @ features + 1e-5 * time * num * np.eye(features.shape[1])
    fit = to_go.mean() + features @ np.linalg.solve(gram, features.T @ (to_go - to_go.mean()).reshape(-1))
    advantage = to_go - fit.reshape(time, num)
    return (advantage - advantage.mean()) / advantage.std()


def test_the_meta_gradient_through_a_policy_gradient_by_hand():
    """Two inner steps of 4 trajectories each, then REINFORCE: in plain JAX, with a network and a density of its own."""
    tasks, rate, discount = Navigation(episode=5), 0.1, 0.95
    trial = Trial(
        tasks.environment, 15, ((1.0, losses.reinforce),), segment_length=5, num_envs=4, burn_in=10, baseline="linear",
        across_episodes=False,
    )  # fmt: skip
    learner = Gradient(policy(), PolicyGradient(discount), SGD(rate))
    batch, _ = eqx.filter_jit(trial.collect)(learner, BLANK, tasks.batch(keys(3)), keys=keys(3))
    learned, rest = partition(learner)
    ours = jax.jit(jax.grad(lambda w: trial.loss(combine(w, rest), batch)[0].mean()))(learned).start

    net = learner.start.net.layers
    plain = [(layer.weight, layer.bias) for layer in net], learner.start.log_std

    def log_prob(parameters, t):
        layers, log_std = parameters
        x = t.observation
        for i, (weight, bias) in enumerate(layers):
            x = x @ weight.T + bias
            x = jnp.tanh(x) if i < len(layers) - 1 else x
        z = (t.action - x) / jnp.exp(log_std)
        return (-0.5 * z**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)

    def outer(parameters, task, of_inner=lambda gradient: gradient):
        segments = [jax.tree.map(lambda x: x[task, i], batch.transition) for i in range(3)]
        for t in segments[:2]:
            inner = lambda p, t=t, a=fitted_advantages(t, discount): -(a * log_prob(p, t)).mean()
            parameters = jax.tree.map(lambda p, g: p - rate * g, parameters, of_inner(jax.grad(inner)(parameters)))
        return -(batch.advantage[task, 2] * log_prob(parameters, segments[2])).mean()

    by_hand = jax.grad(lambda p: sum(outer(p, task) for task in range(3)) / 3)(plain)
    theirs = [(layer.weight, layer.bias) for layer in ours.net.layers], ours.log_std
    for a, b in zip(*map(jax.tree.leaves, (theirs, by_hand)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)
    first_order = jax.grad(lambda p: sum(outer(p, task, jax.lax.stop_gradient) for task in range(3)) / 3)(plain)
    assert any(  # of which this could not be said
        not np.allclose(a, b, rtol=2e-2, atol=1e-4)
        for a, b in zip(*map(jax.tree.leaves, (theirs, first_order)), strict=True)
    )


# --- what is not finite ------------------------------------------------------------------------------------------


def test_a_rollout_that_saw_what_is_no_number_has_no_score():
    """NaN logits take action 0, which pays: the ill tasks would be the best."""
    ill = np.arange(16) % 3 == 0
    sound = walks(16)
    tasks = sound.at[:, 1].set(jnp.where(jnp.asarray(ill), jnp.nan, 0.0))
    trial, learner = Trial(Walk(), 12, PPO, curve_interval=4), agent()
    memory = trial.init(learner, tasks, keys=keys(16))
    batch, after = trial.collect(learner, memory, tasks, keys=keys(16))
    np.testing.assert_array_equal(batch.diverged, ill)
    np.testing.assert_array_equal(np.isnan(trial.score(batch)), ill)
    np.testing.assert_array_equal(np.isnan(trial.curve(batch)).all(1), ill)
    # The others are what they are without them: scores, advantages, statistics, gradient.
    alone, after_alone = trial.collect(learner, memory, tasks[~ill], keys=keys(16)[~ill])
    np.testing.assert_allclose(trial.score(batch)[~ill], trial.score(alone))
    np.testing.assert_allclose(batch.advantage[~ill], alone.advantage, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.standardised_return[~ill], alone.standardised_return, rtol=1e-4, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (after, after_alone)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    of_all, of_some = (mean_gradient(trial, learner, b)[2] for b in (batch, alone))
    for a, b in zip(*map(jax.tree.leaves, (of_all, of_some)), strict=True):
        np.testing.assert_allclose(16 * a, (~ill).sum() * b, rtol=1e-3, atol=1e-5)


def test_an_answer_that_is_no_number_is_not_right():
    class Broken(Learner):
        def init(self, *, key):
            return jnp.zeros(2)

        def adapt(self, state, experience, *, key):
            return state + experience.x[0]

        def apply(self, state, x):
            return Output(prediction=state)  # NaN from the support set; argmax says 0

        replay = scan_replay

    x = jnp.zeros((3, 4, 2)).at[1].set(jnp.nan)
    examples = Labelled(x, jnp.zeros((3, 4), int))
    few_shot = FewShot(of_score=accuracy, metric="accuracy", lower_is_better=False)
    batch, _ = few_shot.collect(Broken(), BLANK, FewShotTask(examples, examples), keys=keys(3))
    np.testing.assert_array_equal(few_shot.score(batch), [1, np.nan, 1])
    online = Online(of_score=accuracy, metric="accuracy", lower_is_better=False)
    streamed, _ = online.collect(Broken(), BLANK, examples, keys=keys(3))
    np.testing.assert_array_equal(online.score(streamed), [1, np.nan, 1])
    np.testing.assert_array_equal(online.curve(streamed)[1], [1, np.nan, np.nan, np.nan])


# --- the unit of values ------------------------------------------------------------------------------------------


class TookAction(Feedback):
    """Tells the network nothing of the reward."""

    size = 3

    def __call__(self, item):
        return jax.nn.one_hot(item.action, 3)


def test_rewards_of_another_unit_are_the_same_to_the_critic():
    trial, feedback, found = Trial(Walk(), 12, PPO), TookAction(), []
    learner = Recurrent(GRU(2 + feedback.size, 6, key=K[1]), ActorCritic(6, 3, key=K[1]), feedback)
    for factor in (1.0, 1000.0):
        shared = ValueStatistics(*(jnp.asarray(x) for x in (2.0 * factor, 3.0 * factor**2, 4.0 * factor, 5.0)))
        batch, memory = trial.collect(learner, ObjectiveMemory(shared), walks(8, factor), keys=keys(8))
        loss, _ = trial.loss(learner, batch)
        found.append((batch.advantage, batch.value_target, memory.shared.scale / factor, loss))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_targets_are_in_the_units_in_which_outputs_are_read():
    """What the critic says when it has met its targets is the λ-returns themselves."""
    trial, learner = Trial(Walk(), 12, PPO), agent()
    raw = dataclasses.replace(trial, normalise_values=False)
    memory = trial.init(learner, walks(8), keys=keys(8))
    batch, memory = trial.collect(learner, memory, walks(8), keys=keys(8))
    returns, _ = raw.collect(learner, BLANK, walks(8), keys=keys(8))  # nothing was known yet: the unit was 1
    statistics = memory.shared
    meant = statistics.to_reward_units(batch.value_target)
    np.testing.assert_allclose(meant, returns.value_target, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.value_target.mean(), 0.0, atol=1e-5)
    np.testing.assert_allclose(batch.value_target.std(), 1.0, rtol=1e-4)
    np.testing.assert_allclose(statistics.mean, returns.value_target.mean(), rtol=1e-5)
    assert raw.init(learner, walks(8), keys=keys(8)).shared == ()


def test_statistics_of_values_are_those_of_all_that_was_seen():
    """A mixture of meta-steps, the older ones by 0.99 less each; a mask leaves out, and nothing changes nothing."""
    rng, statistics, weights, seen = np.random.default_rng(0), ValueStatistics.blank(), [], []
    for level in (3.0, 5.0, -1.0):
        value = rng.normal(level, 2.0, (4, 50))
        mask = rng.random((4, 50)) < 0.7
        statistics = statistics.after(jnp.where(mask, value, np.nan), jnp.asarray(mask))
        weights = [0.99 * w for w in weights] + [1.0]
        seen.append(value[mask])
    share = np.array(weights) / sum(weights)
    mean = sum(w * x.mean() for w, x in zip(share, seen, strict=True))
    variance = sum(w * ((x - mean) ** 2).mean() for w, x in zip(share, seen, strict=True))
    np.testing.assert_allclose([statistics.mean, statistics.variance], [mean, variance], rtol=1e-5)
    same = statistics.after(jnp.ones((4, 50)), jnp.zeros((4, 50), bool))
    assert all(a == b for a, b in zip(*map(jax.tree.leaves, (statistics, same)), strict=True))


def test_a_rare_reward_is_no_target_without_bounds():
    """Before the first reward values are next to nothing, and so would be their deviation."""
    statistics = ValueStatistics.blank()
    for _ in range(50):
        statistics = statistics.after(1e-6 * jax.random.normal(K[0], (4, 1000)), jnp.ones((4, 1000), bool))
    found = jnp.zeros((4, 1000)).at[0, 0].set(1.0)
    assert float(jnp.abs(statistics.after(found, found == found).normalise(found)).max()) < 10.5
    nothing = ValueStatistics.blank().after(jnp.full((2, 3), 7.0), jnp.ones((2, 3), bool))
    np.testing.assert_array_equal(nothing.normalise(jnp.full((2, 3), 7.0)), jnp.zeros((2, 3)))
    assert nothing.scale == 1


def test_values_that_adaptation_uses_stay_in_units_of_the_reward():
    class Owns(Recurrent):
        value_in_reward_units = True

    learner = agent()
    own = Owns(learner.cell, learner.heads, learner.feedback)
    trial = Trial(Walk(), 12, PPO)
    assert trial.init(own, walks(2), keys=keys(2)).shared == ()
    without_critic = dataclasses.replace(trial, terms=PPO[:1])
    assert without_critic.init(learner, walks(2), keys=keys(2)).shared == ()
    assert jax.tree.leaves(trial.init(learner, walks(2), keys=keys(2)).shared)


def test_metrics_name_the_loss_terms_and_add_up_to_the_loss():
    trial, learner = Trial(Walk(), 12, (*PPO, (0.5, losses.value))), agent()
    batch, _ = trial.collect(learner, BLANK, walks(4), keys=keys(4))
    loss, metrics = trial.loss(learner, batch)
    parts = {name: value for name, value in metrics.items() if name.startswith("loss/")}
    assert list(parts) == ["loss/ppo", "loss/value", "loss/entropy", "loss/value-2"]
    np.testing.assert_allclose(sum(parts.values()), loss, rtol=1e-5)
    np.testing.assert_allclose(parts["loss/value"], parts["loss/value-2"])


def test_a_trial_without_terms_has_no_loss():
    trial = Trial(Walk(), 12)
    batch, _ = trial.collect(agent(), BLANK, walks(2), keys=keys(2))
    with pytest.raises(Incompatible, match="no loss"):
        trial.loss(agent(), batch)


@pytest.mark.parametrize("wrong", [{"discount": 1.5}, {"gae_lambda": -1.0}])
def test_what_is_no_probability_of_going_on_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Trial(Walk(), 12, **wrong)


def test_observations_are_stored_once_where_nobody_looks_beyond_them():
    """In the compiled meta-step what follows an observation takes no memory, unless the learner or a term reads it."""
    size = 2000

    class Seen(eqx.Module):
        final: int = eqx.field(static=True)

        def reset(self, key, params):
            return jnp.zeros(size), jnp.zeros(())

        def step(self, key, state, action, params):
            o = jax.random.normal(key, (size,))
            return o, state, o[0], False, False, {"final_observation": o[: self.final]}

    feedback, num, steps = OutcomeFeedback(2), 4, 24
    learner = Recurrent(GRU(size + feedback.size, 4, key=K[0]), ActorCritic(4, 2, key=K[1]), feedback)

    def temporaries(environment):
        trial = Trial(environment, steps, PPO)

        def step(keys):
            batch, _ = trial.collect(learner, BLANK, jnp.zeros(num), keys=keys)
            return mean_gradient(trial, learner, batch)[0]

        return jax.jit(step).lower(keys(num)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(Seen(size)) - temporaries(Seen(1)) < 0.1 * num * steps * size * 4


class Guess(eqx.Module):
    """An action is a point, and costs its distance from the one that the task has in mind: about −1 a step."""

    def reset(self, key, params):
        return jnp.zeros(0), ()

    def step(self, key, state, action, params):
        nothing, never = jnp.zeros(0), jnp.zeros((), bool)
        cost = jnp.sqrt(((action - params) ** 2).sum() + 1e-8)
        return nothing, (), -cost, never, never, {"final_observation": nothing}


def test_a_composed_agent_learns_where_rewards_are_about_minus_one_a_step():
    """Nobody guesses a unit for its critic. In units of the reward the same agent is at −17 by then."""
    feedback = OutcomeFeedback(None, 2)
    learner = Recurrent(GRU(feedback.size, 32, key=K[0]), ActorCritic(32, 2, key=K[1], gaussian=True), feedback)
    trial, optimizer = Trial(Guess(), 20, PPO), optax.adam(3e-3)
    learned, rest = partition(learner)

    @jax.jit
    def step(learned, memory, state, key):
        draw, go = jax.random.split(key)
        tasks = jax.random.uniform(draw, (64, 2), minval=-1.0)
        learner = combine(learned, rest)
        batch, memory = trial.collect(learner, memory, tasks, keys=keys(64, go))

        def epoch(carry, _):
            learned, state = carry
            gradient = jax.grad(lambda w: trial.loss(combine(w, rest), batch)[0].mean())(learned)
            moves, state = optimizer.update(gradient, state)
            return (optax.apply_updates(learned, moves), state), None

        (learned, state), _ = jax.lax.scan(epoch, (learned, state), None, length=8)
        return learned, memory, state, trial.score(batch).mean()

    memory, state, scores = trial.init(learner, jnp.zeros((64, 2)), keys=keys(64)), optimizer.init(learned), []
    for i in range(100):
        learned, memory, state, score = step(learned, memory, state, jax.random.fold_in(K[3], i))
        scores.append(float(score))
    assert scores[0] < -24 and np.mean(scores[-10:]) > -13
