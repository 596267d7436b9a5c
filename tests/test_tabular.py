"""Tabular learners against sequences worked out in plain loops, and what R-MAX promises; mazes against a search."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import BLANK, per_task
from quickstudy.core import Incompatible
from quickstudy.data.batches import Transition
from quickstudy.learners.inner_rl.dyna_q import DynaQ
from quickstudy.learners.inner_rl.q_learning import SARSA, QLearning
from quickstudy.learners.inner_rl.r_max import RMax
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import Bounded
from quickstudy.tasks.mazes import MOVES, GoalGrids, Mazes, distances, moved, shortest

K = jax.random.split(jax.random.key(11), 4)
STATES, ACTIONS = 3, 2


def stream(rows):
    """(state, action, reward, next state, terminated, truncated) as one segment."""
    s, a, r, then, terminated, truncated = (jnp.array(column) for column in zip(*rows, strict=True))
    one_hot = lambda index: jax.nn.one_hot(index, STATES)
    return Transition(one_hot(s), a, r, terminated, truncated, jnp.zeros(len(s), bool), one_hot(then))


def walk(num, seed=0):
    """A random trial in episodes that end either way."""
    rng, rows, s = np.random.default_rng(seed), [], 0
    for _ in range(num):
        then, how = int(rng.integers(STATES)), rng.random()
        rows.append((s, int(rng.integers(ACTIONS)), float(rng.normal()), then, how < 0.15, 0.15 <= how < 0.3))
        s = 0 if how < 0.3 else then
    return rows


def test_q_learning_by_hand():
    learner = QLearning(STATES, ACTIONS, rate=0.5, discount=0.9, initial=1.0)
    rows = [(0, 1, 2.0, 1, False, False), (1, 0, 0.0, 2, True, False), (0, 1, 0.0, 2, False, True)]
    q = learner.adapt(learner.init(key=K[0]), stream(rows), key=K[1]).q
    # 1 + ½(2 + 0.9·1 − 1) = 1.95;  1 + ½(0 + 0 − 1) = 0.5;  1.95 + ½(0 + 0.9·1 − 1.95) = 1.425
    np.testing.assert_allclose(q, [[1, 1.425], [0.5, 1], [1, 1]], rtol=1e-6)


def test_tables_are_of_one_stream():
    together = jax.tree.map(lambda x: jnp.stack([x, x], 1), stream(walk(4)))
    for learner in (QLearning(STATES, ACTIONS), SARSA(STATES, ACTIONS), RMax(STATES, ACTIONS)):
        with pytest.raises(Incompatible, match="num_envs=None"):
            learner.adapt(learner.init(key=K[0]), together, key=K[1])


def test_sarsa_with_traces_is_the_plain_loop():
    rate, discount, epsilon, decay = 0.3, 0.9, 0.2, 0.7
    learner = SARSA(STATES, ACTIONS, rate=rate, discount=discount, epsilon=epsilon, decay=decay)
    rows = walk(60)
    q, e = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    for i, (s, a, r, then, terminated, truncated) in enumerate(rows):
        if terminated:
            following = 0.0
        elif truncated:
            best = q[then] == q[then].max()
            following = ((1 - epsilon) * best / best.sum() + epsilon / ACTIONS) @ q[then]
        elif i + 1 < len(rows):
            following = q[then, rows[i + 1][1]]
        else:
            break  # its next action was not chosen yet
        error = r + discount * following - q[s, a]
        e[s, a] = 1
        q, e = q + rate * error * e, discount * decay * e * (not (terminated or truncated))
    ours = learner.adapt(learner.init(key=K[0]), stream(rows), key=K[1])
    np.testing.assert_allclose(ours.q, q, rtol=1e-4, atol=1e-5)


def test_dyna_q_without_planning_is_q_learning_and_with_it_the_model_is_gone_through():
    rows = stream(walk(40))
    plain, dyna = QLearning(STATES, ACTIONS, rate=0.2), DynaQ(STATES, ACTIONS, rate=0.2, planning=0)
    rollout = lambda learner, rows: learner.adapt(learner.init(key=K[0]), rows, key=K[1])
    np.testing.assert_array_equal(rollout(dyna, rows).q, rollout(plain, rows).q)
    # One pair is known, so planning n times is to live it n times more.
    once = (0, 1, 1.0, 2, True, False)
    planned = rollout(DynaQ(STATES, ACTIONS, rate=0.2, planning=5), stream([once]))
    np.testing.assert_allclose(planned.q, rollout(plain, stream([once] * 6)).q, rtol=1e-6)
    state = rollout(dyna, rows)
    last = {(s, a): (r, then, terminated) for s, a, r, then, terminated, _ in walk(40)}
    order = list(dict.fromkeys((s, a) for s, a, *_ in walk(40)))
    assert state.tried[: int(state.known)].tolist() == [s * ACTIONS + a for s, a in order]
    for (s, a), (r, then, terminated) in last.items():
        pair = s * ACTIONS + a
        assert (state.then[pair], state.terminated[pair]) == (then, terminated)
        np.testing.assert_allclose(state.reward[pair], r, rtol=1e-6)


def test_rates_may_be_leaves_and_a_learner_alone_has_none():
    rows = stream(walk(30))
    given, leaf = QLearning(STATES, ACTIONS, rate=0.2), QLearning(STATES, ACTIONS, rate=Bounded(0.2))
    rollout = lambda learner: learner.adapt(learner.init(key=K[0]), rows, key=K[1]).q
    np.testing.assert_allclose(rollout(leaf), rollout(given), rtol=1e-5)


def test_choice_is_greedy_but_for_epsilon_and_fair_among_the_best():
    learner = QLearning(1, 4, epsilon=0.2)
    state = learner.init(key=K[0])
    x = jnp.ones(1)
    np.testing.assert_allclose(jax.nn.softmax(learner.apply(state, x).policy.logits), 0.25, rtol=1e-6)
    state = type(state)(jnp.array([[1.0, 2.0, 2.0, 0.0]]))
    np.testing.assert_allclose(
        jax.nn.softmax(learner.apply(state, x).policy.logits), [0.05, 0.45, 0.45, 0.05], rtol=1e-5
    )


def trajectory(learner, tasks, task, steps):
    """Transitions of one task."""
    trial = Trial(tasks.environment, trial_length=steps, baseline="none", normalise=False)
    return jax.jit(lambda task, key: trial.collect(learner, BLANK, task, keys=per_task(task, key))[0])(
        task, K[2]
    ).transition


def test_r_max_meets_few_unknown_pairs_and_then_earns_the_optimum():
    tasks = Mazes(size=3, walls=0.0, episode=50)
    task = tasks.batch(jax.random.split(K[0], 2))
    m, states, actions = 2, 9, 4
    learner = RMax(states, actions, visits=m, discount=0.9, most=1.0)
    t = trajectory(learner, tasks, task, 300)
    for i in range(2):
        pairs = np.asarray(t.observation[i].argmax(-1) * actions + t.action[i]).ravel()
        seen, unknown, last = np.zeros(states * actions), 0, 0
        for step, pair in enumerate(pairs):
            if seen[pair] < m:
                unknown, last = unknown + 1, step
            seen[pair] += 1
        assert unknown <= m * states * actions
        # From then on every episode takes the shortest way.
        ends = np.flatnonzero(np.asarray(t.terminated[i]).ravel())
        after = ends[ends > last]
        assert len(after) > 5
        assert set(np.diff(after).tolist()) == {int(shortest(task)[i])}


def test_distances_are_those_of_a_search_and_goals_can_be_reached():
    tasks = Mazes(size=7, walls=0.3).batch(jax.random.split(K[1], 20))
    for i in range(20):
        wall, found, queue = np.asarray(tasks.wall[i]), {(0, 0): 0}, deque([(0, 0)])
        while queue:
            here = queue.popleft()
            for down, right in MOVES[:4]:
                cell = here[0] + down, here[1] + right
                if all(0 <= x < 7 for x in cell) and not wall[cell] and cell not in found:
                    found[cell] = found[here] + 1
                    queue.append(cell)
        expected = [[found.get((r, c), np.inf) for c in range(7)] for r in range(7)]
        np.testing.assert_array_equal(distances(tasks.wall[i], jnp.zeros((), int)), expected)
        goal = divmod(int(tasks.goal[i]), 7)
        assert goal in found and found[goal] >= max(found.values()) / 2 and not wall[0, 0]
        assert 2 * len(found) >= (~wall).sum()
    assert len({tuple(np.asarray(w).ravel()) for w in tasks.wall}) > 15
    shared = Mazes(size=7, walls=0.3, layout=5).batch(jax.random.split(K[1], 10))
    assert (shared.wall == shared.wall[0]).all() and len(set(shared.goal.tolist())) > 3
    small = Mazes(size=3, walls=0.8).batch(jax.random.split(K[1], 50))  # most draws leave the start alone
    assert (small.goal != small.start).all()
    with pytest.raises(ValueError, match=r"got 3 and 1\.0"):
        Mazes(size=3, walls=1.0)


def test_walls_and_edges_stop_a_step_and_wind_carries_it_away():
    wall = jnp.zeros((3, 3), bool).at[0, 1].set(True)
    after = lambda cell, move: int(moved(wall, jnp.asarray(cell), jnp.asarray(move)))
    assert [after(4, m) for m in range(5)] == [4, 7, 3, 5, 4]  # up is the wall
    assert [after(0, m) for m in range(5)] == [0, 3, 0, 0, 0]
    tasks = Mazes(size=3, walls=0.0, wind=0.5)
    task = jax.tree.map(lambda x: x[0], tasks.batch(jax.random.split(K[0], 1)))
    task = type(task)(jnp.zeros((3, 3), bool), jnp.asarray(4), jnp.asarray(8), jnp.array([0.0, 0.0, 0.3, 0.0]))
    environment = tasks.environment

    def one(key):
        _, state = environment.reset(key, task)
        return environment.step(key, state, jnp.asarray(3), task)[5]["final_observation"].argmax()

    to = np.asarray(jax.vmap(one)(jax.random.split(K[3], 4000)))
    np.testing.assert_allclose([(to == 5).mean(), (to == 3).mean()], [0.7, 0.3], atol=0.03)


def test_the_open_grid_is_the_published_one():
    tasks = GoalGrids()
    assert len(tasks.goals) == 21 and not {0, 1, 5, 6} & set(tasks.goals.tolist())
    task = tasks.batch(jax.random.split(K[0], 1))
    stay = lambda goal: type(task)(task.wall[0], task.start[0], jnp.asarray(goal), task.wind[0])
    environment = tasks.environment
    _, state = environment.reset(K[0], stay(12))
    total = 0.0
    for move in [1, 1, 3, 3] + [4] * 11:  # two down, two right, and stay at the goal
        _, state, reward, terminated, truncated, _ = environment.step(K[0], state, jnp.asarray(move), stay(12))
        total += float(reward)
        assert not terminated
    np.testing.assert_allclose(total, -0.3 + 12, rtol=1e-5)
    assert truncated


@pytest.mark.parametrize("make", [QLearning, SARSA, DynaQ, lambda s, a: RMax(s, a, visits=2)])
def test_side_by_side_is_one_by_one(make):
    """Under `vmap`, where plans are made together, each task has what it has alone."""
    learner = make(STATES, ACTIONS)
    trajectories = [stream(walk(30, seed)) for seed in range(3)]
    together = jax.tree.map(lambda *xs: jnp.stack(xs), *trajectories)
    adapt = lambda rows: learner.adapt(learner.init(key=K[0]), rows, key=K[1]).q
    for i, rows in enumerate(trajectories):
        np.testing.assert_allclose(jax.vmap(adapt)(together)[i], adapt(rows), rtol=1e-4, atol=1e-5)
