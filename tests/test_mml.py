"""Meta-model learning: with the true model it plans as value iteration does, with a constant prior it is the conjugate
posterior, and trained it comes near to that; its loss terms worked out by hand."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from per_task import BLANK, per_task
from quickstudy.config import ConfigError
from quickstudy.data.batches import Output, RolloutBatch, Transition
from quickstudy.display.events import quiet
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.run import evaluate
from quickstudy.learners.inference.meta_models import Amortised, Prior, as_tables, constant, seen_in
from quickstudy.learners.inference.mixture import Mixture
from quickstudy.learners.inference.mml import MML, equivalence, likelihood
from quickstudy.learners.inner_rl.tabular import outcome
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import Positive
from quickstudy.recipes import configure
from quickstudy.rl.planning import backward_induction, greedy, value_iteration
from quickstudy.runs.load import load
from quickstudy.tasks.mazes import Mazes, shortest, tables
from quickstudy.tasks.mdps import KernelMDPs, TabularMDPs

K = jax.random.split(jax.random.key(5), 8)
STATES, ACTIONS, EPISODE = 3, 2, 4
PAIRS = STATES, ACTIONS
TASKS = TabularMDPs(STATES, ACTIONS, EPISODE)
SURE = 1e8
TERMS = ((1.0, likelihood), (0.1, equivalence))


begin = eqx.filter_jit(lambda agent: agent.init(key=K[0]))
after = eqx.filter_jit(lambda agent, t: agent.adapt(agent.init(key=K[0]), t, key=K[1]))
draw = eqx.filter_jit(lambda tasks, num, key: tasks.batch(jax.random.split(key, num)))


def trial(tasks, trial_length, terms=TERMS):
    return Trial(tasks.environment, trial_length=trial_length, terms=terms, baseline="none", normalise=False)


def conjugate(strength=1.0, certainty=1.0):
    """The prior of the random MDPs, N(1, 1) and Dirichlet(1, …, 1), or another strength of it."""
    return constant(jnp.full((*PAIRS, STATES), strength), jnp.ones(PAIRS), jnp.full(PAIRS, certainty))


def rollout(moments, states=STATES):
    """(state, action, reward, next state, terminated, truncated) as one segment."""
    s, a, r, then, terminated, truncated = (np.array(column) for column in zip(*moments, strict=True))
    one_hot = lambda index: jax.nn.one_hot(index, states)
    ends = jnp.asarray(terminated), jnp.asarray(truncated), jnp.zeros(len(s), bool)
    return Transition(one_hot(s), jnp.asarray(a), jnp.asarray(r, float), *ends, one_hot(then))


TRIAL = [
    (0, 1, 2.0, 2, False, False),
    (2, 0, -1.0, 0, False, False),
    (0, 1, 4.0, 2, False, True),
    (0, 1, 3.0, 1, False, False),
]


@pytest.mark.parametrize("i", range(3))
def test_with_the_true_model_it_plans_the_optimal_policy(i):
    task = jax.tree.map(lambda x: x[i], draw(TASKS, 3, K[0]))
    true = constant(SURE * task.transition, task.reward, jnp.full(PAIRS, SURE))
    forever = begin(MML(true, episode=150, discount=0.9)).policy
    assert forever[0].tolist() == greedy(value_iteration(task.reward, task.transition, 0.9)).tolist()
    finite = begin(MML(true, EPISODE)).policy
    assert finite.tolist() == greedy(backward_induction(task.reward, task.transition, EPISODE)).tolist()


def test_in_a_maze_it_knows_it_takes_the_shortest_way_and_starts_again():
    tasks = Mazes(4, episode=12)
    task = draw(tasks, 1, K[2])
    reward, transition = jax.jit(tables)(jax.tree.map(lambda x: x[0], task))
    np.testing.assert_allclose(transition.sum(-1), 1, rtol=1e-6)
    agent = MML(constant(SURE * transition, reward, jnp.full(reward.shape, SURE), 1e-3), 12, 0.9, spread=0.0)
    way = int(shortest(task)[0])
    objective = trial(tasks, 3 * way, ())
    batch, _ = jax.jit(lambda task: objective.collect(agent, BLANK, task, keys=per_task(task, K[3])))(task)
    assert np.flatnonzero(batch.transition.reward[0, :, 0]).tolist() == [way - 1, 2 * way - 1, 3 * way - 1]


def test_the_tables_of_a_maze_are_what_happens_in_it():
    tasks = Mazes(3, wind=0.5)
    task = jax.tree.map(lambda x: x[0], draw(tasks, 1, K[2]))
    reward, transition = jax.jit(tables)(task)
    cell, action = 1, 3
    _, start = tasks.environment.reset(K[0], task)
    state = jax.tree.map(lambda _, v: v, start, type(start)(jnp.asarray(cell), jnp.asarray(0)))
    step = lambda key: tasks.environment.step(key, state, jnp.asarray(action), task)
    _, _, paid, terminated, truncated, info = jax.jit(jax.vmap(step))(jax.random.split(K[1], 20_000))
    never = jnp.zeros(len(paid), bool)
    t = Transition(info["final_observation"], terminated, paid, terminated, truncated, never, info["final_observation"])
    landed = jax.vmap(lambda t: outcome(t, 10))(t).mean(0)
    np.testing.assert_allclose(landed, transition[cell, action], atol=0.015)
    np.testing.assert_allclose(paid.mean(), reward[cell, action], atol=0.015)


def test_with_a_constant_prior_the_belief_is_the_conjugate_posterior():
    agent = MML(conjugate(), EPISODE)
    state = after(agent, rollout(TRIAL))
    # Three visits of (0, 1): rewards 2, 4, 3; next states 2, 2, 1.
    belief = agent.model(state.seen)
    np.testing.assert_allclose(belief.concentration[0, 1], [1, 2, 3], rtol=1e-5)
    np.testing.assert_allclose([belief.reward[0, 1], belief.variance[0, 1]], [10 / 4, 1 / 4], rtol=1e-5)
    np.testing.assert_allclose(belief.concentration[1, 0], 1, rtol=1e-5)
    np.testing.assert_allclose([belief.reward[1, 0], belief.variance[1, 0]], [1, 1], rtol=1e-5)
    assert state.time == 1
    reward, transition = jax.jit(jax.vmap(lambda key: belief.draw(1.0, key=key)))(jax.random.split(K[2], 20_000))
    np.testing.assert_allclose(transition[:, 0, 1].mean(0), np.array([1, 2, 3]) / 6, atol=0.01)
    np.testing.assert_allclose(transition[:, 0, 1].std(0), belief.transition_deviation[0, 1], rtol=0.04)
    np.testing.assert_allclose([reward[:, 0, 1].mean(), reward[:, 0, 1].var()], [2.5, 0.25], atol=0.02)


def test_a_narrower_draw_is_nearer_to_the_mean_model():
    belief = conjugate()(conjugate().nothing())
    mean, half, whole = (belief.draw(spread, key=K[0]) for spread in (0.0, 0.5, 1.0))
    for m, h, w in zip(mean, half, whole, strict=True):
        np.testing.assert_allclose(h - m, 0.5 * (w - m), atol=1e-6)
        assert float(jnp.abs(w - m).max()) > 0.1
    np.testing.assert_allclose(mean[0], 1, rtol=1e-6)
    with pytest.raises(ValueError, match="spread"):
        MML(conjugate(), EPISODE, spread=1.5)


def test_a_bonus_is_of_the_uncertain():
    agent = MML(conjugate(), EPISODE, spread=0.0, bonus=5.0)
    state = after(agent, rollout(TRIAL[:3]))  # an episode has ended: a new plan
    belief = agent.model(state.seen)

    def lost(bonus):
        reward = belief.reward + bonus * jnp.sqrt(belief.variance)
        q = backward_induction(reward, belief.transition, EPISODE)
        return float((q.max(-1) - jnp.take_along_axis(q, state.policy[..., None], -1)[..., 0]).max())

    assert lost(5.0) < 1e-4 and lost(0.0) > 0.1


def test_what_explores_in_training_is_left_out_of_the_test():
    explores = MML(conjugate(), EPISODE, spread=0.0, epsilon=0.4)
    state = begin(explores)
    chosen = jax.nn.softmax(explores.apply(state, jnp.eye(STATES)[1]).policy.logits)
    planned = jax.nn.one_hot(state.policy[0, 1], ACTIONS)
    np.testing.assert_allclose(chosen, 0.6 * planned + 0.2, rtol=1e-5)
    with pytest.raises(ValueError, match="epsilon"):
        MML(conjugate(), EPISODE, epsilon=-0.1)

    objective, held_out = trial(TASKS, 2 * EPISODE, ()), TASKS.split().test
    evaluation = EvaluationConfig(
        objective,
        num_tasks=30,
        eval_view=lambda learner: dataclasses.replace(learner, epsilon=0.0),
        baselines={"as it is": explores},
    )
    result = evaluate(explores, objective, held_out, evaluation=evaluation)
    plain = evaluate(
        dataclasses.replace(explores, epsilon=0.0), objective, held_out, evaluation=EvaluationConfig(objective, 30)
    )
    np.testing.assert_array_equal(result.values, plain.values)
    assert result.baselines["as it is"]["difference"]["mean"] != 0  # a baseline is tested as it is


def test_nor_does_a_loaded_agent_explore(tmp_path):
    trained = configure("maze-mml", {"meta_steps": 0}).build().train(tmp_path / "run", listener=quiet).learner
    assert trained.epsilon > 0
    assert load(tmp_path / "run").learner.epsilon == 0


def test_statistics_of_a_trial_are_those_of_its_steps():
    agent = MML(conjugate(), EPISODE, spread=0.0)
    t = rollout(TRIAL)
    seen = after(agent, jax.tree.map(lambda x: x[:3], t)).seen
    moves, rewards = np.zeros((*PAIRS, STATES)), np.zeros(PAIRS)
    moves[0, 1, 2], moves[2, 0, 0], rewards[0, 1], rewards[2, 0] = 2, 1, 6, -1
    for found in (seen, seen_in(agent.model, jax.tree.map(lambda x: x[:3], t))):
        np.testing.assert_allclose(found.moves, moves)
        np.testing.assert_allclose(found.rewards, rewards)


def batch_of(steps) -> RolloutBatch:
    """Of one trial [segments, steps], all of which counts."""
    nothing = jnp.zeros_like(steps.reward)
    keys = jax.random.split(K[1], len(nothing))
    return RolloutBatch(steps, nothing, nothing, nothing, nothing == 0, key=K[0], keys=keys, is_first=jnp.array(True))


def test_the_loss_terms_by_hand():
    """The steps of the trial, each predicted by the conjugate posterior of those before it."""
    discount, episode = 0.8, 3
    agent = MML(conjugate(), episode, discount, spread=0.0)
    steps = jax.tree.map(lambda x: x[:, None], rollout(TRIAL))
    batch = batch_of(steps)

    moves, rewards = np.ones((*PAIRS, STATES)), np.ones(PAIRS)
    visits, time, surprise, error = np.ones(PAIRS), 0, [], []
    for s, a, r, then, _, truncated in TRIAL:
        p, mean = moves / moves.sum(-1, keepdims=True), rewards / visits
        surprise.append(-np.log(p[s, a, then]) - stats.norm.logpdf(r, mean[s, a], np.sqrt(1 + 1 / visits[s, a])))
        value = np.zeros(STATES)
        for _ in range(episode - time - 1):
            value = (mean + discount * p @ value).max(-1)
        error.append((mean[s, a] + discount * p[s, a] @ value - r - discount * value[then]) ** 2)
        moves[s, a, then] += 1
        rewards[s, a] += r
        visits[s, a] += 1
        time = 0 if truncated else time + 1
    np.testing.assert_allclose(jax.jit(likelihood)(agent, Output(), batch), np.mean(surprise), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(equivalence)(agent, Output(), batch), np.mean(error), rtol=1e-5)


def test_what_the_values_are_of_is_held_constant():
    """A value that could be learned would be learned to be nothing, and every model right about it."""
    loss = lambda model: predicted(model).following.sum()

    def predicted(model):
        agent = MML(model, EPISODE)
        return agent.predictions(agent.init(key=K[0]), jax.tree.map(lambda x: x[:1], rollout(TRIAL)))

    assert float(jax.jit(loss)(conjugate())) > 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(conjugate())))


def test_trained_on_random_mdps_it_comes_near_to_the_conjugate_posterior():
    """In what it says of held-out tasks, from a prior that is three times too strong and expects 0 of a reward."""
    objective = trial(TASKS, 6 * EPISODE, ((1.0, likelihood),))
    start = Amortised(*PAIRS, STATES, key=K[0], hidden=4, latent=1)
    wrong = constant(jnp.full((*PAIRS, STATES), 3.0), jnp.zeros(PAIRS), jnp.ones(PAIRS)).own.bias
    learner = MML(eqx.tree_at(lambda m: m.own.bias, start, wrong), EPISODE, spread=0.0)
    ideal = MML(conjugate(), EPISODE, spread=0.0)
    live = jax.jit(lambda tasks, key: objective.collect(ideal, BLANK, tasks, keys=per_task(tasks, key))[0])
    judge = jax.jit(jax.value_and_grad(lambda learner, batch: objective.loss(learner, batch)[0].mean()))
    train, test = live(draw(TASKS, 200, K[1]), K[2]), live(draw(TASKS, 200, K[4]), K[3])
    optimizer = optax.adam(0.1)
    memory, excess = optimizer.init(learner), lambda learner: float(judge(learner, test)[0] - judge(ideal, test)[0])
    before = excess(learner)
    for _ in range(40):
        moves, memory = optimizer.update(judge(learner, train)[1], memory)
        learner = eqx.apply_updates(learner, moves)
    assert before > 0.05 and -0.005 < excess(learner) < 0.3 * before
    fresh = learner.model(learner.model.nothing())
    np.testing.assert_allclose(fresh.reward.mean(), 1, atol=0.2)
    np.testing.assert_allclose(fresh.concentration.sum(-1).mean(), STATES, rtol=0.4)


def test_refining_lowers_the_surprise_at_what_was_seen():
    model = Amortised(*PAIRS, STATES, key=K[0], hidden=8, latent=4, steps=1, rate=0.05)
    seen = seen_in(model, rollout(TRIAL))
    z = model.kind(seen)
    prior = model.prior(z)
    by_hand = 0.0
    for s, a, r, then, *_ in TRIAL:
        p = prior.concentration[s, a] / prior.concentration[s, a].sum()
        by_hand += -np.log(p[then]) + 0.5 * (r - float(prior.reward[s, a])) ** 2 - 0.5 * r**2
    np.testing.assert_allclose(model.surprise(z, seen), by_hand / 4, rtol=1e-4)
    refined = z - 0.05 * jax.grad(model.surprise)(z, seen)
    assert model.surprise(refined, seen) < model.surprise(z, seen)
    never_tried = model.prior(refined).concentration[1, 0]
    np.testing.assert_allclose(model(seen).concentration[1, 0], never_tried, rtol=1e-5)


NOISE = 0.7


def mixture(kinds=2):
    """Kinds with priors at random, of unequal frequency."""
    model = Mixture(*PAIRS, STATES, kinds=kinds, key=K[5], unlike=1.0)
    unlike = jnp.log(1.0 + jnp.arange(kinds)), Positive(NOISE)
    return eqx.tree_at(lambda m: (m.frequency, m.noise), model, unlike)


def marginal(model, kind, moments):
    """log p of a trial in tasks of one kind, by the closed forms of the Dirichlet-multinomial and the normal."""
    prior, total = Prior.of((model.shared + model.own)[:, :, kind]), 0.0
    alpha = np.asarray(prior.concentration, float)
    for s, a in {moment[:2] for moment in moments}:
        here = [moment for moment in moments if moment[:2] == (s, a)]
        led = np.bincount([moment[3] for moment in here], minlength=STATES)
        ordered = special.gammaln(alpha[s, a] + led).sum() - special.gammaln(alpha[s, a]).sum()
        total += ordered + special.gammaln(alpha[s, a].sum()) - special.gammaln(alpha[s, a].sum() + len(here))
        paid, spread = [moment[2] for moment in here], 1 / float(prior.certainty[s, a])
        mean, covariance = np.full(len(here), float(prior.reward[s, a])), np.eye(len(here)) + spread
        total += stats.multivariate_normal.logpdf(paid, mean, NOISE**2 * covariance)
    return total


def test_of_one_kind_a_mixture_is_the_conjugate_posterior():
    flat = as_tables(jnp.ones((*PAIRS, 1, STATES)), jnp.ones((*PAIRS, 1)), jnp.ones((*PAIRS, 1)))
    model = eqx.tree_at(lambda m: (m.own, m.noise), mixture(1), (flat, Positive(1.0)))
    told, known = (jax.jit(lambda t, m=m: m(seen_in(m, t)))(rollout(TRIAL)) for m in (model, conjugate()))
    for name in ("transition", "transition_deviation", "reward", "variance"):
        np.testing.assert_allclose(getattr(told, name), getattr(known, name), rtol=1e-4, atol=1e-6)


def test_which_kind_a_task_is_follows_by_bayes_rule():
    model = mixture()
    joint = np.array([np.log(1 + kind) + marginal(model, kind, TRIAL) for kind in range(2)])
    evidence = jax.jit(lambda t: model(seen_in(model, t)).log_weights)
    np.testing.assert_allclose(evidence(rollout(TRIAL)), joint - special.logsumexp(joint), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evidence(rollout(TRIAL[::-1])), evidence(rollout(TRIAL)), rtol=1e-4, atol=1e-5)


def test_what_a_mixture_predicts_of_each_step_adds_up_to_the_marginal_likelihood():
    model = mixture()
    agent = MML(model, EPISODE, spread=0.0)
    steps = jax.tree.map(lambda x: x[:, None], rollout(TRIAL))
    surprise = jax.jit(likelihood)(agent, Output(), batch_of(steps))
    joint = [np.log((1 + kind) / 3) + marginal(model, kind, TRIAL) for kind in range(2)]
    np.testing.assert_allclose(4 * surprise, -special.logsumexp(joint), rtol=1e-5)


def test_a_draw_of_a_kind_agrees_with_itself():
    """Whatever is drawn is what one kind expects, in all pairs at once; and half a draw is half way to it."""
    belief = mixture()(seen_in(mixture(), rollout(TRIAL[:2])))
    each, keys = belief.each, jax.random.split(K[3], 200)
    reward, transition = jax.vmap(lambda key: belief.draw(1.0, key=key))(keys)
    of_kind = jnp.abs(transition[:, :, :, None] - each.transition).max((1, 2, 4)) < 1e-6
    assert of_kind.any(1).all()
    np.testing.assert_allclose(of_kind.mean(0), jnp.exp(belief.log_weights), atol=0.1)
    np.testing.assert_allclose(reward, jnp.moveaxis(each.reward, -1, 0)[of_kind.argmax(1)], rtol=1e-5)
    half = belief.draw(0.5, key=keys[0])
    np.testing.assert_allclose(half[0], (reward[0] + belief.reward) / 2, rtol=1e-5)
    np.testing.assert_allclose(half[1], (transition[0] + belief.transition) / 2, rtol=1e-5)


def test_the_moments_of_a_mixture_are_those_of_its_kinds():
    """By drawing a kind, and then from what that kind believes."""
    belief = mixture()(seen_in(mixture(), rollout(TRIAL[:2])))
    weights, num = np.exp(belief.log_weights), 40_000
    kind = np.random.default_rng(0).choice(2, num, p=weights / weights.sum())
    each, keys = belief.each, jax.random.split(K[4], num)
    p = jax.vmap(lambda key, k: jax.random.dirichlet(key, each.concentration[1, 0, k]))(keys, jnp.asarray(kind))
    r = each.reward[1, 0, kind] + jnp.sqrt(each.variance[1, 0, kind]) * jax.random.normal(K[6], (num,))
    np.testing.assert_allclose(p.mean(0), belief.transition[1, 0], atol=0.01)
    np.testing.assert_allclose(p.std(0), belief.transition_deviation[1, 0], rtol=0.03)
    np.testing.assert_allclose([r.mean(), r.var()], [belief.reward[1, 0], belief.variance[1, 0]], rtol=0.05, atol=0.02)


def test_what_a_kind_excludes_rules_it_out_and_leaves_the_gradient_finite():
    impossible = mixture().own.at[0, 1, 0, 2].add(-200.0)
    model = eqx.tree_at(lambda m: m.own, mixture(), impossible)  # of kind 0 the first step of the trial is not
    weights = lambda model: model(seen_in(model, rollout(TRIAL))).log_weights
    assert jnp.exp(jax.jit(weights)(model))[1] > 0.999
    slopes = jax.jit(jax.grad(lambda model: weights(model)[1]))(model)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_trained_a_mixture_tells_two_kinds_of_task_apart():
    """Two MDPs in turns: with two kinds it predicts held-out trials better than one kind can, and knows which is which
    after an episode."""
    two = draw(TASKS, 2, K[6])
    of = lambda which: jax.tree.map(lambda x: x[which], two)
    objective = trial(TASKS, 3 * EPISODE, ((1.0, likelihood),))
    live = lambda learner, which, key: objective.collect(learner, BLANK, of(which), keys=per_task(of(which), key))[0]
    which, told = jnp.arange(64) % 2, {}
    for kinds in (1, 2):
        learner = MML(Mixture(*PAIRS, STATES, kinds=kinds, key=K[0]), EPISODE, spread=0.0, epsilon=1.0)
        judge = jax.jit(jax.value_and_grad(lambda learner, batch: objective.loss(learner, batch)[0].mean()))
        train, test = (jax.jit(live)(learner, which, key) for key in (K[1], K[2]))
        optimizer = optax.adam(0.1)
        memory = optimizer.init(learner)
        for _ in range(60):
            moves, memory = optimizer.update(judge(learner, train)[1], memory)
            learner = eqx.apply_updates(learner, moves)
        told[kinds] = float(judge(learner, test)[0])
    assert told[2] < told[1] - 0.1
    first = jax.tree.map(lambda x: x[:, :EPISODE, 0], test.transition)
    likely = jax.vmap(lambda t: learner.model(seen_in(learner.model, t)).log_weights.argmax())(first)
    assert max((likely == which).mean(), (likely != which).mean()) > 0.9


def test_a_plan_that_is_made_anew_keeps_its_draw_until_the_episode_ends():
    agent = MML(mixture(), EPISODE, replan=True)
    state = begin(agent)
    one = eqx.filter_jit(lambda state, t, key: agent.adapt(state, t, key=key))
    for i, moment in enumerate(TRIAL):
        posterior_key, state = state.posterior_key, one(state, rollout([moment]), jax.random.fold_in(K[2], i))
        assert (state.posterior_key == posterior_key).all() == (not moment[-1])
        reward, transition = agent.model(state.seen).draw(1.0, key=jax.random.wrap_key_data(state.posterior_key))
        assert state.policy.tolist() == greedy(agent.values(reward, transition)).tolist()


def test_kernel_mdps_mix_what_they_share():
    tasks = KernelMDPs(states=3, actions=2, kernels=3, closeness=1e7, spread=0.0)
    flat = lambda reward, transition: np.concatenate([reward[..., None], transition], -1).reshape(len(reward), -1)
    drawn, shared = draw(tasks, 500, K[0]), flat(*tasks.shared())
    drawn = flat(drawn.reward, drawn.transition)
    weights, *_ = np.linalg.lstsq(shared.T, drawn.T, rcond=None)
    np.testing.assert_allclose(shared.T @ weights, drawn.T, atol=2e-3)
    np.testing.assert_allclose(weights.sum(0), 1, atol=2e-3)
    np.testing.assert_allclose(weights.mean(1), 1 / 3, atol=0.06)
    assert weights.max(0).mean() > 0.6  # mostly near one of them


def test_a_configuration_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"(?s)episodes must be.*spread must lie in \[0, 1\]"):
        configure("kernels-mml", {"spread": 2.0, "episodes": 0})
    with pytest.raises(ConfigError, match="trial_length"):
        configure("maze-mml", {"trial_length": 55})
    with pytest.raises(ConfigError, match="refinements must be 0 with kinds=32"):
        configure("maze-mml", {"refinements": 2})
