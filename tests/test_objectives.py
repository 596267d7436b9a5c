"""Trials, streams and Reptile: what is collected, what is replayed, what outlives a meta-step."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from per_task import BLANK, per_task
from quickstudy.config import Training
from quickstudy.core import Incompatible, Objective
from quickstudy.data.batches import Rollout, Transition
from quickstudy.display.events import quiet
from quickstudy.learners.gradient.inner_losses import PolicyGradient
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.learners.gradient.updates import SGD
from quickstudy.learners.memory.recurrent import ActorCritic, LabelFeedback, OutcomeFeedback, Prediction, Recurrent
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.nn.cells import GRU
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.online import Online
from quickstudy.objectives.reptile import Reptile
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import combine, partition
from quickstudy.rl import advantages, losses
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.mdps import TabularMDPs
from quickstudy.tasks.sinusoid import Sinusoids, SinusoidStreams
from quickstudy.train.run import train
from registry import K, gradient, policy, recurrent
from test_gradient_family import close, navigation_trial

PPO = ((1.0, losses.ppo(0.2)), (0.5, losses.value), (0.01, losses.entropy))


def test_gae_against_a_table_worked_out_by_hand():
    """γ = ½, λ = ½. Step 1 terminates, step 3 is cut, step 5 ends the trial.

    δ: 1+½·2−1=1, 2+0−2=0, 3+½·4−1=4, 1+½·8−3=2 (worth what would have followed), 2+½·2−1=2, 1+0−2=−1.
    Â: 1+¼·0=1, 0, 4+¼·2=4.5, 2, 2+¼·(−1)=1.75, −1.
    """
    table = dict(
        reward=jnp.array([1.0, 2, 3, 1, 2, 1]),
        value=jnp.array([1.0, 2, 1, 3, 1, 2]),
        next_value=jnp.array([2.0, 9, 4, 8, 2, 7]),
        terminated=jnp.array([0, 1, 0, 0, 0, 0], bool),
        truncated=jnp.array([0, 0, 0, 1, 0, 0], bool),
        last=jnp.array([0, 0, 0, 0, 0, 1], bool),
    )
    ours = advantages.gae(**table, discount=0.5, gae_lambda=0.5)
    np.testing.assert_allclose(ours, [1, 0, 4.5, 2, 1.75, -1])


def test_rewards_to_go_stop_at_every_kind_of_end():
    flags = np.zeros((3, 6), bool)
    flags[0, 1] = flags[1, 3] = flags[2, 5] = True
    ours = advantages.rewards_to_go(jnp.ones(6), *map(jnp.asarray, flags), discount=0.5)
    np.testing.assert_allclose(ours, [1.5, 1, 1.5, 1, 1.5, 1])


def test_linear_baseline_fits_what_is_linear_in_its_features():
    observation = jax.random.normal(K, (30, 5, 2))
    target = 2 * observation[..., 0] - observation[..., 1] ** 2 + 0.3
    np.testing.assert_allclose(advantages.linear_baseline(observation, target, ridge=1e-9), target, atol=1e-2)


@pytest.mark.parametrize("still", [0.0, 8.0, 10.0, 1e3])
def test_a_coordinate_that_never_moves_is_no_trouble_to_the_baseline(still):
    observation = jax.random.normal(K, (50, 16, 4)).at[..., 1].set(still).at[..., 2].set(-still)
    target = 2 * observation[..., 0] + 5
    np.testing.assert_allclose(advantages.linear_baseline(observation, target), target, atol=1e-2)
    alike = jnp.where(jax.random.bernoulli(K, 0.5, (100, 20, 1)), 10.0, -10.0) * jnp.ones(3)
    np.testing.assert_allclose(advantages.linear_baseline(alike, alike[..., 0]), alike[..., 0], atol=1e-2)


def test_a_baseline_held_back_is_the_mean():
    one_hot, target = jnp.eye(10)[:, None], jax.random.normal(K, (10, 1))
    free, held = (advantages.linear_baseline(one_hot, target, ridge=ridge) for ridge in (1e-5, 1e5))
    np.testing.assert_allclose(free, target, atol=1e-2)  # as many features as steps: nothing is left
    np.testing.assert_allclose(held, jnp.full((10, 1), target.mean()), atol=1e-3)


def test_the_linear_baseline_looks_past_the_end_of_a_segment():
    """Rewards of 1 for ever in one long episode: segment after segment is worth the same, but for the last."""
    trial = Trial(
        TabularMDPs(2, 2, episode=60).environment, trial_length=60, segment_length=20, num_envs=3, baseline="linear",
        discount=0.5,
    )  # fmt: skip
    ones = jnp.ones((3, 20, 3))
    never = jnp.zeros((3, 20, 3), bool)
    observation = jax.random.normal(K, (3, 20, 3, 2))
    t = Transition(observation, never.astype(int), ones, never, never, never, observation)
    keys = jax.random.split(K, 3)
    rollout = Rollout(t, ones, None, None, None, K, keys, (), jnp.zeros((), int))
    advantage, to_go = trial._advantages(rollout, ())
    np.testing.assert_allclose((to_go - advantage)[:2], 2.0, atol=1e-2)


def test_dice_weights_differentiate_to_the_score_function():
    advantage, ended = jnp.array([1.0, -2.0, 3.0, 0.5]), jnp.array([0, 1, 0, 0], bool)
    surrogate = lambda l: (losses.dice_weights(l, ended) * advantage).sum()
    np.testing.assert_allclose(jax.grad(surrogate)(jnp.full(4, -0.7)), advantage, rtol=1e-6)
    hessian = jax.hessian(surrogate)(jnp.full(4, -0.7))
    # A_t ∂ℓ_t scaled by □ of what came before in the same episode, and by itself
    expected = np.array([[1.0, -2, 0, 0], [-2, -2, 0, 0], [0, 0, 3, 0.5], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(hessian, expected, rtol=1e-6)


def bandit_trial(**changes):
    tasks = Bandits(3)
    return tasks, Trial(tasks.environment, **{"trial_length": 6, "terms": PPO, **changes})


@pytest.mark.parametrize("family", ["rl2", "maml-rl"])
def test_replay_reproduces_the_collected_log_probabilities(family):
    if family == "rl2":
        (tasks, trial), learner = bandit_trial(), recurrent()
    else:
        tasks, trial = navigation_trial(terms=PPO[:1])
        learner = Gradient(policy(), PolicyGradient(), SGD(0.1))
    batch, memory = trial.collect(learner, BLANK, tasks.batch(jax.random.split(K, 4)), keys=jax.random.split(K, 4))
    assert not jax.tree.leaves(memory)

    def again(collected):
        outputs = learner.replay(learner.init(key=collected.key), collected.transition, key=collected.keys)
        return losses.log_probs(outputs, collected)

    np.testing.assert_allclose(jax.vmap(again)(batch), batch.log_prob, rtol=1e-4, atol=1e-5)


def test_ppo_without_movement_is_reinforce():
    tasks, trial = bandit_trial()
    learner = recurrent()
    batch, _ = trial.collect(learner, BLANK, tasks.batch(jax.random.split(K, 8)), keys=jax.random.split(K, 8))
    learned, rest = partition(learner)

    def gradient_of(term):
        trial_of = Trial(tasks.environment, trial_length=6, terms=((1.0, term),))
        return jax.grad(lambda w: trial_of.loss(combine(w, rest), batch)[0].mean())(learned)

    close(gradient_of(losses.ppo(0.2)), gradient_of(losses.reinforce), rtol=1e-3, atol=1e-6)


def test_advantages_are_normalised_over_all_tasks():
    tasks, trial = bandit_trial()
    batch, _ = trial.collect(recurrent(), BLANK, tasks.batch(jax.random.split(K, 16)), keys=jax.random.split(K, 16))
    np.testing.assert_allclose(batch.advantage.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(batch.advantage.std(), 1, atol=1e-3)


def test_the_score_is_the_reward_after_the_burn_in_and_the_curve_is_all_of_it():
    tasks, trial = navigation_trial()
    learner = Gradient(policy(), PolicyGradient(), SGD(0.1))
    batch, _ = trial.collect(learner, BLANK, tasks.batch(jax.random.split(K, 3)), keys=jax.random.split(K, 3))
    reward = np.asarray(batch.transition.reward)  # [tasks, segments, steps, width]
    np.testing.assert_allclose(trial.score(batch), reward[:, 1].mean(-1).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(trial.curve(batch), reward.mean(-1).sum(-1), rtol=1e-5)
    assert trial.curve_axis(learner, 2) == ("adaptations", (0, 1))


def test_the_last_step_of_the_trial_is_marked_and_episodes_end_within_it():
    tasks = TabularMDPs(states=3, actions=2, episode=4)
    trial = Trial(tasks.environment, trial_length=8, terms=PPO)
    feedback = OutcomeFeedback(2)
    learner = Recurrent(GRU(3 + feedback.size, 4, key=K), ActorCritic(4, 2, key=K), feedback)
    t = trial.collect(learner, BLANK, tasks.batch(jax.random.split(K, 2)), keys=jax.random.split(K, 2))[0].transition
    assert t.last[:, -1].all() and t.last.sum() == 2
    assert (np.flatnonzero(t.truncated[0, :, 0]) == [3, 7]).all()
    # After the cut the agent is back in state 0, but what it saw before the reset is kept.
    assert (t.observation[:, 4, 0].argmax(-1) == 0).all()


def test_one_trial_spans_three_meta_steps():
    """trial_length 6, bptt_length 2: the learner's state and the clock go on, and the replay equals the rollout."""
    tasks, trial = bandit_trial(bptt_length=2)
    whole = bandit_trial()[1]
    learner, sampled = recurrent(), tasks.batch(jax.random.split(K, 4))
    memory = trial.init(learner, sampled, keys=per_task(sampled, K))
    seen, times = [], []
    for i in range(4):
        times.append(np.asarray(memory.per_task.time).tolist())
        other = tasks.batch(
            jax.random.split(jax.random.key(100 + i), 4)
        )  # must not replace a task whose trial is unfinished
        batch, memory = trial.collect(
            learner,
            memory,
            sampled if i == 0 else other,
            keys=per_task(sampled if i == 0 else other, jax.random.key(i)),
        )
        seen.append(batch)

        def again(collected):
            outputs = learner.replay(losses.start_of(learner, collected), collected.transition, key=collected.keys)
            return losses.log_probs(outputs, collected)

        np.testing.assert_allclose(jax.vmap(again)(batch), batch.log_prob, rtol=1e-4, atol=1e-5)
    assert times == [[0] * 4, [2] * 4, [4] * 4, [0] * 4]
    assert [bool(b.is_first.all()) for b in seen] == [True, False, False, True]
    assert [bool(b.transition.last.any()) for b in seen] == [False, False, True, False]
    # One trial in three parts: replaying it whole from its beginning gives what the parts gave.
    trajectory = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *[b.transition for b in seen[:3]])
    keys = jnp.concatenate([b.keys for b in seen[:3]], 1)
    said = jax.vmap(lambda t, k: learner.replay(learner.init(key=K), t, key=k))(trajectory, keys)
    collected = eqx.tree_at(
        lambda b: (b.transition, b.log_prob), seen[0], (trajectory, jnp.concatenate([b.log_prob for b in seen[:3]], 1))
    )
    np.testing.assert_allclose(jax.vmap(losses.log_probs)(said, collected), collected.log_prob, rtol=1e-4, atol=1e-5)
    assert whole.init(learner, sampled, keys=per_task(sampled, K)).per_task == ()


def test_unfinished_trials_wait_in_the_memory_and_a_run_goes_on_with_them(tmp_path):
    """Stopped after one meta-step, a third of every trial."""
    tasks, trial = bandit_trial(bptt_length=2)
    config = Training(3, 4, save_every=1)
    run = lambda **more: train(
        recurrent(), trial, Backprop(optax.adam(1e-2)), tasks, config=config, out=tmp_path, listener=quiet, **more
    )
    whole = run()
    assert run(resume=1).digests == whole.digests


def test_a_window_is_refused_where_the_start_is_learned():
    tasks, _ = navigation_trial()
    trial = lambda **more: Trial(
        tasks.environment, trial_length=20, bptt_length=10, segment_length=5, num_envs=4, baseline="linear", **more
    )
    learner, sampled = Gradient(policy(), PolicyGradient(), SGD(0.1)), tasks.batch(jax.random.split(K, 2))
    with pytest.raises(Incompatible, match="biased"):
        trial().init(learner, sampled, keys=per_task(sampled, K))
    assert trial(allow_cut_start=True).init(learner, sampled, keys=per_task(sampled, K)).per_task.time.shape == (2,)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(bptt_length=4),
        dict(segment_length=4),
        dict(burn_in=6),
        dict(curve_interval=4),
        dict(baseline="linear"),
        dict(per_episode=True, bptt_length=2),
    ],
)
def test_horizons_that_do_not_fit_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bandit_trial(**wrong)


def test_reptile_points_from_the_start_to_where_adaptation_ends():
    learner, tasks = gradient(SGD(0.02), steps=5), Sinusoids(5, 5).batch(jax.random.split(K, 3))
    objective = Reptile(FewShot())
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
    learned, rest = partition(learner)
    ours = jax.grad(lambda w: objective.loss(combine(w, rest), batch)[0].mean())(learned)
    state = learner.init(key=K)

    def ends(e):
        together = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), e.support, e.query)
        return learner.adapt(state, together, key=K).weights

    moved = jax.tree.map(lambda w, a: (w - a).mean(0), state.weights, jax.vmap(ends)(tasks))
    close(jax.tree.leaves(ours), jax.tree.leaves(moved), rtol=1e-4, atol=1e-6)


def test_reptile_in_a_trial_points_to_where_policy_gradients_lead():
    """Two segments, both of which are adapted on; the second was acted after adapting on the first."""
    tasks, trial = navigation_trial(terms=(), baseline="none", normalise=False)
    objective = Reptile(trial)
    learner = Gradient(policy(), PolicyGradient(), SGD(0.1))
    batch, _ = jax.jit(
        lambda: objective.collect(learner, BLANK, tasks.batch(jax.random.split(K, 3)), keys=jax.random.split(K, 3))
    )()
    learned, rest = partition(learner)
    ours = jax.jit(jax.grad(lambda w: objective.loss(combine(w, rest), batch)[0].mean()))(learned)

    @jax.jit
    def step(weights, segment):
        loss = lambda w: PolicyGradient()(combine(w, partition(learner.start)[1]), segment)
        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))

    def end(task):
        weights = learned.start
        for segment in range(2):
            weights = step(weights, jax.tree.map(lambda x: x[task, segment], batch.transition))
        return weights

    moved = jax.tree.map(lambda start, *ends: start - sum(ends) / 3, learned.start, *map(end, range(3)))
    close(ours.start, moved, rtol=1e-3, atol=1e-6)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(ours.start))
    np.testing.assert_allclose(objective.score(batch), trial.score(batch))


def test_reptile_refuses_a_part_of_a_trial():
    tasks, trial = navigation_trial(terms=(), bptt_length=5, burn_in=0, allow_cut_start=True)
    learner = Gradient(policy(), PolicyGradient(), SGD(0.1))
    with pytest.raises(Incompatible, match="part of a trial"):
        Reptile(trial).init(learner, tasks.batch(jax.random.split(K, 2)), keys=jax.random.split(K, 2))


def test_reptile_refuses_a_state_that_is_not_of_the_parameters():
    with pytest.raises(Incompatible, match="Reptile"):
        Reptile(FewShot()).init(recurrent(), Sinusoids().batch(jax.random.split(K, 2)), keys=jax.random.split(K, 2))


def test_online_predicts_before_it_sees_the_label():
    learner = Recurrent(GRU(2, 8, key=K), Prediction(8, 1, key=K), LabelFeedback(None, 1))
    stream = SinusoidStreams(6).batch(jax.random.split(K, 2))
    changed = eqx.tree_at(lambda s: s.y, stream, stream.y.at[:, 3].add(5.0))
    errors = lambda s: Online().collect(learner, BLANK, s, keys=per_task(s, K))[0].quality
    prediction = lambda s: jax.vmap(
        lambda l: (
            learner.replay(
                learner.init(key=K), jax.tree.map(lambda x: x[:, None], l), key=jax.random.split(K, 6)
            ).prediction
        )
    )(s)
    np.testing.assert_array_equal(prediction(stream)[:, :4], prediction(changed)[:, :4])
    assert not np.allclose(prediction(stream)[:, 4:], prediction(changed)[:, 4:])
    assert errors(stream).shape == (2, 6)


def test_online_refuses_a_learner_that_predicts_nothing():
    acts = Recurrent(GRU(2, 8, key=K), ActorCritic(8, 2, key=K), LabelFeedback(None, 1))
    with pytest.raises(Incompatible, match="Recurrent must return an Output with a prediction"):
        Online().collect(acts, BLANK, SinusoidStreams(6).batch(jax.random.split(K, 2)), keys=jax.random.split(K, 2))


def test_online_trains_on_streams():
    learner = Recurrent(GRU(2, 32, key=K), Prediction(32, 1, key=K), LabelFeedback(None, 1))
    result = train(
        learner, Online(), Backprop(optax.adam(1e-2)), SinusoidStreams(10), config=Training(600, 64), listener=quiet
    )
    points = [p["mean"] for p in result.evaluate(num_tasks=200).curve]
    assert points[-1] < 0.8 * points[0]


class HostObjective(Objective):
    """The seam to the host: collects in a plain Python loop, with numpy, and trains through the same `update`."""

    judge: Trial
    calls: list = eqx.field(static=True)

    on_device = False
    metric = "return"
    lower_is_better = False

    def curve_axis(self, learner, points):
        return self.judge.curve_axis(learner, points)

    def init(self, learner, tasks, *, keys) -> Any:
        return {"steps": np.zeros((), np.int32)}  # a cursor on the host, checkpointed like any memory

    def collect(self, learner, memory, tasks, *, keys):
        self.calls.append(int(memory["steps"]))
        trajectories = []
        for i, probabilities in enumerate(np.asarray(tasks)):
            rng = np.random.default_rng(int(memory["steps"]) * 1000 + i)
            state, items = learner.init(key=K), []
            for t in range(self.judge.trial_length):
                said = learner.apply(state, jnp.zeros(0))
                p = np.asarray(jax.nn.softmax(said.policy.logits), np.float64)
                action = int(rng.choice(3, p=p / p.sum()))
                reward = float(rng.random() < probabilities[action])
                item = Transition(
                    jnp.zeros(0), jnp.asarray(action), jnp.asarray(reward), *(jnp.zeros((), bool),) * 2,
                    jnp.asarray(t == self.judge.trial_length - 1), jnp.zeros(0),
                )  # fmt: skip
                items.append((item, said.policy.log_prob(item.action), said.value))
                state = learner.adapt(state, jax.tree.map(lambda x: x[None], item), key=K)
            trajectories.append(jax.tree.map(lambda *x: jnp.stack(x)[:, None], *items))
        transition, log_prob, value = jax.tree.map(lambda *x: jnp.stack(x), *trajectories)
        template, _ = self.judge.collect(learner, BLANK, tasks, keys=keys)
        target = jnp.flip(jnp.cumsum(jnp.flip(transition.reward, 1), 1), 1)
        batch = eqx.tree_at(
            lambda b: (b.transition, b.log_prob, b.advantage, b.value_target),
            template,
            (transition, log_prob, target - value, target),
        )
        return batch, {"steps": np.asarray(memory["steps"] + 1, np.int32)}

    def loss(self, learner, batch):
        return self.judge.loss(learner, batch)

    def score(self, batch):
        return self.judge.score(batch)

    def curve(self, batch):
        return self.judge.curve(batch)


def test_the_host_seam(tmp_path):
    tasks, trial = bandit_trial(trial_length=3)
    config = Training(4, 2, save_every=2, validate_every=-1)
    run = lambda out, **more: train(
        recurrent(), HostObjective(trial, []), Backprop(optax.adam(1e-2)), tasks,
        config=config, out=out, listener=quiet, **more,
    )  # fmt: skip
    whole = run(tmp_path / "whole")
    objective = HostObjective(trial, [])
    again = train(
        recurrent(), objective, Backprop(optax.adam(1e-2)), tasks,
        config=config, out=tmp_path / "whole", resume=2, listener=quiet,
    )  # fmt: skip
    assert objective.calls == [2, 3]  # the cursor came back with the checkpoint
    assert again.digests == whole.digests
