"""MPO: what is left of it without its parts, and what its parts do."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import BLANK
from quickstudy.core import Incompatible
from quickstudy.data.distributions import Categorical, Gaussian
from quickstudy.learners.generated.mpo import no_generation_yet
from quickstudy.learners.gradient.adjoints import FirstOrder, Implicit
from quickstudy.learners.gradient.inner_losses import PolicyGradient
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.learners.gradient.updates import SGD
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.models import MLP, GaussianPolicy, input_bias
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import Positive, combine, meta_parameters, partition
from quickstudy.recipes import configure, recipe_of
from quickstudy.rl import losses
from quickstudy.tasks.mdps import KernelMDPs
from quickstudy.tasks.navigation import Navigation
from registry import K, mpo, walks

EPISODE = 4
TASKS = Navigation(episode=EPISODE, unit=0.1)
TERMS = ((1.0, losses.ppo()), (0.1, losses.value), (0.01, losses.entropy))
log_probs = jax.vmap(jax.vmap(lambda policy, a: policy.log_prob(a)))


def close(a, b, rtol=1e-4, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def trajectory(episodes):
    """One stream of whole episodes: [episodes, steps, 1], as MAML-RL takes it, and [time, 1], as MPO does."""
    as_maml = walks(episodes, EPISODE, 1)
    return as_maml, jax.tree.map(lambda x: x.reshape(episodes * EPISODE, 1, *x.shape[3:]), as_maml)


def generating(learner):
    """With a generator that says something."""
    said = 0.3 * jax.random.normal(jax.random.key(3), learner.generator.shape)
    return eqx.tree_at(lambda learner: learner.generator, learner, said)


def whole(**changes):
    return generating(mpo(episode=EPISODE, **changes))


def keys(num):
    return jax.random.split(K, num)


@pytest.mark.parametrize("adjoint", [None, FirstOrder()])
def test_with_nothing_generated_and_no_pull_it_is_maml(adjoint):
    """Over three episodes, in value and in the gradient of every leaf that the two share."""
    as_maml, as_mpo = trajectory(3)
    choices, constants = {}, {}
    if adjoint is not None:  # which takes inner gradients for constants, and leaves nothing of them to be learned
        choices, constants = {"adjoint": adjoint}, {"inner_loss": PolicyGradient(0.8, 0.9, ridge=0.1)}
    ours = mpo(generator=None, kl_weight=None, episode=EPISODE, steps=3, **choices, **constants)
    theirs = Gradient(ours.start, ours.inner_loss, ours.update, steps=3, **choices)

    def said(learner, experience):
        out = learner.replay(learner.init(key=K), experience, key=keys(len(experience.reward)))
        each = jax.vmap(log_probs) if experience.reward.ndim == 3 else log_probs
        return each(out.policy, experience.action).reshape(-1)

    shared = lambda learner: (learner.start, learner.inner_loss, learner.update)

    def weighed(parts, learner, experience):
        learner = eqx.tree_at(shared, learner, parts)
        out = said(learner, experience)
        return (out * jnp.cos(jnp.arange(len(out)))).sum(), out

    gradient = eqx.filter_jit(eqx.filter_grad(weighed, has_aux=True))
    (of_ours, our_words), (of_theirs, their_words) = (
        gradient(shared(learner), learner, experience) for learner, experience in ((ours, as_mpo), (theirs, as_maml))
    )
    close(our_words, their_words)
    close(of_ours, of_theirs, rtol=1e-3)
    assert all((jnp.abs(g) > 1e-3).any() for g in jax.tree.leaves(of_ours))
    first = our_words[:EPISODE]
    start = jax.vmap(lambda o, a: ours.start(o).policy.log_prob(a))(as_mpo.x[:, 0], as_mpo.action[:, 0])
    close(first, start[:EPISODE])
    assert (jnp.abs(our_words - start)[EPISODE:] > 1e-3).all()  # δ moved


def test_without_corrections_it_is_a_hypernetwork():
    """θ = θ_0 + U h, by hand, at the end of two episodes."""
    learner = whole(steps=0)
    _, rollout = trajectory(2)
    hidden, told = jnp.zeros(8), jnp.zeros(4)
    for t in range(2 * EPISODE):
        item = jax.tree.map(lambda x: x[t, 0], rollout)
        hidden = learner.cell(hidden, jnp.concatenate([item.observation, told]))
        told = jnp.concatenate([item.action, item.reward[None], (item.truncated * 1.0)[None]])
    moved = learner.generator @ hidden
    policy = learner.start
    weights = lambda p: [p.net.layers[0].weight, p.net.layers[0].bias, p.net.layers[1].weight, p.net.layers[1].bias]
    at, new = 0, []
    for weight in [*weights(policy), policy.log_std]:
        new.append(weight + moved[at : at + weight.size].reshape(weight.shape))
        at += weight.size
    one, two = new[0] @ item.observation + new[1], lambda x: new[2] @ x + new[3]
    by_hand = Gaussian(two(jnp.tanh(one)), jnp.exp(new[4]))
    said = learner.replay(learner.init(key=K), rollout, key=keys(2 * EPISODE)).policy
    close(by_hand, jax.tree.map(lambda x: x[-1, 0], said))


def test_generating_the_first_bias_alone_is_reading_the_memory_beside_the_observation():
    """The control of Beck et al.: an ordinary recurrent policy with a hidden layer."""
    start = GaussianPolicy(MLP((2, 4, 2), key=K, activation=jnp.tanh), jnp.zeros(2))
    learner = generating(mpo(start=start, generator=no_generation_yet(start, 8, input_bias), fast=input_bias, steps=0))
    state, x = learner.init(key=K), jnp.array([0.3, -0.2])
    hidden = learner.cell(state.hidden, jnp.concatenate([x, state.feedback]))
    first, second = start.net.layers
    both = jnp.concatenate([first.weight, learner.generator], 1) @ jnp.concatenate([x, hidden]) + first.bias
    close(learner.apply(state, x).policy.mean, second(jnp.tanh(both)))


def test_one_correction_is_a_policy_gradient_step_with_a_pull():
    """Two steps on one episode, against derivatives by finite differences."""
    learner = whole()
    _, rollout = trajectory(1)
    state = learner.adapt(learner.init(key=K), jax.tree.map(lambda x: x[:, 0], rollout), key=K)
    features, t = state.recent.items
    made = jax.vmap(learner.generated)(features)

    @jax.jit
    def loss(correction):
        said = lambda rows: jax.vmap(learner._inner)(rows, t.observation)
        acting = said(made + correction)
        ours, alone = acting.policy, said(made).policy
        ratio = ours.std / alone.std
        kl = (0.5 * (ratio**2 + ((ours.mean - alone.mean) / alone.std) ** 2 - 1) - jnp.log(ratio)).sum(-1).mean()
        wide = lambda tree: jax.tree.map(lambda x: x[:, None], tree)
        return learner.inner_loss.of_outputs(wide(acting), wide(t)) + learner.kl_weight.value * kl

    correction, size = jnp.zeros_like(state.correction), 1e-2
    for _ in range(2):
        nudges = size * jnp.eye(len(correction))
        slope = jax.vmap(lambda e: (loss(correction + e) - loss(correction - e)) / (2 * size))(nudges)
        correction = correction - learner.update.rate.value * slope
    close(state.correction, correction, rtol=2e-2, atol=2e-3)
    assert jnp.linalg.norm(correction) > 0.05


@pytest.mark.parametrize("foreseen", [-100.0, 8.0])
def test_corrections_are_weighted_by_how_far_the_episode_fell_short_of_what_was_foreseen(foreseen):
    """A critic that says c everywhere is wrong by r − (1 − γ) c in each step."""
    _, rollout = trajectory(1)
    rewards = jax.tree.map(lambda x: x[:, 0], rollout).reward
    weight = max(0.0, float(0.1 * foreseen - rewards[:-1].mean()))
    constant = lambda learner: eqx.tree_at(
        lambda l: (l.critic.weight, l.critic.bias), learner, (jnp.zeros((1, 8)), jnp.full(1, foreseen))
    )
    parts = {"episode": EPISODE, "kl_weight": None}
    weighted = constant(generating(mpo(critic_discount=0.9, **parts)))
    same = generating(mpo(update=SGD(0.2 * weight), **parts))
    moved = [
        learner.adapt(learner.init(key=K), jax.tree.map(lambda x: x[:, 0], rollout), key=K).correction
        for learner in (weighted, same)
    ]
    close(*moved)
    assert (weight > 0) == (foreseen > 0) == bool((jnp.abs(moved[0]) > 1e-4).any())


def test_a_strong_pull_keeps_the_policy_where_it_was_generated():
    learner = whole(update=SGD(1e-3), steps=200)
    _, rollout = trajectory(1)
    far = lambda kl_weight: jnp.linalg.norm(
        dataclasses.replace(learner, kl_weight=kl_weight)
        .adapt(learner.init(key=K), jax.tree.map(lambda x: x[:, 0], rollout), key=K)
        .correction
    )
    free, held, tight = (float(jax.jit(far)(kl_weight)) for kl_weight in (0.0, 10.0, 100.0))
    assert free > 2 * held and held > 3 * tight > 0, (free, held, tight)


def test_replay_goes_on_from_the_middle_of_an_episode():
    learner = whole()
    _, rollout = trajectory(4)
    before, after = (jax.tree.map(lambda x: x[part], rollout) for part in (slice(0, 6), slice(6, None)))
    run = jax.jit(lambda state, items: learner.adapt(state, jax.tree.map(lambda x: x[:, 0], items), key=K))
    state = run(learner.init(key=K), before)
    assert int(state.recent.count) == 6 and (state.correction != 0).any()
    some = keys(len(after.reward))
    fast = jax.jit(lambda state: learner.replay(state, after, key=some))(state)
    slow = jax.jit(lambda state: scan_replay(learner, state, after, key=some))(state)
    close(fast, slow)


def test_replay_equals_the_rollout_and_tasks_need_not_end_together():
    """Among many tasks at once, corrections come where they are due and leave the others as they are."""
    learner = whole()
    trial = Trial(TASKS.environment, trial_length=2 * EPISODE, terms=TERMS)
    batch, _ = eqx.filter_jit(trial.collect)(
        learner, BLANK, TASKS.batch(jax.random.split(K, 5)), keys=jax.random.split(K, 5)
    )
    replay = jax.jit(
        jax.vmap(lambda rollout: learner.replay(learner.init(key=rollout.key), rollout.transition, key=rollout.keys))
    )
    close(jax.vmap(log_probs)(replay(batch).policy, batch.transition.action), batch.log_prob)

    _, rollout = trajectory(2)
    early, late = (
        learner.adapt(learner.init(key=K), jax.tree.map(lambda x: x[:n, 0], rollout), key=K)
        for n in (EPISODE - 1, EPISODE - 2)
    )
    item = jax.tree.map(lambda x: x[EPISODE - 1 : EPISODE, 0], rollout)
    both = jax.tree.map(lambda *x: jnp.stack(x), early, late)
    together = jax.jit(jax.vmap(lambda state: learner.adapt(state, item, key=K)))(both)
    assert (together.correction[0] != 0).any() and (together.correction[1] == 0).all()
    close(jax.tree.map(lambda x: x[0], together), learner.adapt(early, item, key=K))


def test_ppo_reaches_every_leaf_through_generation_and_corrections():
    learner = whole(update=SGD(Positive(0.02)))
    trial = Trial(TASKS.environment, trial_length=2 * EPISODE, terms=TERMS)
    batch, _ = eqx.filter_jit(trial.collect)(
        learner, BLANK, TASKS.batch(jax.random.split(K, 4)), keys=jax.random.split(K, 4)
    )
    learned, rest = partition(learner)
    gradient = jax.jit(jax.grad(lambda learned: trial.loss(combine(learned, rest), batch)[0].mean()))(learned)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)


def test_divergences_are_what_sampling_says():
    one, two = Gaussian(jnp.array([0.1, 0.4]), jnp.array([0.5, 1.0])), Gaussian(jnp.zeros(2), jnp.array([0.8, 0.9]))
    drawn = jax.vmap(lambda k: one.sample(key=k))(jax.random.split(K, 100_000))
    np.testing.assert_allclose(
        one.kl(two), jax.vmap(lambda a: one.log_prob(a) - two.log_prob(a))(drawn).mean(), atol=0.01
    )
    three, four = Categorical(jnp.array([0.0, 1.0, -1.0])), Categorical(jnp.array([0.5, 0.0, 0.2]))
    p = jax.nn.softmax(three.logits)
    terms = [p[a] * (three.log_prob(jnp.array(a)) - four.log_prob(jnp.array(a))) for a in range(3)]
    np.testing.assert_allclose(three.kl(four), sum(terms), rtol=1e-5)
    assert abs(one.kl(one)) < 1e-6 and abs(three.kl(three)) < 1e-6


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        mpo(steps=1)
    with pytest.raises(Incompatible, match="no minimiser"):
        mpo(adjoint=Implicit(1.0))
    learner = mpo()
    with pytest.raises(Incompatible, match="segment_length=1"):
        learner.replay(learner.init(key=K), walks(2), key=keys(2))
    with pytest.raises(Incompatible, match="num_envs=None"):
        learner.adapt(learner.init(key=K), jax.tree.map(lambda x: x[0], walks(1)), key=K)


def test_goals_of_the_shifted_test_lie_outside_of_the_training_range():
    splits = Navigation(shifted=True).split()
    goals = splits.test.tasks(20_000)
    far = jnp.abs(goals).max(-1)
    assert far.min() > 0.5 and far.max() <= 1.0 and splits.test.note
    np.testing.assert_allclose(goals.mean(0), 0.0, atol=0.02)
    # Uniform: of the ring's area of 3, each corner square has a quarter and what lies above the range has a half.
    np.testing.assert_allclose((jnp.abs(goals) > 0.5).all(-1).mean(), 1 / 3, atol=0.02)
    np.testing.assert_allclose((far < 0.75).mean(), (1.5**2 - 1) / 3, atol=0.02)
    for inside in (splits.train.batch(jax.random.split(K, 100)), splits.validation.tasks(100)):
        assert jnp.abs(inside).max() <= 0.5
    np.testing.assert_array_equal(Navigation().split().test.tasks(9), Navigation(unit=0.1).split().test.tasks(9))


def test_the_recipe_takes_its_parts_away():
    unrolled = {"adjoint": "unrolled", "learn_corrections": True, "kl_weight": 0.003}
    learned = lambda **fields: meta_parameters(configure("navigation-mpo", {**unrolled, **fields}).build().learner)
    everything = learned()
    assert {"kl_weight.log", "update.rate.log", "generator", "inner_loss.discount.logit"} <= set(everything)
    assert everything["generator"] == (84, 64)
    assert learned(generates="modulation")["generator"] == (34, 64) and learned(generates="input")["generator"] == (
        16,
        64,
    )
    assert set(everything) - set(learned(generates="nothing")) == {"generator"}
    assert set(everything) - set(learned(kl_weight=0.0)) == {"kl_weight.log"}
    fixed = learned(learn_corrections=False)
    assert fixed == learned(correction_steps=0)  # what was trained without corrections can be tested with them
    without = set(everything) - set(learned(correction_steps=0))
    assert without == {"kl_weight.log", "update.rate.log", "inner_loss.discount.logit", "inner_loss.gae_lambda.logit"}
    assert set(learned(adjoint="first-order")) - set(fixed) == {"update.rate.log"}
    shifted = configure("navigation-mpo", {"test_goals": "outside", "test_episodes": 3}).build()
    assert shifted.evaluation.objective.trial_length == 60 and shifted.objective.trial_length == 100
    assert jnp.abs(shifted.tasks.split().test.tasks(10)).max() > 0.5
    assert recipe_of("navigation-mpo").changed(generates="all", correction_steps=1, kl_weight=0.1).errors()


def test_the_recipe_of_mdps_says_what_it_shifts_and_what_a_task_is():
    shifted = configure("kernels-mpo", {"test_residual": "outside", "test_episodes": 3}).build()
    assert shifted.evaluation.objective.trial_length == 30 and shifted.objective.trial_length == 100
    assert isinstance(shifted.learner.start(jnp.zeros(10)).policy, Categorical)
    tested = shifted.evaluation.eval_view(shifted.learner)
    assert (shifted.learner.inner_loss.ridge, tested.inner_loss.ridge, tested.init_noise) == (1e-5, 1.0, 0.0)
    splits = shifted.tasks.split()
    inside, outside = (held_out.tasks(200).reward.std(0).mean() for held_out in (splits.validation, splits.test))
    assert outside > 1.3 * inside
    # Without a residual the rewards are a mixture of the kernels, and its weights are what there is to know.
    features = recipe_of("kernels-mpo").tasks.build("trial", 0).task_features
    weights = features(KernelMDPs(spread=0.0).batch(jax.random.split(K, 50)))
    assert weights.shape == (50, 2) and weights.min() > -1e-4 and weights.sum(1).max() < 1 + 1e-4
    assert weights.std(0).min() > 0.1
    assert len(recipe_of("kernels-mpo").changed(test_episodes=-1, hidden_size=0).errors()) == 2


def test_corrections_start_anywhere_in_a_share_of_the_tasks_of_training():
    learner = mpo(init_noise=0.3, init_noise_share=0.25)
    starts = jax.vmap(lambda key: learner.init(key=key).correction)(jax.random.split(K, 2000))
    apart = starts[(starts != 0).any(1)]
    assert abs(len(apart) / len(starts) - 0.25) < 0.04
    np.testing.assert_allclose([apart.mean(), apart.std()], [0, 0.3], atol=0.01)
    with pytest.raises(ValueError, match="lie in"):
        mpo(init_noise_share=1.5)

    noisy = recipe_of("navigation-mpo").changed(init_noise=0.3)
    trained = noisy.build()
    assert trained.learner.init_noise == 0.3 and trained.evaluation.eval_view(trained.learner).init_noise == 0
    ablations = {"correction_steps": 0}, {"generates": "nothing"}
    assert all(noisy.changed(**changes).build().learner.init_noise == 0 for changes in ablations)
    assert trained.evaluation.baselines["from scratch"].init_noise == 0


def test_the_recipe_of_mazes_shifts_the_walls_and_says_where_the_goal_is():
    recipe = recipe_of("maze-mpo")
    inside, shifted = recipe.build(), recipe.changed(layout=1, trial_length=400).build()
    assert shifted.evaluation.objective.trial_length == 400
    mazes, others = (of.tasks.split().test.tasks(100) for of in (inside, shifted))
    assert (mazes.wall == mazes.wall[0]).all() and (mazes.wall[0] != others.wall[0]).any()
    where = recipe.tasks.build("trial", 0).task_features(mazes)
    assert where.shape == (100, 2)
    assert (where @ jnp.array([5, 1]) == mazes.goal).all()
