"""Planning against enumeration, a linear solve and a linear program; the planners' posterior against its formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from quickstudy.baselines import mdps
from quickstudy.baselines.mdps import drawn, mean_reward, mean_transition, optimistic
from quickstudy.data.batches import Transition
from quickstudy.learners.inner_rl.tabular import Statistics
from quickstudy.rl.planning import backward_induction, value_iteration
from quickstudy.tasks.mdps import TabularMDPs

K = jax.random.split(jax.random.key(3), 4)
STATES, ACTIONS, EPISODE = 3, 2, 3


@pytest.fixture(scope="module")
def mdp():
    task = TabularMDPs(STATES, ACTIONS, EPISODE).sample(1, key=K[0])
    return np.asarray(task.reward[0], np.float64), np.asarray(task.transition[0], np.float64)


def test_backward_induction_is_the_best_of_all_policies(mdp):
    reward, transition = mdp
    q = backward_induction(jnp.asarray(reward, float), jnp.asarray(transition, float), 2)
    every = list(itertools.product(range(ACTIONS), repeat=STATES))  # an action for each state, at each of two moments
    rows = np.arange(STATES)
    last = [reward[rows, policy] for policy in every]
    best = np.max([reward[rows, p] + transition[rows, p] @ v for p in every for v in last], 0)
    np.testing.assert_allclose(q[0].max(-1), best, rtol=1e-5)
    np.testing.assert_allclose(q[1], reward, rtol=1e-6)


def test_value_iteration_solves_the_equations_of_its_policy(mdp):
    reward, transition = mdp
    q = value_iteration(jnp.asarray(reward, float), jnp.asarray(transition, float), 0.9, tolerance=1e-6)
    rows, policy = np.arange(STATES), np.asarray(q).argmax(-1)
    value = np.linalg.solve(np.eye(STATES) - 0.9 * transition[rows, policy], reward[rows, policy])
    np.testing.assert_allclose(q.max(-1), value, rtol=1e-4)
    assert (reward + 0.9 * transition @ value <= value[:, None] + 1e-4).all()


def lived(moments):
    """(state, action, reward, next state, whether the episode ended) as one segment."""
    s, a, r, then, ended = (np.array(column) for column in zip(*moments, strict=True))
    one_hot = lambda index: jax.nn.one_hot(index, STATES)
    never = jnp.zeros(len(s), bool)
    return Transition(
        one_hot(s), jnp.asarray(a), jnp.asarray(r, float), never, jnp.asarray(ended), never, one_hot(then)
    )


def test_the_posterior_is_conjugate():
    learner = mdps.psrl(STATES, ACTIONS, EPISODE)
    state = learner.init(key=K[0])
    life = lived([(0, 1, 2.0, 2, False), (2, 0, -1.0, 0, False), (0, 1, 4.0, 2, True), (0, 1, 3.0, 1, False)])
    seen = learner.adapt(state, life, key=K[1]).seen
    # Three visits of (0, 1): rewards 2, 4, 3 with prior N(1, 1) and noise 1; next states 2, 2, 1.
    np.testing.assert_allclose(mean_reward(seen)[0, 1], (1 + 9) / 4)
    np.testing.assert_allclose(mean_transition(seen)[0, 1], np.array([1, 2, 3]) / 6)
    np.testing.assert_allclose(mean_reward(seen)[1, 0], 1)
    np.testing.assert_allclose(mean_transition(seen)[1, 0], 1 / 3)
    reward, transition = jax.vmap(lambda key: drawn(seen, key))(jax.random.split(K[2], 20_000))
    np.testing.assert_allclose(reward[:, 0, 1].var(), 1 / 4, rtol=0.05)
    np.testing.assert_allclose(reward[:, 0, 1].mean(), 2.5, atol=0.02)
    np.testing.assert_allclose(transition[:, 0, 1].mean(0), np.array([1, 2, 3]) / 6, atol=0.01)
    variance = np.array([1, 2, 3]) * (6 - np.array([1, 2, 3])) / (36 * 7)
    np.testing.assert_allclose(transition[:, 0, 1].var(0), variance, rtol=0.06)


def test_a_plan_is_kept_through_the_episode_and_made_anew_after_it():
    learner = mdps.psrl(STATES, ACTIONS, EPISODE)
    state = learner.init(key=K[0])
    step = lambda ended: lived([(0, 0, 1.0, 1, ended)])
    changed = []
    for i, ended in enumerate([False, False, True] * 6):
        after = learner.adapt(state, step(ended), key=jax.random.fold_in(K[1], i))
        assert after.time == (0 if ended else state.time + 1)
        changed.append(bool((after.policy != state.policy).any()))
        state = after
    assert not any(changed[0::3]) and not any(changed[1::3]) and any(changed[2::3])


@pytest.mark.parametrize(
    "make",
    [
        mdps.psrl,
        mdps.opsrl,
        lambda *size: mdps.beb(*size, scale=10.0),
        lambda *size: mdps.ucrl2(*size, scale=0.05),
        mdps.bayes_greedy,
    ],
)
def test_with_everything_seen_the_plan_is_the_optimal_one(make, mdp):
    reward, transition = mdp
    visits = 1e6
    seen = Statistics(jnp.asarray(visits * transition, float), jnp.asarray(visits * reward, float))
    q = make(STATES, ACTIONS, EPISODE).plan(seen, K[0])
    best = backward_induction(jnp.asarray(reward, float), jnp.asarray(transition, float), EPISODE)
    np.testing.assert_allclose(q, best, atol=0.05)


def test_optimism_within_a_radius_is_a_linear_program(mdp):
    _, transition = mdp
    value = np.array([0.3, -1.0, 2.0])
    radius = np.array([[0.0, 0.1], [0.5, 1.0], [2.0, 3.0]])
    ours = optimistic(jnp.asarray(transition, float), jnp.asarray(radius), jnp.asarray(value))
    for s, a in itertools.product(range(STATES), range(ACTIONS)):
        p = transition[s, a]
        # variables: the distribution, and its distance from p at each state
        eye = np.eye(STATES)
        bounds = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, STATES)), np.ones((1, STATES))]])
        found = linprog(
            np.concatenate([-value, np.zeros(STATES)]),
            A_ub=bounds,
            b_ub=np.concatenate([p, -p, [radius[s, a]]]),
            A_eq=np.concatenate([np.ones(STATES), np.zeros(STATES)])[None],
            b_eq=[1],
        )
        np.testing.assert_allclose(ours[s, a], -found.fun, atol=1e-5)
