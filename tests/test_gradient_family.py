"""Witnesses of the inner and the meta-gradient: hand-written two-liners, closed forms, PyTorch."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from per_task import BLANK, per_task
from quickstudy.core import Incompatible
from quickstudy.data.batches import FewShotTask
from quickstudy.learners.gradient.adjoints import FirstOrder, Implicit, Unrolled, conjugate_gradients
from quickstudy.learners.gradient.inner_losses import PolicyAndValue, PolicyGradient, Supervised
from quickstudy.learners.gradient.maml import Gradient, minibatches
from quickstudy.learners.gradient.updates import SGD, Optax, Scaled, clipped, per_weight
from quickstudy.meta_optimizers.backprop import mean_gradient
from quickstudy.nn.models import MLP, Contextual, Predictor, context, head
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import Bounded, Frozen, Positive, combine, meta_parameters, partition
from quickstudy.rl import losses
from quickstudy.tasks.navigation import Navigation
from quickstudy.tasks.sinusoid import Sinusoids
from registry import K, gradient, labelled, policy, predictor, walks


def mse(params, x, y):
    (w1, b1), (w2, b2) = params
    return ((jnp.tanh(x @ w1.T + b1) @ w2.T + b2 - y) ** 2).mean()


def small():
    """A learner and the same network as plain arrays."""
    model = Predictor(MLP((1, 8, 1), key=K, activation=jnp.tanh))
    plain = [(layer.weight, layer.bias) for layer in model.net.layers]
    return model, plain


def meta_gradient(learner, tasks, objective=None):
    objective = objective or FewShot()

    @eqx.filter_jit
    def gradient(learner, tasks):
        batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
        return mean_gradient(objective, learner, batch)[2]

    return gradient(learner, tasks)


def layers(gradient):
    return [(layer.weight, layer.bias) for layer in gradient.start.net.layers]


def close(a, b, rtol=1e-5, atol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


def test_maml_is_the_two_liner():
    model, plain = small()
    tasks = Sinusoids(5, 7).batch(jax.random.split(K, 4))

    def by_hand(params):
        adapt = lambda s: jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(mse)(params, s.x, s.y))
        return jax.vmap(lambda e: mse(adapt(e.support), e.query.x, e.query.y))(tasks).mean()

    ours = meta_gradient(Gradient(model, Supervised(), SGD(0.1)), tasks)
    close(layers(ours), jax.jit(jax.grad(by_hand))(plain))


def test_fomaml_is_the_query_gradient_at_the_adapted_weights():
    model, plain = small()
    tasks = Sinusoids(5, 7).batch(jax.random.split(K, 4))

    def one(e):
        adapted = jax.tree.map(lambda p, g: p - 0.1 * g, plain, jax.grad(mse)(plain, e.support.x, e.support.y))
        return jax.grad(mse)(adapted, e.query.x, e.query.y)

    by_hand = jax.tree.map(lambda g: g.mean(0), jax.vmap(one)(tasks))
    ours = meta_gradient(Gradient(model, Supervised(), SGD(0.1), FirstOrder()), tasks)
    close(layers(ours), by_hand)
    second = meta_gradient(Gradient(model, Supervised(), SGD(0.1), Unrolled()), tasks)
    assert not np.allclose(layers(ours)[0][0], layers(second)[0][0], rtol=1e-3)


def test_maml_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    model, plain = small()
    tasks = Sinusoids(5, 7).batch(jax.random.split(K, 3))
    params = [torch.tensor(np.asarray(p), dtype=torch.float64, requires_grad=True) for p in jax.tree.leaves(plain)]
    t = lambda x: torch.tensor(np.asarray(x), dtype=torch.float64)

    def loss(p, x, y):
        return ((torch.tanh(x @ p[0].T + p[1]) @ p[2].T + p[3] - y) ** 2).mean()

    total = 0.0
    for i in range(3):
        e = jax.tree.map(lambda x: x[i], tasks)
        p = params
        for _ in range(3):
            gs = torch.autograd.grad(loss(p, t(e.support.x), t(e.support.y)), p, create_graph=True)
            p = [w - 0.1 * g for w, g in zip(p, gs, strict=True)]
        total = total + loss(p, t(e.query.x), t(e.query.y)) / 3
    theirs = torch.autograd.grad(total, params)
    ours = meta_gradient(Gradient(model, Supervised(), SGD(0.1), steps=3), tasks)
    close(jax.tree.leaves(layers(ours)), [g.numpy() for g in theirs], rtol=1e-5, atol=1e-5)


def test_imaml_has_the_closed_form_of_a_quadratic():
    start, centre = jnp.array([1.0, 2.0]), jnp.array([0.3, -1.0])
    hessian, strength = jnp.array([[2.0, 0.5], [0.5, 1.0]]), 0.7

    def outer(start):
        loss = lambda p: 0.5 * (p - centre) @ hessian @ (p - centre)
        found, _ = Implicit(strength, 5).solve(loss, start, (), update=SGD(0.2), steps=200)
        return (found**2).sum()

    def closed(start):
        found = jnp.linalg.solve(hessian + strength * jnp.eye(2), hessian @ centre + strength * start)
        return (found**2).sum()

    np.testing.assert_allclose(outer(start), closed(start), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(outer)(start), jax.grad(closed)(start), rtol=1e-4)


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_eigenvalues_and_then_stand_still():
    root = jax.random.normal(K, (6, 6))
    matrix = root @ root.T + 6 * jnp.eye(6)
    target = {"a": jnp.arange(4.0), "b": jnp.array([1.0, -1.0])}
    flat = lambda tree: jnp.concatenate([tree["a"], tree["b"]])
    product = lambda tree: (lambda y: {"a": y[:4], "b": y[4:]})(matrix @ flat(tree))
    exact = np.linalg.solve(np.asarray(matrix, float), np.asarray(flat(target), float))
    np.testing.assert_allclose(flat(conjugate_gradients(product, target, 6)), exact, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(flat(conjugate_gradients(product, target, 60)), exact, rtol=1e-4, atol=1e-6)
    nothing = jax.tree.map(jnp.zeros_like, target)
    assert not flat(conjugate_gradients(product, nothing, 5)).any()
    loop = jax.make_jaxpr(lambda target: conjugate_gradients(product, target, 5))(target)
    assert "while" not in {equation.primitive.name for equation in loop.eqns}


def test_imaml_is_the_regularised_problem_unrolled_to_convergence():
    model, _ = small()
    e = jax.tree.map(lambda x: x[0], Sinusoids(5, 7).batch(jax.random.split(K, 1)))
    strength, rate = 2.0, 0.05
    learned, rest = partition(model)

    def query(adapted):
        return ((jax.vmap(lambda x: combine(adapted, rest)(x).prediction)(e.query.x) - e.query.y) ** 2).mean()

    def support(adapted):
        return Supervised()(lambda x: combine(adapted, rest)(x), e.support)

    def unrolled(start):
        pulled = lambda p: (
            support(p)
            + 0.5
            * strength
            * sum(((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(start), strict=True))
        )
        step = lambda p, _: (jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(pulled)(p)), None)
        return query(jax.lax.scan(step, start, None, length=400)[0])

    def implicit(start):
        return query(Implicit(strength, 20).solve(support, start, (), update=SGD(rate), steps=400)[0])

    close(jax.grad(implicit)(learned), jax.grad(unrolled)(learned), rtol=2e-3, atol=1e-5)


def test_meta_sgd_with_equal_rates_is_sgd_and_learns_its_rates():
    tasks = Sinusoids(5, 7).batch(jax.random.split(K, 4))
    same, ours = gradient(SGD(0.05)), gradient(per_weight(predictor(), 0.05))
    g_same, g_ours = meta_gradient(same, tasks), meta_gradient(ours, tasks)
    close(jax.tree.leaves(g_ours.start), jax.tree.leaves(g_same.start))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(g_ours.update))


def test_a_step_of_cut_entries_is_the_one_written_by_hand():
    model, plain = small()
    tasks = Sinusoids(5, 7).batch(jax.random.split(K, 4))
    gradients = jax.vmap(lambda s: jax.grad(mse)(plain, s.x, s.y))(tasks.support)
    assert 0.1 < np.mean([(abs(g) > 0.2).mean() for g in jax.tree.leaves(gradients)]) < 0.9

    def by_hand(params):
        cut = lambda s: jax.tree.map(lambda g: jnp.clip(g, -0.2, 0.2), jax.grad(mse)(params, s.x, s.y))
        adapt = lambda s: jax.tree.map(lambda p, g: p - 0.1 * g, params, cut(s))
        return jax.vmap(lambda e: mse(adapt(e.support), e.query.x, e.query.y))(tasks).mean()

    ours = meta_gradient(Gradient(model, Supervised(), Scaled(0.1, optax.clip(0.2))), tasks)
    close(layers(ours), jax.jit(jax.grad(by_hand))(plain))


def test_only_the_fast_leaves_adapt():
    support = jax.tree.map(lambda x: x[0], labelled(1))
    learner = gradient(fast=head)
    state = learner.init(key=K)
    after = learner.adapt(state, support, key=K)
    assert len(jax.tree.leaves(state.weights)) == 2
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (state.weights, after.weights)), strict=True))
    model = Contextual(MLP((3, 8, 1), key=K), jnp.zeros(2))
    state = gradient(start=model, fast=context).init(key=K)
    assert [leaf.shape for leaf in jax.tree.leaves(state.weights)] == [(2,)]


def test_zero_steps_is_no_adaptation():
    support = jax.tree.map(lambda x: x[0], labelled(1))
    learner = gradient(steps=0)
    state = learner.init(key=K)
    close(learner.adapt(state, support, key=K), state, rtol=0, atol=0)


def test_inner_adam_is_optax_adam():
    support = jax.tree.map(lambda x: x[0], labelled(1))
    learner = gradient(Optax(optax.adam(0.01)), steps=3)
    adapted = learner.adapt(learner.init(key=K), support, key=K).weights
    weights, optimizer = learner.split()[0], optax.adam(0.01)
    memory = optimizer.init(weights)
    for _ in range(3):
        loss = lambda w: Supervised()(combine(w, learner.split()[1][1]), support)
        moves, memory = optimizer.update(jax.grad(loss)(weights), memory)
        weights = optax.apply_updates(weights, moves)
    close(jax.tree.leaves(adapted), jax.tree.leaves(weights))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Gradient(policy(), PolicyGradient(), SGD(0.1), Implicit(1.0)), "PolicyGradient has none"),
        (lambda: Gradient(policy(), PolicyGradient(credit="dice"), SGD(0.1), FirstOrder()), "credit='none'"),
        (lambda: Gradient(policy(), PolicyGradient(Bounded(0.9)), SGD(0.1), FirstOrder()), "takes inner gradients for"),
        (lambda: gradient(SGD(Positive(0.1)), adjoint=Implicit(1.0)), "learned rate"),
        (lambda: gradient(start=Frozen(predictor())), "nothing would adapt"),
        (lambda: gradient(batch=2, adjoint=Implicit(1.0)), "another loss for every step"),
        (lambda: Gradient(policy(), PolicyGradient(), SGD(0.1), batch=2), "supervised"),
    ],
)
def test_compositions_without_sense_are_refused(make, reason):
    with pytest.raises(Incompatible, match=reason):
        make()


def test_minibatches_take_turns():
    rows = np.asarray(minibatches(6, 2, 7, key=K))
    assert rows.shape == (7, 2)
    for round in (rows[:3], rows[3:6]):
        assert sorted(round.ravel()) == list(range(6))
    assert rows[6, 0] != rows[6, 1]


def test_a_step_sees_its_minibatch_alone():
    """By hand: one step on each line of rows, after another."""
    learner, support = gradient(SGD(0.05), steps=3, batch=2), jax.tree.map(lambda x: x[0], labelled(1))
    weights, rest = partition(learner.start)
    for chosen in minibatches(len(support.y), 2, 3, key=K):
        x, y = support.x[chosen], support.y[chosen]
        loss = lambda w, x=x, y=y: ((jax.vmap(combine(w, rest))(x).prediction - y) ** 2).mean()
        weights = jax.tree.map(lambda w, g: w - 0.05 * g, weights, jax.grad(loss)(weights))
    adapted = learner.adapt(learner.init(key=K), support, key=K).weights
    close(jax.tree.leaves(adapted), jax.tree.leaves(weights), rtol=1e-4)
    whole = dataclasses.replace(learner, batch=len(support.y))  # no fewer than there are: all of them
    close(
        jax.tree.leaves(whole.adapt(learner.init(key=K), support, key=K)),
        jax.tree.leaves(gradient(SGD(0.05), steps=3).adapt(learner.init(key=K), support, key=K)),
    )


def test_what_is_learned_is_what_is_listed():
    assert set(meta_parameters(gradient())) == {
        f"start.net.layers[{i}].{leaf}" for i in range(3) for leaf in ("weight", "bias")
    }
    assert "update.rate.log" in meta_parameters(gradient(SGD(Positive(0.1))))


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_any_chunking_of_the_tasks_gives_the_same_gradient(chunk):
    tasks = Sinusoids(5, 7).batch(jax.random.split(K, 8))
    learner, objective = gradient(), FewShot()
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, K))
    whole, parts = mean_gradient(objective, learner, batch), mean_gradient(objective, learner, batch, chunk=chunk)
    close(whole[0], parts[0])
    close(whole[2], parts[2])


def navigation_trial(**changes):
    tasks = Navigation(episode=5)
    fields = {
        "trial_length": 10, "terms": ((1.0, losses.reinforce), (0.5, losses.dice)), "segment_length": 5, "num_envs": 4,
        "burn_in": 5, "baseline": "linear", "across_episodes": False,
    }  # fmt: skip
    return tasks, Trial(tasks.environment, **{**fields, **changes})


def test_chunking_gives_the_same_gradient_in_rl():
    tasks, trial = navigation_trial()
    learner = Gradient(policy(), PolicyGradient(), SGD(0.1))
    batch, _ = eqx.filter_jit(trial.collect)(
        learner, BLANK, tasks.batch(jax.random.split(K, 4)), keys=jax.random.split(K, 4)
    )
    whole, parts = (
        eqx.filter_jit(lambda learner, batch, c=chunk: mean_gradient(trial, learner, batch, chunk=c)[2])(learner, batch)
        for chunk in (None, 2)
    )
    close(whole, parts, rtol=1e-4, atol=1e-6)


def test_credit_is_what_the_plain_surrogate_does_not_give():
    """The first derivatives of the three inner losses agree; through an inner step they differ."""
    experience = jax.tree.map(lambda x: x[0], walks(1))
    learned, rest = partition(policy())
    loss = lambda credit: lambda w: PolicyGradient(credit=credit)(combine(w, rest), experience)
    squared = lambda tree: sum((leaf**2).sum() for leaf in jax.tree.leaves(tree))
    once = {credit: jax.jit(jax.grad(loss(credit)))(learned) for credit in ("none", "lvc", "dice")}
    twice = {credit: jax.jit(jax.grad(lambda w, c=credit: squared(jax.grad(loss(c))(w))))(learned) for credit in once}
    for one, other in (("none", "lvc"), ("none", "dice"), ("lvc", "dice")):
        close(once[one], once[other], rtol=1e-4, atol=1e-6)
        assert not np.allclose(*(jax.tree.leaves(twice[credit])[0] for credit in (one, other)), rtol=1e-3)


def test_the_critic_in_the_inner_loss_gets_how_much_was_earned():
    """Beside the policy's loss stands the squared error of the value, by hand; its gradient reaches the policy."""
    experience = jax.tree.map(lambda x: x[0], walks(1))
    model, discount = policy(critic=True), 0.8
    inner = PolicyGradient(discount)
    both, alone = PolicyAndValue(inner, 3.0)(model, experience), inner(model, experience)
    ended = np.asarray(experience.terminated | experience.truncated | experience.last)
    to_go, errors = np.zeros(ended.shape[1]), []
    for t in reversed(range(len(ended))):
        to_go = np.asarray(experience.reward[t]) + discount * np.where(ended[t], 0.0, to_go)
        said = np.array([float(model(o).value) for o in experience.observation[t]])
        errors.append(said - (1 - discount) * to_go)
    close(both - alone, 3.0 * 0.5 * np.mean(np.square(errors)), rtol=1e-4)

    learned, rest = partition(model)
    first_layer = lambda loss: jax.grad(lambda w: loss(combine(w, rest), experience))(learned).net.layers[0].weight
    assert np.abs(first_layer(PolicyAndValue(inner)) - first_layer(inner)).max() > 1e-3


def test_a_critic_is_not_asked_of_a_policy_without_one():
    with pytest.raises(Incompatible, match="gives none"):
        PolicyAndValue(PolicyGradient())(policy(), jax.tree.map(lambda x: x[0], walks(1)))


def test_e_maml_credits_the_steps_before_adaptation_with_what_came_after():
    tasks = Navigation(episode=5)
    trial = Trial(
        tasks.environment, trial_length=10, terms=((1.0, losses.e_maml),), segment_length=5, num_envs=4, burn_in=5,
        baseline="linear", across_episodes=False,
    )  # fmt: skip
    learner = Gradient(policy(), PolicyGradient(), SGD(0.1))
    batch, _ = eqx.filter_jit(trial.collect)(
        learner, BLANK, tasks.batch(jax.random.split(K, 6)), keys=jax.random.split(K, 6)
    )
    earned = trial.score(batch)
    close(batch.standardised_return, (earned - earned.mean()) / earned.std(), rtol=1e-3)
    # Before adaptation the policy is the start itself, so that the term is a score function of the start alone.
    loss, _ = eqx.filter_jit(trial.loss)(learner, batch)
    log_prob = batch.log_prob[:, 0].sum((1, 2))
    close(loss, -batch.standardised_return * log_prob / (5 * 4), rtol=1e-4, atol=1e-5)


def test_a_fixed_leaf_is_not_learned_and_not_lost():
    net = MLP((1, 4, 1), key=K)
    learner = gradient(start=_Shifted(net, Frozen(jnp.ones(1))))
    assert not any("shift" in name for name in meta_parameters(learner))
    support = jax.tree.map(lambda x: x[0], labelled(1))
    state = learner.adapt(learner.init(key=K), support, key=K)
    assert jnp.isfinite(learner.apply(state, jnp.ones(1)).prediction).all()


class _Shifted(eqx.Module):
    net: MLP
    shift: Frozen

    def __call__(self, x):
        return Predictor(self.net)(x + self.shift.value)


def test_episode_is_a_pytree_of_examples():
    e = Sinusoids(5, 7).batch(jax.random.split(K, 2))
    assert isinstance(e, FewShotTask)
    assert e.support.x.shape == (2, 5, 1) and e.query.y.shape == (2, 7, 1)


def test_a_clipped_gradient_is_optax_s_and_has_a_derivative_where_it_is_zero():
    ours, theirs = clipped(0.5), optax.clip_by_global_norm(0.5)
    for scale in (0.1, 1.0, 30.0):
        gradient = {"a": scale * jnp.array([0.3, -0.2]), "b": jnp.array(0.1)}
        for mine, other in zip(*(jax.tree.leaves(of.update(gradient, ())[0]) for of in (ours, theirs)), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6)
    assert jax.jacobian(lambda g: ours.update(g, ())[0])(jnp.zeros(2)).tolist() == [[1, 0], [0, 1]]
