"""Evolution against back-propagation, and what a task that diverges does to both."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from per_task import BLANK, per_task
from quickstudy.baselines import bandits
from quickstudy.config import Training
from quickstudy.core import Incompatible
from quickstudy.data.batches import FewShotTask, Labelled
from quickstudy.display.events import quiet
from quickstudy.learners.gradient.adjoints import FirstOrder
from quickstudy.learners.gradient.updates import SGD
from quickstudy.learners.inner_rl.q_learning import QLearning
from quickstudy.meta_optimizers.backprop import Backprop, mean_gradient
from quickstudy.meta_optimizers.evolution import Evolution
from quickstudy.meta_optimizers.evosax import Evosax
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import Bounded, Frozen, combine, partition
from quickstudy.tasks.mdps import TabularMDPs
from quickstudy.tasks.sinusoid import Sinusoids
from quickstudy.train.run import train
from registry import K, gradient, recurrent


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def lived_by_population(evolution, learner, tasks, key=K):
    objective = FewShot()
    candidates = evolution.candidates(learner, evolution.init(learner), key=key)
    learned, rest = partition(candidates)
    return objective, jax.vmap(lambda w: objective.collect(combine(w, rest), BLANK, tasks, keys=per_task(tasks, K))[0])(
        learned
    )


def test_evolution_points_where_back_propagation_does():
    learner, tasks = gradient(SGD(0.01)), Sinusoids(5, 10).batch(jax.random.split(K, 8))
    evolution = Evolution(optax.sgd(1.0), population=4096, sigma=0.02, floor=1.0, fitness="raw")
    objective, batch = lived_by_population(evolution, learner, tasks)
    improved, _, _ = evolution.update(objective, learner, evolution.init(learner), batch, key=K)
    ours = flat(partition(learner)[0]) - flat(partition(improved)[0])
    exact = flat(
        mean_gradient(objective, learner, objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))[0])[2]
    )
    cosine = ours @ exact / np.linalg.norm(ours) / np.linalg.norm(exact)
    # with m pairs in d dimensions the expected cosine is about 1/√(1 + d/m): 0.97 for d=105, m=2048
    assert cosine > 0.94
    np.testing.assert_allclose(np.linalg.norm(ours), np.linalg.norm(exact), rtol=0.15)


def test_candidates_are_antithetic_scaled_by_leaf_and_leave_fixed_arrays_alone():
    learner = eqx.tree_at(lambda l: l.start.net.layers[1].weight, gradient(), replace_fn=lambda w: 10 * w)
    held = eqx.tree_at(lambda l: l.start.net.layers[0], learner, replace_fn=Frozen)
    evolution = Evolution(optax.sgd(1.0), population=64, sigma=0.1, floor=1e-3)
    candidates = evolution.candidates(learner, evolution.init(learner), key=K)
    for own, theirs in zip(*(jax.tree.leaves(partition(tree)[0]) for tree in (learner, candidates)), strict=True):
        np.testing.assert_allclose((theirs[:32] + theirs[32:]) / 2, jnp.broadcast_to(own, (32, *own.shape)), atol=1e-5)
        relative = (theirs - own).std() / np.sqrt((own**2).mean())
        assert 0.07 < relative < 0.13
    assert len(jax.tree.leaves(evolution.init(held).scale)) == len(jax.tree.leaves(evolution.init(learner).scale)) - 2
    drawn = evolution.candidates(held, evolution.init(held), key=K)
    assert drawn.start.net.layers[0].held.weight.shape == learner.start.net.layers[0].weight.shape


def test_evolution_is_the_estimate_worked_out_by_hand():
    learner, tasks = gradient(SGD(0.01)), Sinusoids(5, 10).batch(jax.random.split(K, 3))
    evolution = Evolution(optax.sgd(1.0), population=4, sigma=0.1, floor=1.0, fitness="raw")
    objective, batch = lived_by_population(evolution, learner, tasks)
    improved, _, _ = evolution.update(objective, learner, evolution.init(learner), batch, key=K)
    candidates = partition(evolution.candidates(learner, evolution.init(learner), key=K))[0]
    own = partition(learner)[0]
    score = np.asarray(jax.vmap(objective.score)(batch)).mean(1)
    for w, new, c in zip(*map(jax.tree.leaves, (own, partition(improved)[0], candidates)), strict=True):
        noise = (np.asarray(c)[:2] - np.asarray(w)) / 0.1
        expected = sum((score[j] - score[j + 2]) * noise[j] for j in range(2)) / (2 * 2 * 0.1)
        np.testing.assert_allclose(np.asarray(new) - np.asarray(w), expected, rtol=1e-3, atol=1e-5)


def test_equal_scores_are_no_reason_to_move():
    learner = gradient(SGD(0.01))
    evolution = Evolution(optax.sgd(1.0), population=8)
    shaped = lambda *score: np.asarray(evolution._shape(jnp.array(score)))
    np.testing.assert_allclose(shaped(*[3.0] * 8), 0, atol=1e-6)
    np.testing.assert_allclose(
        shaped(0.0, 5, 0, 9, 0, 0, 0, 5), np.array([2, 5.5, 2, 7, 2, 2, 2, 5.5]) / 7 - 0.5, rtol=1e-5
    )
    batch = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:1], x.shape),
        lived_by_population(evolution, learner, Sinusoids(5, 10).batch(jax.random.split(K, 3)))[1],
    )
    improved, _, _ = evolution.update(FewShot(), learner, evolution.init(learner), batch, key=K)
    for old, new in zip(*map(jax.tree.leaves, (partition(learner)[0], partition(improved)[0])), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_evolution_improves_adaptation_without_a_gradient():
    learner, tasks = gradient(SGD(0.01)), Sinusoids(5, 10)
    objective, evolution = FewShot(), Evolution(optax.adam(3e-2), population=32)
    result = train(learner, objective, evolution, tasks, config=Training(150, 16), listener=quiet)
    before = train(learner, objective, evolution, tasks, config=Training(1, 16), listener=quiet)
    assert result.evaluate(num_tasks=200).score < 0.9 * before.evaluate(num_tasks=200).score


def poison(tasks: FewShotTask, which: int) -> FewShotTask:
    """The same episodes with a label of one task that is not a number."""
    return eqx.tree_at(lambda t: t.support.y, tasks, tasks.support.y.at[which, 0].set(jnp.nan))


@pytest.mark.parametrize("strategy", ["CMA_ES", "SNES"])
def test_evosax_searches_for_a_rate(strategy):
    pytest.importorskip("evosax")
    learner = QLearning(2, 2, rate=Bounded(0.05), discount=Bounded(0.05), epsilon=Bounded(0.9))
    trial = Trial(TabularMDPs(2, 2, 4).environment, trial_length=40, baseline="none", normalise=False)
    search = Evosax(strategy, population=16, sigma=1.0)
    config = Training(8, 16, log_every=8, validate_every=-1)
    result = train(learner, trial, search, TabularMDPs(2, 2, 4), config=config, listener=quiet)
    # Of all it could learn, to explore less than nine times in ten is worth most here.
    assert result.learner.epsilon.value < 0.7
    with pytest.raises(Incompatible, match="no strategy"):
        Evosax("SimulatedAnnealing").init(learner)


@pytest.mark.parametrize("where", ["loss", "gradient", "both"])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_diverged_tasks_contribute_exactly_zero(where, chunk):
    learner = gradient(SGD(0.05))
    objective = FewShot()
    of_loss, of_gradient = {"loss": ([2, 6], []), "gradient": ([], [0, 5]), "both": ([2], [3])}[where]
    tasks = Sinusoids(5, 5).batch(jax.random.split(K, 7))
    if of_gradient:  # where the prediction is the label: the loss is finite, its derivative is not
        objective = FewShot(of_loss=lambda p, y: jnp.sqrt(jnp.abs(p[0] - y[0])) ** 2)
        last = lambda l: (l.start.net.layers[-1].weight, l.start.net.layers[-1].bias)
        learner = eqx.tree_at(last, gradient(SGD(0.0)), replace_fn=jnp.zeros_like)
        tasks = eqx.tree_at(lambda t: t.query.y, tasks, tasks.query.y.at[jnp.array(of_gradient)].set(0.0))
    for task in of_loss:
        tasks = poison(tasks, task)
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
    compiled = eqx.filter_jit(lambda l, b, chunk: mean_gradient(objective, l, b, chunk=chunk))
    first = compiled(learner, batch, chunk)
    assert first.undecided == (chunk != 1 and bool(of_gradient))
    losses, _, ours, diverged, undecided = compiled(learner, batch, 1) if first.undecided else first
    assert not undecided
    assert np.flatnonzero(diverged).tolist() == of_loss + of_gradient
    assert np.flatnonzero(~np.isfinite(losses)).tolist() == of_loss
    good = jax.tree.map(lambda x: x[~diverged], batch)
    alone = [mean_gradient(objective, learner, jax.tree.map(lambda x, i=i: x[i : i + 1], good)) for i in range(5)]
    np.testing.assert_allclose(flat(ours), sum(flat(one[2]) for one in alone) / 7, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses[~diverged], [one[0][0] for one in alone], rtol=1e-4)


def test_gradients_that_are_not_finite_are_left_out_and_no_other():
    objective = FewShot(of_loss=lambda p, y: jnp.sqrt(jnp.abs(p[0] - y[0])) ** 2)
    last = lambda l: (l.start.net.layers[-1].weight, l.start.net.layers[-1].bias)
    learner = eqx.tree_at(last, gradient(SGD(0.0)), replace_fn=jnp.zeros_like)
    tasks = Sinusoids(5, 5).batch(jax.random.split(K, 256))
    bad = np.arange(256) % 3 == 0
    tasks = eqx.tree_at(lambda t: t.query.y, tasks, jnp.where(bad[:, None, None], 0.0, tasks.query.y))
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
    together = eqx.filter_jit(lambda l, b: mean_gradient(objective, l, b))
    assert together(learner, batch).undecided
    _, _, ours, diverged, undecided = mean_gradient(objective, learner, batch, chunk=1)
    assert not undecided and (diverged == bad).all()
    good = together(learner, jax.tree.map(lambda x: x[~bad], batch))
    np.testing.assert_allclose(flat(ours), flat(good.gradient) * (~bad).sum() / 256, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        mean_gradient(objective, learner, batch, chunk=0)


def test_where_all_diverge_nothing_moves():
    learner, objective = gradient(), FewShot()
    tasks = poison(poison(Sinusoids(5, 5).batch(jax.random.split(K, 2)), 0), 1)
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
    _, _, ours, diverged, _ = mean_gradient(objective, learner, batch)
    assert diverged.all() and not flat(ours).any()


def test_minibatches_and_epochs_take_that_many_steps():
    learner, tasks = gradient(), Sinusoids(5, 5).batch(jax.random.split(K, 8))
    objective = FewShot()
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
    optimizer = Backprop(optax.sgd(0.0), epochs=3, minibatches=4)
    count = Backprop(optax.adam(0.0), epochs=3, minibatches=4)
    _, memory, metrics = count.update(objective, learner, count.init(learner), batch, key=K)
    assert memory[0].count == 12
    same, _, metrics = optimizer.update(objective, learner, optimizer.init(learner), batch, key=K)
    np.testing.assert_allclose(metrics["loss"], objective.loss(same, batch)[0], rtol=1e-4)  # in the tasks' own order
    with pytest.raises(ValueError, match="minibatches"):
        Backprop(optax.sgd(0.1), minibatches=3).update(objective, learner, (), batch, key=K)


def test_refusals_say_why():
    with pytest.raises(Incompatible, match="cannot be differentiated"):
        Backprop(optax.sgd(0.1)).init(bandits.thompson(3))
    with pytest.raises(Incompatible, match="nothing to improve"):
        Evolution(optax.sgd(0.1)).init(bandits.thompson(3))
    with pytest.raises(ValueError, match="even"):
        Evolution(optax.sgd(0.1), population=3)


def test_a_first_order_learner_and_a_recurrent_one_share_the_same_optimizer():
    for learner in (gradient(adjoint=FirstOrder()), recurrent()):
        assert jax.tree.leaves(Backprop(optax.adam(1e-3)).init(learner))


def test_labelled_streams_have_one_axis():
    assert Labelled(jnp.zeros((3, 1)), jnp.zeros((3, 1))).axes == 1
