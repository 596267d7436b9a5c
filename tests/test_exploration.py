"""The best explorer of grids against brute force; bandits whose arms tell of each other, the two-step task and sparse
corners, each with its baselines."""

import itertools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import BLANK, per_task
from quickstudy.baselines import bandits
from quickstudy.baselines.goal_grids import BestExplorer, GoalSampling, best_path, towards
from quickstudy.baselines.structured_bandits import TargetSearch
from quickstudy.baselines.two_step import TwoStepFilter, TwoStepValues
from quickstudy.data.batches import Transition
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.run import evaluate
from quickstudy.learners.gradient.inner_losses import PolicyGradient
from quickstudy.nn.cells import scan_along
from quickstudy.nn.linear_recurrence import LinearRecurrence
from quickstudy.objectives.trial import Trial
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import Bounded
from quickstudy.recipes import recipe_of
from quickstudy.report import behaviour
from quickstudy.report.drawings import behaviour as pictures
from quickstudy.rl.exploration import explore, shortest
from quickstudy.tasks.corners import CORNERS, Corners, best_return
from quickstudy.tasks.mazes import MOVES, GoalGrids, Maze
from quickstudy.tasks.structured_bandits import InformativeBandits, OpposedBandits
from quickstudy.tasks.structured_bandits import best_return as best_of_informed
from quickstudy.tasks.two_step import COMMON, PAYS, SWITCHES, TwoStep
from registry import policy

K = jax.random.split(jax.random.key(5), 6)


def live(learner, tasks, drawn, trial_length, curve_interval=1):
    trial = Trial(
        tasks.environment, trial_length=trial_length, baseline="none", normalise=False, curve_interval=curve_interval
    )
    rollout = jax.jit(lambda drawn, key: trial.collect(learner, BLANK, drawn, keys=per_task(drawn, key))[0])(
        drawn, K[0]
    )
    return rollout, np.asarray(trial.curve(rollout))


def grid_moves(size):
    inside = lambda v: min(max(v, 0), size - 1)
    return np.array(
        [[inside(r + i) * size + inside(c + j) for i, j in MOVES] for r in range(size) for c in range(size)]
    )


def far(size):
    return [r * size + c for r in range(size) for c in range(size) if max(r, c) > 1]


def worth(path, goal, away, episode, episodes):
    """What a path earns where the goal is this one and is exploited once it is found: rolled out step by step."""
    earned, found = 0.0, False
    for k in range(episodes):
        walked = path[k * episode : (k + 1) * episode]
        if found:
            earned += -0.1 * (away - 1) + (episode + 1 - away)
            continue
        for step, cell in enumerate(walked):
            if cell == goal:
                earned, found = earned + episode - step, True
                break
            earned -= 0.1
    return earned


@pytest.mark.parametrize("then", [grid_moves(3), grid_moves(3)[:, :4]])
def test_the_best_explorer_is_that_of_brute_force(then):
    """All paths of two episodes of four steps over a 3×3 grid, with and without staying."""
    goals, episode, episodes = far(3), 4, 2
    away = shortest(then, 0)
    halves = []
    for actions in itertools.product(range(then.shape[1]), repeat=episode):
        cell, cells = 0, []
        for action in actions:
            cell = int(then[cell, action])
            cells.append(cell)
        halves.append(tuple(cells))
    halves = sorted(set(halves))
    best = max(
        sum(worth(one + other, g, away[g], episode, episodes) for g in goals)
        for one, other in itertools.product(halves, halves)
    )
    path, waste = explore(then, 0, goals, episode=episode, episodes=episodes)
    ours = sum(worth(tuple(path), g, away[g], episode, episodes) for g in goals)
    assert ours == pytest.approx(best)
    assert sum(episodes * 1.1 * (episode + 1 - away[g]) - 0.1 * episode * episodes for g in goals) - 1.1 * waste == (
        pytest.approx(best)
    )


def every_goal(tasks):
    like = jax.tree.map(lambda x: x[0], tasks.batch(jax.random.split(K[0], 1)))
    return jax.vmap(lambda goal: Maze(like.wall, like.start, goal, like.wind))(tasks.goals)


def test_baselines_of_the_grid_earn_what_is_computed():
    tasks = GoalGrids()
    path, expected = best_path(tasks, 4)
    assert len(path) == 60 and expected == pytest.approx(37.2142857)
    drawn = every_goal(tasks)
    rollout, curve = live(BestExplorer(5, path), tasks, drawn, 60, 15)
    assert curve.sum(1).mean() == pytest.approx(expected, abs=1e-4)
    away = np.asarray(tasks.goals) // 5 + np.asarray(tasks.goals) % 5
    np.testing.assert_allclose(curve[:, -1], 1.1 * (16 - away) - 1.5, rtol=1e-5)
    met = np.asarray(rollout.transition.reward[..., 0] > 0)
    assert met[:, :15].any(1).sum() == 14 and met[:, :30].any(1).all()  # a new goal at each step but the first

    many = jax.tree.map(lambda x: jnp.repeat(x, 20, 0), drawn)
    goals = tuple(np.asarray(tasks.goals).tolist())
    sampling = live(GoalSampling(5, goals, True), tasks, many, 60, 15)[1]
    assert 30 < sampling.sum(1).mean() < expected and (np.diff(sampling.mean(0)) > 0).all()


def test_walks_are_shortest_and_posterior_sampling_believes_what_it_saw():
    then = grid_moves(4)
    for start, goal in itertools.product(range(16), range(16)):
        action = int(towards(jnp.asarray(start), jnp.asarray(goal), 4))
        assert shortest(then, goal)[then[start, action]] == max(0, shortest(then, goal)[start] - 1)
    learner = GoalSampling(3, tuple(far(3)))
    state = learner.init(key=K[0])
    assert int(state.target) in far(3)
    cell = lambda c: jax.nn.one_hot(jnp.array([c]), 9)
    no, yes = jnp.zeros(1, bool), jnp.ones(1, bool)
    step = lambda c, reward, cut: Transition(cell(0), jnp.array([0]), jnp.array([reward]), no, cut, no, cell(c))
    for c in (2, 5, 6, 7):
        state = learner.adapt(state, step(c, -0.1, yes), key=K[c % 5])
    assert np.flatnonzero(state.possible).tolist() == [8] and state.target == 8
    met = learner.adapt(learner.init(key=K[1]), step(5, 1.0, no), key=K[2])
    assert np.flatnonzero(met.possible).tolist() == [5]
    assert met.target == learner.init(key=K[1]).target  # until the episode is over
    assert GoalSampling(3, tuple(far(3)), True).adapt(learner.init(key=K[1]), step(5, 1.0, no), key=K[2]).target == 5


def test_of_opposed_arms_the_greedy_choice_is_the_best():
    tasks = OpposedBandits()
    drawn = tasks.batch(jax.random.split(K[1], 5000))
    np.testing.assert_allclose(drawn.sum(1), 1.0, rtol=1e-6)
    assert set(np.unique(OpposedBandits(0.75).batch(jax.random.split(K[1], 50)).round(6))) == {
        np.float32(0.25),
        np.float32(0.75),
    }
    pulls = 10

    def best(won, lost, left):
        """Dynamic programming over both arms' choices: `won` and `lost` speak for and against the first arm."""
        if not left:
            return 0.0
        mean = (1 + won) / (2 + won + lost)
        on, off = best(won + 1, lost, left - 1), best(won, lost + 1, left - 1)
        # The first arm pays when it speaks for itself, the second when it speaks against the first.
        return max(mean * (1 + on) + (1 - mean) * off, mean * on + (1 - mean) * (1 + off))

    pooled, _ = live(bandits.anticorrelated(), tasks, drawn, pulls)
    earned = np.asarray(pooled.transition.reward.sum((1, 2)))
    assert earned.mean() == pytest.approx(best(0, 0, pulls), abs=4 * earned.std() / np.sqrt(len(earned)))
    regret = np.asarray(behaviour.regret(drawn, pooled)["regret"])
    chosen = np.take_along_axis(np.asarray(drawn), np.asarray(pooled.transition.action[..., 0]), 1)
    np.testing.assert_allclose(regret[:, -1], pulls * drawn.max(1) - chosen.sum(1), atol=1e-4)
    assert regret.shape == (5000, 10) and (np.diff(regret) >= -1e-6).all()


def test_the_informative_arm_is_worth_asking():
    tasks = InformativeBandits()
    drawn = tasks.batch(jax.random.split(K[2], 500))
    assert (drawn[:, :-1] == 5).sum(1).tolist() == [1] * 500 and (np.sort(drawn, 1)[:, 1:10] == np.float32(1.1)).all()
    np.testing.assert_allclose(drawn[:, -1], 0.1 * (1 + drawn[:, :-1].argmax(1)), rtol=1e-6)
    asked, curve = live(TargetSearch(), tasks, drawn, 5)
    np.testing.assert_allclose(curve.sum(1), best_of_informed(drawn, 5), rtol=1e-5)
    searched, curve = live(TargetSearch(asks=False), tasks, drawn, 5)
    by_number = {k: 5 * (5 - k) + 1.1 * k if k < 5 else 5.5 for k in range(10)}
    np.testing.assert_allclose(curve.sum(1), [by_number[int(k)] for k in drawn.argmax(1)], rtol=1e-5)
    kinds = behaviour.pulled(drawn, asked)
    assert kinds["informative arm"].mean(0).tolist() == [1, 0, 0, 0, 0]
    assert kinds["target"].mean(0).tolist() == [0, 1, 1, 1, 1]
    assert behaviour.pulled(drawn, searched)["another arm"].mean(0)[0] == pytest.approx(0.9, abs=0.05)


def two_step_life(actions, reached, rewards):
    shape = lambda x: jnp.asarray(x)[None, :, None]
    action, reward = shape(actions), shape(rewards).astype(float)
    seen, never = jax.nn.one_hot(shape(reached), 2), jnp.zeros(action.shape, bool)
    return Transition(jnp.zeros_like(seen), action, reward, never, never, never, seen)


def one_stretch(transition):
    return jax.tree.map(lambda x: x[0, :, 0], transition)


def test_the_two_step_task_does_what_it_says():
    tasks = TwoStep()
    drawn = jnp.zeros(400, int)
    t = live(TwoStepValues(0.0, 0.0, False), tasks, drawn, 50)[0].transition
    common = np.asarray(t.next_observation[:, :, 0].argmax(-1) == t.action[..., 0])
    assert common.mean() == pytest.approx(COMMON, abs=0.01)
    np.testing.assert_array_equal(t.observation[:, 1:], t.next_observation[:, :-1])
    # State 0 pays more in the beginning; a hidden flip k trials later has probability ½ (1 − (1 − 2·0.025)^k).
    first = np.asarray(t.next_observation[:, :, 0, 0] > 0)
    odds = 0.5 + 0.5 * (1 - 2 * SWITCHES) ** np.arange(50)
    expected = PAYS * odds + (1 - PAYS) * (1 - odds)
    paid = np.asarray(t.reward[..., 0])
    assert (paid * first).sum() / first.sum() == pytest.approx(
        (expected * first.mean(0)).sum() / first.mean(0).sum(), abs=0.015
    )
    assert paid[:, 0][first[:, 0]].mean() == pytest.approx(PAYS, abs=0.06)


def test_agents_of_the_two_step_task_by_hand():
    trajectory = one_stretch(two_step_life([0, 0, 1], [0, 1, 1], [1, 1, 0]))
    adapted = lambda learner: learner.adapt(learner.init(key=K[0]), trajectory, key=K[1])
    # choices: ½ → ¾ → 0.875;  ½ → ¼.  states: ½ → ¾;  ½ → ¾ → 0.375
    np.testing.assert_allclose(adapted(TwoStepValues(0.5, 2.0, False)), [0.875, 0.25])
    learner = TwoStepValues(0.5, 2.0, True)
    np.testing.assert_allclose(adapted(learner), [0.75, 0.375])
    logits = learner.apply(adapted(learner), jnp.zeros(2)).policy.logits
    np.testing.assert_allclose(logits, [2 * (0.8 * 0.75 + 0.2 * 0.375), 2 * (0.8 * 0.375 + 0.2 * 0.75)], rtol=1e-6)
    # The filter against every history of the hidden state, weighted by its probability.
    reached, rewards, weights = [0, 1, 1], [1, 1, 0], np.zeros(2)
    for hidden in itertools.product((0, 1), repeat=4):
        p = 0.5
        for i in range(3):
            pays = PAYS if reached[i] == hidden[i] else 1 - PAYS
            p *= (pays if rewards[i] else 1 - pays) * (SWITCHES if hidden[i + 1] != hidden[i] else 1 - SWITCHES)
        weights[hidden[3]] += p
    assert float(adapted(TwoStepFilter())) == pytest.approx(weights[0] / weights.sum(), rel=1e-5)


def test_stays_are_counted_by_transition_and_reward():
    rollout, _ = live(TwoStepFilter(), TwoStep(), jnp.zeros(1, int), 6)
    trajectory = two_step_life([0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1])
    measured = behaviour.stays(jnp.zeros(1, int), eqx.tree_at(lambda rollout: rollout.transition, rollout, trajectory))
    # common & paid: 1st stays;  common, did not: 3rd stays;  rare & paid: 2nd leaves, 4th stays;  rare, not: 5th leaves
    assert measured["stays"].tolist() == [[1.0, 1.0, 0.5, 0.0]]
    assert measured["reward effect"].tolist() == [0.25] and measured["model effect"].tolist() == [-0.25]


def test_behaviour_is_measured_of_all_agents_and_drawn():
    """Model-based and model-free agents differ where they should, in what evaluate says and in the picture."""
    tasks = TwoStep()
    trial = Trial(tasks.environment, trial_length=60, baseline="none", normalise=False, curve_interval=60)
    baselines = {"model-free": TwoStepValues(0.3, 20.0, False)}
    evaluation = EvaluationConfig(trial, num_tasks=150, baselines=baselines, behaviour=behaviour.stays, chunk=100)
    result = evaluate(TwoStepValues(0.6, 20.0, True), trial, tasks.split().test, evaluation=evaluation)
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    ours, theirs = summary["behaviour"], summary["baselines"]["model-free"]["behaviour"]
    assert ours["model effect"][0]["ci"][0] > 0.25 > 0.15 > theirs["model effect"][0]["ci"][1]
    assert theirs["reward effect"][0]["ci"][0] > 0.1 > ours["reward effect"][0]["ci"][1]
    assert summary["drawings"] == {"behaviour": "stays"}
    figure = pictures.behaviour("stays", {"ours": ours, "model-free": theirs})
    assert figure is not None and [ax.get_title() for ax in figure.axes] == ["ours", "model-free"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([point["mean"] for point in ours["stays"]])
    points = [{"mean": 1.0, "ci": [0.5, 1.5]}, {"mean": 2.0, "ci": [1.5, 2.5]}]
    assert len(pictures.behaviour("regret", {"a": {"regret": points}, "b": {"regret": points}}).axes) == 1
    kinds = dict.fromkeys(("informative arm", "target", "another arm"), points)
    assert len(pictures.behaviour("pulls", {"a": kinds, "b": kinds}).axes) == 2


def test_corners_pay_only_close_by_and_the_straight_walk_is_the_optimum():
    tasks = Corners(12)
    drawn = tasks.batch(jax.random.split(K[3], 64))
    assert {tuple(goal) for goal in drawn.tolist()} == set(CORNERS)
    environment, goal = tasks.environment, jnp.array(CORNERS[1])
    step = jax.jit(environment.step)
    _, state = environment.reset(K[4], goal)
    position, rewards = jnp.zeros(2), []
    for _ in range(12):
        _, state, reward, _, cut, info = step(K[4], state, 9 * (goal - position), goal)
        position = info["final_observation"]
        rewards.append(float(reward))
    assert bool(cut) and rewards[:3] == [0.0, 0.0, 0.0]  # (0.3, −0.3) is 0.283 away
    assert rewards[3] == pytest.approx(1 - np.sqrt(2) * 0.1 / 0.25, rel=1e-4)
    assert sum(rewards) == pytest.approx(float(best_return(goal[None], 12)[0]), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("grid-rl2", {"episodes": 0}),
        ("correlated-bandit-rl2", {"pulls": 15}),
        ("informative-bandit-rl2", {"pulls": 4}),
        ("two-step-rl2", {"choices": 3}),
        ("corners-maml", {"episode_length": 3}),
        ("corners-es-maml", {"population": 3}),
    ],
)
def test_recipes_say_what_is_wrong(name, wrong):
    assert not recipe_of(name).errors()
    assert next(iter(wrong)) in " ".join(recipe_of(name).changed(**wrong).errors())


def test_a_linear_recurrence_is_gone_through_in_parallel_and_does_not_explode():
    cell = LinearRecurrence(3, 6, key=K[0], layers=2, states=5)
    x = jax.random.normal(K[1], (40, 3))
    hidden = cell(cell.initial(), x[0])  # not from nothing
    along = eqx.filter_jit(lambda cell, hidden, x: cell.along(hidden, x))
    one_by_one = eqx.filter_jit(scan_along)(cell, hidden, x)
    np.testing.assert_allclose(along(cell, hidden, x), one_by_one, rtol=2e-4, atol=2e-5)
    # One layer by a plain loop of complex numbers.
    layer, z = cell.layers[0], np.zeros(5, complex)
    rate = np.exp(-np.exp(np.asarray(layer.decay)) + 1j * np.exp(np.asarray(layer.angle)))
    assert (np.abs(rate) > 0.5).all() and (np.abs(rate) < 0.999).all()
    for one in x:
        u = np.asarray(layer.norm(cell.enter(one)))
        into = np.asarray(layer.into[0] + 1j * layer.into[1])
        z = rate * z + np.sqrt(1 - np.abs(rate) ** 2) * (into @ u)
    state, step = cell.initial(), eqx.filter_jit(lambda cell, state, x: cell(state, x))
    for one in x:
        state = step(cell, state, one)
    np.testing.assert_allclose(state[0][0], [z.real, z.imag], rtol=1e-3, atol=1e-4)
    long = along(cell, cell.initial(), jnp.ones((2000, 3)))
    np.testing.assert_allclose(long[-1], long[-2], atol=1e-2)


def test_a_segment_in_which_nothing_was_earned_has_a_gradient():
    """As most have where rewards are sparse: through the learned discount and the normalised advantages."""
    t = Transition(
        jnp.ones((5, 2, 2)), jnp.ones((5, 2, 2)), jnp.zeros((5, 2)), *[jnp.zeros((5, 2), bool)] * 3, jnp.ones((5, 2, 2))
    )
    said = over_axes(policy(), 2)(t.observation)
    loss = lambda inner: inner.of_outputs(said, t)
    for leaf in jax.tree.leaves(jax.grad(loss)(PolicyGradient(Bounded(0.9), Bounded(0.9)))):
        assert leaf == 0
