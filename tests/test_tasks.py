"""Task distributions: their numbers, their splits, and environments against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.core import HeldOut, TaskDistribution
from quickstudy.evaluate.run import evaluate
from quickstudy.objectives.few_shot import FewShot
from quickstudy.tasks import navigation
from quickstudy.tasks.bandits import Bandits, optimal_return
from quickstudy.tasks.mdps import TabularMDPs
from quickstudy.tasks.navigation import Navigation
from quickstudy.tasks.sinusoid import Sinusoids, SinusoidStreams
from registry import K, gradient

FAMILIES = [Sinusoids(3, 4), SinusoidStreams(5), Bandits(4), TabularMDPs(3, 2, 4), Navigation(5)]
families = pytest.mark.parametrize("tasks", FAMILIES, ids=lambda t: type(t).__name__)


@families
def test_held_out_tasks_are_others_and_always_the_same(tasks):
    splits = tasks.split()
    assert isinstance(splits.train, TaskDistribution)
    assert isinstance(splits.test, HeldOut) and not isinstance(splits.test, TaskDistribution)
    few, many = splits.test.tasks(3), splits.test.tasks(7)
    for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(a, b[:3])
    other = [splits.validation.tasks(7), splits.train.batch(jax.random.split(jax.random.key(0), 7))]
    for tasks_of_other in other:
        assert not np.allclose(jax.tree.leaves(tasks_of_other)[0], jax.tree.leaves(many)[0])


@families
def test_tasks_have_a_leading_axis_and_differ(tasks):
    drawn = tasks.batch(jax.random.split(K, 6))
    assert all(leaf.shape[0] == 6 for leaf in jax.tree.leaves(drawn))
    first = jax.tree.leaves(drawn)[0]
    assert not np.allclose(first[0], first[1])


def test_evaluate_refuses_training_tasks():
    with pytest.raises(TypeError):
        evaluate(gradient(), FewShot(), Sinusoids())  # type: ignore[arg-type]


def test_sinusoids_are_what_they_say():
    e = Sinusoids(50, 50).batch(jax.random.split(K, 200))
    assert (jnp.abs(e.support.x) <= 5).all() and (jnp.abs(e.support.y) <= 5).all()
    # y = a sin x + b cos x with two unknowns: a least-squares fit leaves nothing
    for i in range(5):
        x, y = np.asarray(e.support.x[i, :, 0]), np.asarray(e.support.y[i, :, 0])
        basis = np.stack([np.sin(x), np.cos(x)], 1)
        (a, b), *_ = np.linalg.lstsq(basis, y, rcond=None)
        np.testing.assert_allclose(basis @ [a, b], y, atol=1e-4)
        assert 0.1 <= np.hypot(a, b) <= 5.0 and b <= 1e-5  # φ in [0, π]: −A sin φ is never positive


def walk(goal, policy, steps=100):
    environment, key = Navigation().environment, K
    observation, state = environment.reset(key, goal)
    total = 0.0
    for _ in range(steps):
        observation, state, reward, terminated, truncated, info = environment.step(
            key, state, policy(observation), goal
        )
        total += float(reward)
    return total, terminated, truncated, info, observation


def test_navigation_is_worth_what_the_paper_says():
    goals = Navigation().split().test.tasks(20_000)
    standing = -100 * jnp.sqrt((goals**2).sum(-1)).mean()
    np.testing.assert_allclose(standing, -38.26, atol=0.3)  # 100 E‖g‖, 0.3826 for a unit square about its centre
    np.testing.assert_allclose(navigation.optimal_return(goals).mean(), -0.50, atol=0.02)


def test_navigation_steps_are_clipped_and_the_episode_is_cut_not_ended():
    goal = jnp.array([0.35, -0.2])
    best, terminated, truncated, info, seen = walk(goal, lambda o: goal - o)
    np.testing.assert_allclose(best, navigation.optimal_return(goal[None])[0], atol=1e-3)
    assert truncated and not terminated
    np.testing.assert_allclose(info["final_observation"], goal, atol=1e-6)
    np.testing.assert_allclose(seen, [0, 0])  # what is seen after the cut is the next start


def test_bandits_pay_as_often_as_they_should():
    environment, p = Bandits(3).environment, jnp.array([0.1, 0.5, 0.9])
    pay = jax.vmap(lambda k: environment.step(k, (), jnp.asarray(2), p)[2])(jax.random.split(K, 4000))
    np.testing.assert_allclose(pay.mean(), 0.9, atol=0.02)


def test_the_bayes_optimal_return_of_small_bandits():
    # one pull: the prior mean; two pulls of two arms: ½ + ½·⅔ + ½·½ (switch after a loss)
    assert optimal_return(2, 1) == pytest.approx(0.5)
    assert optimal_return(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)
    assert optimal_return(5, 10) == pytest.approx(6.660, abs=5e-4)


def test_mdps_follow_their_tables():
    tasks = TabularMDPs(4, 3, 5)
    mdp = jax.tree.map(lambda x: x[0], tasks.batch(jax.random.split(K, 1)))
    np.testing.assert_allclose(mdp.transition.sum(-1), 1, rtol=1e-5)
    environment = tasks.environment
    _, state = environment.reset(K, mdp)
    step = jax.jit(jax.vmap(lambda k: environment.step(k, state, jnp.asarray(1), mdp)))
    seen, _, reward, terminated, truncated, _ = step(jax.random.split(K, 20_000))
    np.testing.assert_allclose(seen.mean(0), mdp.transition[0, 1], atol=0.02)
    np.testing.assert_allclose(reward.mean(), mdp.reward[0, 1], atol=0.03)
    np.testing.assert_allclose(reward.std(), 1, atol=0.03)
    assert not terminated.any() and not truncated.any()
    means = TabularMDPs().batch(jax.random.split(K, 300)).reward
    np.testing.assert_allclose([means.mean(), means.std()], [1, 1], atol=0.03)


def test_any_gymnax_environment_is_a_family():
    gymnax = pytest.importorskip("gymnax", reason="the extra `envs` is not installed")
    from quickstudy.envs.gymnax import GymnaxTasks, random_acrobot, random_cartpole, random_pendulum

    for name, vary, field, low, high in (
        ("CartPole-v1", random_cartpole, "length", 0.25, 1.0),
        ("Pendulum-v1", random_pendulum, "m", 0.5, 2.0),
        ("Acrobot-v1", random_acrobot, "link_mass_2", 0.7, 1.3),
    ):
        tasks = GymnaxTasks.make(name, vary)
        drawn = tasks.split().test.tasks(500)
        values = np.asarray(getattr(drawn, field))
        assert low <= values.min() < values.max() <= high
        # the same physics as gymnax's own environment with those parameters
        environment, _ = gymnax.make(name)
        params = jax.tree.map(lambda x: x[3], drawn)
        observation, state = tasks.environment.reset(K, params)
        action = jnp.asarray(1) if tasks.spec.actions else jnp.array([0.5])
        ours = tasks.environment.step(K, state, action, params)
        theirs = environment.step(K, environment.reset(K, params)[1], action, params)
        np.testing.assert_allclose(ours[0], theirs[0])
        assert tasks.spec.observation == observation.shape[0]
    assert GymnaxTasks.make("CartPole-v1", random_cartpole).spec.actions == 2


def test_a_space_that_no_policy_supports_is_refused():
    pytest.importorskip("gymnax", reason="the extra `envs` is not installed")
    from quickstudy.envs.gymnax import GymnaxTasks

    with pytest.raises(TypeError, match="supported"):
        _ = GymnaxTasks.make("Breakout-MinAtar", lambda key, params: params).spec
