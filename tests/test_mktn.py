"""MKTN's parts against plain loops, normal equations and Q-learning in a table; and what its recipes refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import BLANK, per_task
from quickstudy.config import ConfigError
from quickstudy.data.batches import Output, Transition
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.learners.generated.mktn import MKTN, Control, Proximal, Regression, Ridge
from quickstudy.learners.inner_rl.q_learning import QLearning
from quickstudy.meta_optimizers.backprop import mean_gradient
from quickstudy.nn.models import MLP
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import meta_parameters
from quickstudy.recipes import configure
from quickstudy.report import traces
from quickstudy.report.drawings import tasks as task_pictures
from quickstudy.rl import losses
from quickstudy.tasks.mazes import GoalGrids, Maze, Mazes, expected_steps, shortest
from quickstudy.tasks.sinusoid import Sinusoids
from registry import K, labelled

STATES, ACTIONS, SIZE, DISCOUNT = 3, 2, 4, 0.9
NOTHING = jax.random.key(0)


def walk(num, seed=0):
    """A random trial of episodes that end either way, one transition a segment."""
    rng, rows, s = np.random.default_rng(seed), [], 0
    for _ in range(num):
        then, how = int(rng.integers(STATES)), rng.random()
        rows.append((s, int(rng.integers(ACTIONS)), float(rng.normal()), then, how < 0.15, 0.15 <= how < 0.3))
        s = 0 if how < 0.3 else then
    s, a, r, then, terminated, truncated = (jnp.array(column)[:, None] for column in zip(*rows, strict=True))
    one_hot = lambda index: jax.nn.one_hot(index, STATES)
    return Transition(one_hot(s), a, r, terminated, truncated, jnp.zeros((num, 1), bool), one_hot(then))


def regressor(rule, **choices):
    return MKTN(MLP((1, 8, 1 + SIZE), key=K, activation=jnp.tanh), rule, Regression(), SIZE, **choices)


def controller(rule, **choices):
    net = MLP((STATES, 8, ACTIONS * (1 + SIZE)), key=K, activation=jnp.tanh)
    return MKTN(net, rule, Control(DISCOUNT), SIZE, **choices)


def said(learner, experience):
    """Predictions along a trial, each made before the segment it belongs to is absorbed."""
    keys = jax.random.split(K, len(jax.tree.leaves(experience)[0]))
    return eqx.filter_jit(lambda l, e: l.replay(l.init(key=NOTHING), e, key=keys).prediction)(learner, experience)


def tables(learner):
    """K [states, actions] and f [states, actions, size] in numpy."""
    known = jax.vmap(learner.known)(jnp.eye(STATES))
    return np.asarray(known.knowledge, float), np.asarray(known.features, float)


def steps(trajectory):
    t = jax.tree.map(lambda x: np.asarray(x)[:, 0], trajectory)
    columns = t.observation.argmax(-1), t.action, t.reward, t.next_observation.argmax(-1), t.terminated
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("rule", [Proximal(0.3, 1e9), Ridge(1e9)])
@pytest.mark.parametrize(("make", "trajectory"), [(regressor, labelled(3)), (controller, walk(12))])
def test_under_strong_guidance_the_knowledge_stands_to_machine_precision(rule, make, trajectory):
    knowledge = said(make(rule, steps=0), trajectory)
    np.testing.assert_allclose(said(make(rule), trajectory), knowledge, rtol=1e-6, atol=1e-7)
    assert (
        np.abs(said(make(type(rule)(*[0.3] * len(jax.tree.leaves(rule)))), trajectory)[1:] - knowledge[1:]).max() > 1e-2
    )


def test_without_knowledge_and_guidance_it_is_linear_td_from_scratch():
    rate, trajectory = 0.3, walk(30)
    learner = controller(Proximal(rate, 0.0), knowledge=False)
    k, f = tables(learner)
    assert (k == 0).all()
    w, expected = np.zeros(SIZE), []
    for s, a, r, then, terminated in steps(trajectory):
        expected.append(f[s] @ w)
        following = 0.0 if terminated else (f[then] @ w).max()
        w = w + rate * (r + DISCOUNT * following - f[s, a] @ w) * f[s, a]
    np.testing.assert_allclose(said(learner, trajectory)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_with_raw_features_that_is_q_learning_in_a_table():
    pairs = STATES * ACTIONS
    features = lambda s: jnp.einsum("ab,s->abs", jnp.eye(ACTIONS), s).reshape(ACTIONS, pairs)
    net = lambda s: jnp.concatenate([jnp.zeros((ACTIONS, 1)), features(s)], 1).reshape(-1)
    learner = MKTN(net, Proximal(0.8, 0.0), Control(DISCOUNT), pairs)  # ‖f‖² = ½, so half of the rate is left
    table, trajectory = QLearning(STATES, ACTIONS, rate=0.4, discount=DISCOUNT), walk(30)
    state, ours = table.init(key=NOTHING), said(learner, trajectory)
    for i in range(30):
        segment = jax.tree.map(lambda x: x[i], trajectory)
        np.testing.assert_allclose(ours[i, 0], state.q[segment.observation[0].argmax()], rtol=1e-5, atol=1e-6)
        state = table.adapt(state, segment, key=NOTHING)


def test_the_ridge_of_regression_is_the_normal_equations():
    learner, trajectory = regressor(Ridge(0.2)), labelled(3)
    for seen in (1, 2):
        x, y = (np.asarray(v[:seen].reshape(-1, 1), float) for v in (trajectory.x, trajectory.y))
        known = jax.vmap(learner.known)(jnp.asarray(x, jnp.float32))
        k, f = np.asarray(known.knowledge, float), np.asarray(known.features[:, 0], float)
        w = np.linalg.solve(0.2 * np.eye(SIZE) + f.T @ f, f.T @ (y - k)[:, 0])
        then = jax.vmap(learner.known)(trajectory.x[seen])
        np.testing.assert_allclose(
            said(learner, trajectory)[seen], then.knowledge + then.features @ w, rtol=1e-3, atol=1e-4
        )


def test_the_ridge_of_control_is_least_squares_temporal_differences():
    learner, trajectory, guidance = controller(Ridge(2.0)), walk(20), 2.0
    k, f = tables(learner)
    a_matrix, b, expected = guidance * np.eye(SIZE), np.zeros(SIZE), []
    for s, a, r, then, terminated in steps(trajectory):
        q = k + f @ np.linalg.solve(a_matrix, b)
        expected.append(q[s])
        best = q[then].argmax()
        going_on = DISCOUNT * (not terminated)
        a_matrix += np.outer(f[s, a], f[s, a] - going_on * f[then, best])
        b += f[s, a] * (r + going_on * k[then, best] - k[s, a])
    np.testing.assert_allclose(said(learner, trajectory)[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_proximal_steps_are_the_loop_and_end_at_the_ridge():
    rate, guidance = 0.3, 0.1
    trajectory = labelled(2)
    learner = regressor(Proximal(rate, guidance), steps=7)
    known = jax.vmap(learner.known)(trajectory.x[0])
    f, target, w = np.asarray(known.features[:, 0]), np.asarray(trajectory.y[0] - known.knowledge)[:, 0], np.zeros(SIZE)
    for _ in range(7):
        w = (w + rate * f.T @ (target - f @ w) / len(f)) / (1 + rate * guidance)
    state = learner.adapt(learner.init(key=NOTHING), jax.tree.map(lambda x: x[0], trajectory), key=NOTHING)
    np.testing.assert_allclose(state.weights, w, rtol=1e-4, atol=1e-5)
    # At rest φ = (φ − αg)/(1 + αλ), so g + λφ = 0: the ridge of λ times as many examples.
    rests = said(regressor(Proximal(rate, guidance), steps=20_000), trajectory)
    np.testing.assert_allclose(rests, said(regressor(Ridge(guidance * 4)), trajectory), rtol=1e-3, atol=1e-4)


def test_more_steps_of_the_ridge_change_nothing():
    trajectory = labelled(2)
    np.testing.assert_array_equal(
        said(regressor(Ridge(0.2)), trajectory), said(regressor(Ridge(0.2), steps=5), trajectory)
    )


def test_the_meta_gradient_is_that_of_the_closed_form():
    learner = regressor(Ridge(0.2))
    tasks = jax.jit(lambda key: Sinusoids(5, 7).batch(jax.random.split(key, 4)))(K)

    def by_hand(net):
        def one(e):
            s, q = jax.vmap(net)(e.support.x), jax.vmap(net)(e.query.x)
            s, q = (x.at[:, 1:].divide(jnp.sqrt(1 + (x[:, 1:] ** 2).sum(1, keepdims=True))) for x in (s, q))
            w = jnp.linalg.solve(
                0.2 * jnp.eye(SIZE) + s[:, 1:].T @ s[:, 1:], s[:, 1:].T @ (e.support.y[:, 0] - s[:, 0])
            )
            return ((q[:, 0] + q[:, 1:] @ w - e.query.y[:, 0]) ** 2).mean()

        return jax.vmap(one)(tasks).mean()

    @eqx.filter_jit
    def gradient(learner):
        batch, _ = FewShot().collect(learner, BLANK, tasks, keys=per_task(tasks, K))
        return mean_gradient(FewShot(), learner, batch)[2].net.layers

    ours, theirs = gradient(learner), eqx.filter_jit(eqx.filter_grad(by_hand))(learner.net).layers
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)


def test_choice_is_softmax_mixed_with_chance_and_values_are_the_best():
    q = jnp.array([1.0, 2.0, 0.0])
    out: Output = Control(temperature=0.5, epsilon=0.3).output(q)
    expected = 0.7 * np.exp([2, 4, 0]) / np.exp([2, 4, 0]).sum() + 0.1
    np.testing.assert_allclose(jnp.exp(out.policy.logits), expected, rtol=1e-5)
    assert out.value == 2


EPISODE, HORIZON, BURN_IN = 4, 8, 2


@pytest.fixture(scope="module")
def trial():
    """An agent, a trial, a task, its rollout, and the outer loss."""
    tasks = GoalGrids(size=3, episode=EPISODE)
    learner = MKTN(MLP((9, 4, 5 * (1 + SIZE)), key=K), Proximal(0.3, 0.1), Control(DISCOUNT), SIZE)
    objective = Trial(
        tasks.environment,
        trial_length=HORIZON,
        terms=((1.0, losses.q_value),),
        discount=DISCOUNT,
        gae_lambda=1.0,
        across_episodes=False,
        normalise=False,
        burn_in=BURN_IN,
    )

    @jax.jit
    def live(key):
        task = tasks.batch(jax.random.split(key, 1))
        rollout, _ = objective.collect(learner, BLANK, task, keys=per_task(task, key))
        return task, rollout, objective.loss(learner, rollout)[0]

    return learner, objective, *jax.tree.map(lambda x: x[0], live(K))


def test_the_outer_loss_regresses_the_taken_actions_value_on_what_came_later(trial):
    learner, _, _, rollout, loss = trial
    t = rollout.transition
    q = said(learner, t)[jnp.arange(HORIZON), 0, t.action[:, 0]]
    # The first episode was cut, and worth beyond that what is said when the cut is known; the second one ended with the
    # trial.
    until = jax.tree.map(lambda x: x[: EPISODE + 1], t)
    until = eqx.tree_at(lambda t: t.observation, until, until.observation.at[-1].set(t.next_observation[EPISODE - 1]))
    beyond = float(said(learner, until)[-1, 0].max())
    target, following = np.zeros(HORIZON), 0.0
    for i in reversed(range(HORIZON)):
        following = beyond if i == EPISODE - 1 else following
        target[i] = following = float(t.reward[i, 0]) + DISCOUNT * following
    np.testing.assert_allclose(loss, 0.5 * ((q - target)[BURN_IN:] ** 2).mean(), rtol=1e-4, atol=1e-6)


def test_what_is_drawn_adds_up_to_q(trial):
    learner, objective, task, rollout, _ = trial
    drawn = traces.transfer(learner, EvaluationConfig(objective), task, rollout)
    q = said(learner, rollout.transition)[jnp.arange(HORIZON), 0, rollout.transition.action[:, 0]]
    np.testing.assert_allclose(drawn["knowledge"] + drawn["inner"], q, rtol=1e-5, atol=1e-6)
    assert drawn["inner"][0] == 0 and np.abs(drawn["inner"][1:]).min() > 0
    five = {name: np.stack([part] * 5) for name, part in drawn.items()}
    figure = task_pictures.tasks(traces.transfer.kind, {**five, "task": np.arange(5), "value": np.ones(5)}, "return")
    lines = figure.axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), drawn["knowledge"], rtol=1e-6)
    np.testing.assert_allclose(lines[1].get_ydata(), drawn["inner"], rtol=1e-6)


def test_steps_to_the_goal_without_wind_are_the_shortest_and_in_a_corridor_a_geometric_series():
    drawn = jax.jit(lambda key: Mazes(5, 0.25, layout=3).batch(jax.random.split(key, 4)))(K)
    np.testing.assert_allclose(jax.jit(expected_steps)(drawn), jax.jit(shortest)(drawn), rtol=1e-3)
    wall = jnp.zeros((2, 2), bool).at[1].set(True)
    corridor = Maze(wall, jnp.zeros((), int), jnp.ones((), int), jnp.array([0.0, 0.0, 0.4, 0.0]))
    steps = jax.jit(expected_steps)(jax.tree.map(lambda x: x[None], corridor))
    np.testing.assert_allclose(steps, 1 / 0.6, rtol=1e-2)


def test_recipes_say_what_is_wrong_with_them():
    for name, values, match in (
        (
            "sinusoid-mktn",
            {"added_size": 0, "inner_rate": 0.0},
            "(?s)added_size must be at least 1.*, got 0\ninner_rate must be above 0",
        ),
        (
            "maze-mktn",
            {"guidance": -1.0, "discount": 1.0},
            "(?s)guidance must be at least 0.*, got -1.0\ndiscount must",
        ),
        ("maze-rl2", {"trial_length": 15}, "trial_length must be a multiple of 10"),
    ):
        with pytest.raises(ConfigError, match=match):
            configure(name, values)


def test_settings_are_the_ablations():
    build = lambda **values: configure("sinusoid-mktn", values).build().learner
    learned = lambda learner: set(meta_parameters(learner))
    assert learned(build(part="inner")) == {"rule.guidance.log"} and not build(part="inner").knowledge
    assert build(part="knowledge").steps == 0
    assert "rule.guidance.log" not in learned(build(guidance=0.0))
    assert learned(build(guidance=0.0, rule="proximal")) >= {"rule.rate.log"}
    assert build(guidance=0.0, rule="proximal").rule.guidance == 0
