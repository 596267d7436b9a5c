"""Planning against enumeration, a linear solve and a linear program; the planners' posterior against its formulas."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import registry
from per_task import BLANK
from quickstudy.baselines import mdps
from quickstudy.baselines.mdps import drawn, mean_reward, mean_transition, optimistic
from quickstudy.data.batches import Transition
from quickstudy.envs.device import auto_reset
from quickstudy.learners.inference.meta_models import constant, seen_in
from quickstudy.learners.inference.mml import MML
from quickstudy.learners.inner_rl.r_max import RMax
from quickstudy.learners.inner_rl.tabular import Statistics
from quickstudy.objectives.trial import Trial
from quickstudy.parallel.axes import anybody
from quickstudy.parallel.platform import program_for
from quickstudy.parameters import combine, partition
from quickstudy.rl import planning
from quickstudy.rl.planning import backward_induction, lazy_cond, value_iteration
from quickstudy.tasks.mdps import TabularMDPs

K = jax.random.split(jax.random.key(3), 4)
STATES, ACTIONS, EPISODE = 3, 2, 3


@pytest.fixture(scope="module")
def mdp():
    task = TabularMDPs(STATES, ACTIONS, EPISODE).batch(jax.random.split(K[0], 1))
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


def rollout(moments):
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
    trajectory = rollout([(0, 1, 2.0, 2, False), (2, 0, -1.0, 0, False), (0, 1, 4.0, 2, True), (0, 1, 3.0, 1, False)])
    seen = learner.adapt(state, trajectory, key=K[1]).seen
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
    step = lambda ended: rollout([(0, 0, 1.0, 1, ended)])
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


PLANNERS = {
    "PSRL": mdps.psrl,
    "OPSRL": mdps.opsrl,
    "BEB": lambda *size: mdps.beb(*size, scale=10.0),
    "UCRL2": lambda *size: mdps.ucrl2(*size, scale=0.02),
    "greedy": mdps.bayes_greedy,
}


class EndsEarly(eqx.Module):
    """State 0: end for +2, or go on to state 1 and end there for +3."""

    cut: int = eqx.field(static=True)

    def reset(self, key, params):
        return jax.nn.one_hot(0, 2), (jnp.zeros((), int), jnp.zeros((), int))

    def step(self, key, state, action, params):
        at, time = state
        goes_on = (at == 0) & (action == 1)
        reward = jnp.where(at == 1, 3.0, jnp.where(goes_on, 0.0, 2.0))
        at = jnp.where(goes_on, 1, at)
        cut = (time + 1 >= self.cut) & goes_on
        return auto_reset(self, key, (jax.nn.one_hot(at, 2), (at, time + 1), reward, ~goes_on, cut), params)


def visits_of_ends(num):
    """`num` visits of each pair of `EndsEarly`, as one segment."""
    one_hot = lambda index: jax.nn.one_hot(index, 2)
    s, a = jnp.repeat(jnp.array([0, 0, 1, 1]), num), jnp.repeat(jnp.array([0, 1, 0, 1]), num)
    goes_on, never = (s == 0) & (a == 1), jnp.zeros(4 * num, bool)
    reward = jnp.where(s == 1, 3.0, jnp.where(goes_on, 0.0, 2.0))
    return Transition(one_hot(s), a, reward, ~goes_on, never, never, one_hot(jnp.where(goes_on, 1, s)))


@pytest.mark.parametrize("name", PLANNERS)
def test_nothing_is_earned_beyond_the_end_of_an_episode(name):
    learner = PLANNERS[name](2, 2, 5)
    state = jax.jit(learner.adapt)(learner.init(key=K[0]), visits_of_ends(400), key=K[1])
    np.testing.assert_array_equal(state.seen.ended, [[400, 0], [400, 400]])
    np.testing.assert_array_equal(state.seen.visits, 400)
    # Counted as moves to the last observation, +2 would be worth 2 a step, for as long as the episode may last.
    np.testing.assert_allclose(learner.plan(state.seen, K[2])[0], [[2, 3], [3, 3]], atol=0.25)


@pytest.mark.parametrize("outcomes", [2, 3])
def test_models_know_the_end_whether_or_not_it_is_one_of_their_outcomes(outcomes):
    prior = constant(jnp.ones((2, 2, outcomes)), jnp.zeros((2, 2)), jnp.ones((2, 2)))
    learner, t = MML(prior, 5, spread=0.0), visits_of_ends(400)
    belief = prior(seen_in(prior, t))
    np.testing.assert_allclose(learner.values(belief.reward, belief.transition)[0], [[2, 3], [3, 3]], atol=0.1)
    drawn = belief.draw(1.0, key=K[0])
    np.testing.assert_allclose(learner.values(*drawn)[0], [[2, 3], [3, 3]], atol=0.4)
    to = jnp.zeros(outcomes) if outcomes == 2 else jax.nn.one_hot(2, 3)
    action, rows = jax.nn.one_hot(0, 2), belief.of(jax.nn.one_hot(0, 2))
    paid = jax.scipy.stats.norm.logpdf(2.0, rows.reward[0], jnp.sqrt(1 + rows.variance[0]))
    ends = np.log((400 + outcomes - 2) / (400 + outcomes))
    np.testing.assert_allclose(rows.log_prob(action, to, jnp.asarray(2.0)) - paid, ends, atol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("PSRL", 2.9), ("greedy", 2.999)])
def test_planners_find_the_best_end(name, least):
    environment = EndsEarly(5)
    trial = Trial(environment, trial_length=300, baseline="none", normalise=False, per_episode=True, curve_interval=100)
    learner = PLANNERS[name](2, 2, 5)
    rollouts = jax.jit(lambda key: trial.collect(learner, BLANK, jnp.zeros(20), keys=jax.random.split(key, 20))[0])(
        K[0]
    )
    assert trial.curve(rollouts)[:, -1].mean() > least  # they earned 2.02 and 2.05; PSRL still doubts now and then


def test_without_terminations_draws_are_those_of_the_plain_dirichlet():
    seen = Statistics(jnp.ones((3, 2, 3)), jnp.ones((3, 2)))
    np.testing.assert_array_equal(drawn(seen, K[0])[1], jax.random.dirichlet(jax.random.split(K[0])[1], 1 + seen.moves))
    ended = Statistics(seen.moves, seen.rewards, jnp.full((3, 2), 6.0))
    totals = jax.vmap(lambda key: drawn(ended, key)[1].sum(-1))(jax.random.split(K[1], 5000))
    np.testing.assert_allclose(totals.mean(0), 0.5, atol=0.01)  # (3 + 3) of 12
    np.testing.assert_allclose(totals.var(0), 0.25 / 13, rtol=0.1)


def test_optimism_may_move_towards_an_end_only_where_one_was_seen():
    """Rewards of −1: whoever hopes that episodes end everywhere would rather try what never did."""
    moves = jnp.zeros((2, 2, 2)).at[:, 0, 0].set(50.0).at[:, 1, 0].set(25.0)
    seen = Statistics(moves, jnp.full((2, 2), -50.0), jnp.zeros((2, 2)).at[:, 1].set(25.0))
    q = mdps.ucrl2(2, 2, 4, scale=0.02).plan(seen, K[0])[0]
    assert (q[:, 1] > q[:, 0] + 0.5).all()
    alone = mdps.ucrl2(2, 2, 4, scale=0.02).plan(Statistics(moves.at[:, 1, 0].set(50.0), seen.rewards), K[0])[0]
    np.testing.assert_allclose(alone[:, 0], alone[:, 1], rtol=1e-5)


def test_a_plan_for_shorter_episodes_says_so():
    learner = mdps.bayes_greedy(2, 2, 3)
    state = learner.init(key=K[0])
    for step in range(4):
        assert bool(jnp.isnan(learner.apply(state, jnp.ones(2)).policy.logits).all()) == (step == 3)
        goes_on = jax.tree.map(lambda x: x[:1], visits_of_ends(1))
        state = learner.adapt(state, eqx.tree_at(lambda t: t.terminated, goes_on, jnp.zeros(1, bool)), key=K[1])


@pytest.mark.parametrize("discount", [0.5, 0.99, 0.9999, 0.999999])
def test_the_value_of_what_never_ends_is_right_however_long_it_takes(discount):
    one = jnp.ones((1, 1))
    np.testing.assert_allclose(value_iteration(one, one[None], discount), 1 / (1 - discount), rtol=1e-4)
    learner = RMax(1, 1, discount=discount, most=2.0)
    again = Transition(one, jnp.zeros(1, int), jnp.ones(1), *jnp.zeros((3, 1), bool), one)
    known = learner.adapt(learner.init(key=K[0]), again, key=K[1])
    np.testing.assert_allclose(known.q, 1 / (1 - discount), rtol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_policy_iteration_agrees_with_a_linear_program(platform):
    """min Σ V subject to V ≥ r + γ P V, in an MDP whose episodes may terminate, at a γ far beyond what sweeps reach."""
    discount, rng = 0.9999, np.random.default_rng(0)
    reward = rng.normal(size=(6, 3))
    transition = rng.dirichlet(np.full(6, 0.3), (6, 3)) * np.where(rng.random((6, 3)) < 0.2, 0.9, 1.0)[..., None]
    rows = (np.eye(6)[:, None] - discount * transition).reshape(-1, 6)
    best = linprog(np.ones(6), A_ub=-rows, b_ub=-reward.reshape(-1), bounds=(None, None)).x
    with program_for(platform):
        q = jax.jit(value_iteration)(jnp.asarray(reward, float), jnp.asarray(transition, float), discount)
    np.testing.assert_allclose(q.max(-1), best, rtol=2e-3)


def test_too_few_rounds_give_no_values(monkeypatch):
    monkeypatch.setattr(planning, "ROUNDS", 0)
    with program_for("gpu"):
        assert jnp.isnan(value_iteration(jnp.ones((2, 2)), jnp.ones((2, 2, 2)) / 2, 0.9)).all()


def primitives(jaxpr, into_branches=True):
    """Names of all primitives, of inner programs too; of branches of conditions only where asked for."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name == "cond" and not into_branches:
            continue
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from primitives(getattr(inner, "jaxpr", inner), into_branches)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("name", "plans_by"),
    [
        ("mdp-psrl", "random_gamma"),
        ("mdp-ucrl2", "sort"),
        ("r-max", "lu"),
        ("mml", "random_gamma"),
        ("mpo", "cholesky"),
    ],
)
def test_a_population_plans_only_when_a_plan_is_due(name, plans_by, platform):
    """Under the `vmap`s of tasks and of a population the plan is in a branch, not in what is done at every step."""
    learner, experience = registry.REGISTRY[name].make(), registry.REGISTRY[name].experience(1)
    learned, rest = partition(learner)

    def adapt(learned, state, key):
        segment = jax.tree.map(lambda x: x[0], experience)
        return jax.vmap(lambda key: combine(learned, rest).adapt(state, segment, key=key))(jax.random.split(key, 2))

    candidates = jax.tree.map(lambda w: jnp.stack([w, w]), learned)
    with program_for(platform):
        population = jax.vmap(adapt, (0, None, None), axis_size=2)
        program = jax.make_jaxpr(population)(candidates, learner.init(key=K[0]), K[1]).jaxpr
    assert plans_by in set(primitives(program)) and plans_by not in set(primitives(program, False))
    assert platform == "cpu" or "while" not in set(primitives(program))


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_what_nobody_needs_is_not_planned_under_any_number_of_vmaps(at_once, levels):
    planned = lambda needed, x: lazy_cond(needed, lambda x: jnp.sin(x), (x,), x, at_once=at_once)
    f = planned
    for _ in range(levels):
        f = jax.vmap(f)
    shape = (2, 3, 2)[:levels]
    needed, x = jnp.zeros(shape, bool), jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    program = jax.make_jaxpr(f)(needed, x).jaxpr
    outside = [equation.primitive.name for equation in program.eqns]
    assert "cond" in outside and "sin" not in outside and "sin" in set(primitives(program))
    predicate = next(equation.invars[0] for equation in program.eqns if equation.primitive.name == "cond")
    assert predicate.aval.shape == ()
    np.testing.assert_allclose(f(needed, x), x)
    some = jnp.ones(shape, bool).reshape(-1).at[-1].set(levels == 0).reshape(shape)
    np.testing.assert_allclose(f(some, x), jnp.where(some, jnp.sin(x), x), rtol=1e-6)


def test_anybody_is_asked_across_all_examples():
    flags = jnp.zeros((2, 3), bool).at[1, 2].set(True)
    assert jax.vmap(jax.vmap(anybody), axis_size=2)(flags).all()
    assert not jax.vmap(jax.vmap(anybody))(jnp.zeros((2, 3), bool)).any()
    assert jax.vmap(lambda _: anybody(jnp.ones((), bool)))(jnp.zeros(3)).tolist() == [True] * 3
