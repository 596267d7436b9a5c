"""Witnesses of the few-shot learners: closed forms, invariances, and steps worked out by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quickstudy.baselines.from_scratch import FromScratch
from quickstudy.baselines.logistic_regression import LogisticRegression
from quickstudy.core import Incompatible
from quickstudy.data.batches import Labelled
from quickstudy.learners.gradient.inner_losses import Supervised
from quickstudy.learners.gradient.learned_updates import LSTMOptimizer, MetaLSTM
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.learners.gradient.updates import SGD, Optax
from quickstudy.learners.metric.matching import FullContext, Matching
from quickstudy.learners.metric.prototypical import Prototypical
from quickstudy.nn.gradients import log_and_sign
from quickstudy.nn.images import Conv4, Modulated
from quickstudy.nn.layers import Linear
from quickstudy.nn.measures import accuracy, cross_entropy
from quickstudy.nn.models import MLP, Chain, Predictor, Refined, context
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import Positive

K = jax.random.split(jax.random.key(3), 8)
X = jax.random.normal(K[0], (6, 4))
Y = jnp.array([0, 1, 2, 0, 1, 2])
Q = jax.random.normal(K[1], (5, 4))


def embed():
    return MLP((4, 8, 3), key=K[2], activation=jnp.tanh)


def learned_from(learner, x=X, y=Y):
    return learner.adapt(learner.init(key=K[3]), Labelled(x, y), key=K[4])


def predict(learner, state, queries=Q):
    return over_axes(lambda x: learner.apply(state, x).prediction)(queries)


METRIC = {
    "prototypical": lambda: Prototypical(embed(), 3, 3),
    "matching": lambda: Matching(embed(), 3, capacity=6, classes=3),
}


def test_a_refined_embedding_begins_as_what_it_is_given():
    learner = Prototypical(Refined(4, 8, scale=3.0, key=K[2]), 4, 3)
    plain = Prototypical(lambda x: x, 4, 3)
    said = predict(learner, learned_from(learner))
    np.testing.assert_allclose(said, 9 * predict(plain, learned_from(plain)), rtol=1e-4)
    slope = jax.grad(lambda up: (eqx.tree_at(lambda net: net.up, learner.embed, up)(X[0]) ** 2).sum())(learner.embed.up)
    assert jnp.abs(slope).max() > 0  # and can leave it


@pytest.mark.parametrize("name", METRIC)
def test_the_order_of_the_support_set_does_not_matter(name):
    learner = METRIC[name]()
    order = jnp.array([5, 2, 0, 3, 1, 4])
    np.testing.assert_allclose(
        predict(learner, learned_from(learner)),
        predict(learner, learned_from(learner, X[order], Y[order])),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", METRIC)
def test_renaming_the_classes_renames_the_prediction(name):
    learner = METRIC[name]()
    renamed = jnp.array([2, 0, 1])
    before, after = (predict(learner, learned_from(learner, y=y)) for y in (Y, renamed[Y]))
    np.testing.assert_allclose(before, after[:, renamed], rtol=1e-5, atol=1e-6)


def test_prototypes_are_class_means_and_logits_their_squared_distances():
    learner = Prototypical(embed(), 3, 4)
    state = learned_from(learner)
    embedded = np.asarray(over_axes(embed())(X))
    means = np.stack([embedded[np.asarray(Y) == c].mean(0) for c in range(3)])
    queries = np.asarray(over_axes(embed())(Q))
    expected = -((queries[:, None] - means[None]) ** 2).sum(-1)
    found = predict(learner, state)
    np.testing.assert_allclose(found[:, :3], expected, rtol=1e-4, atol=1e-5)
    assert (found[:, 3] < -1e8).all()  # a class without examples is never chosen


def test_one_shot_prototypes_by_squared_distance_are_a_linear_classifier():
    """−‖x − c‖² = 2c·x − ‖c‖² − ‖x‖², so with the identity it is W = 2c, b = −‖c‖² up to what classes share."""
    learner = Prototypical(lambda x: x, 4, 3)
    said = predict(learner, learned_from(learner, X[:3], Y[:3]))
    linear = 2 * Q @ X[:3].T - (X[:3] ** 2).sum(1)
    np.testing.assert_allclose(said - said[:, :1], linear - linear[:, :1], rtol=1e-4, atol=1e-4)


def test_matching_is_a_softmax_over_cosines():
    learner = Matching(embed(), 3, capacity=9, classes=3, sharpness=4.0)
    s, q = (np.asarray(over_axes(embed())(x)) for x in (X, Q))
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    a = np.exp(4.0 * unit(q) @ unit(s).T)
    a /= a.sum(1, keepdims=True)
    expected = a @ np.eye(3)[np.asarray(Y)]
    np.testing.assert_allclose(np.exp(predict(learner, learned_from(learner))), expected, rtol=1e-3, atol=1e-5)


def test_matching_predicts_targets_where_labels_are_vectors():
    learner = Matching(embed(), 3, capacity=6, outputs=2, sharpness=5000.0)
    targets = jax.random.normal(K[5], (6, 2))
    state = learned_from(learner, y=targets)
    np.testing.assert_allclose(predict(learner, state, X), targets, atol=2e-2)  # so sharp that each finds itself


def test_matching_remembers_the_last_examples_and_refuses_too_many_at_once():
    learner = Matching(embed(), 3, capacity=4, classes=3)
    key = K[4]
    state = learner.init(key=key)
    for cut in (slice(0, 3), slice(3, 6)):
        state = learner.adapt(state, Labelled(X[cut], Y[cut]), key=key)
    np.testing.assert_allclose(
        predict(learner, state), predict(learner, learned_from(learner, X[2:], Y[2:])), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="6 examples at once do not fit into a memory of capacity=4"):
        learned_from(learner)


def test_full_context_lets_examples_change_each_other():
    context = FullContext(3, key=K[6], steps=2)
    learner = Matching(embed(), 3, capacity=6, classes=3, context=context)
    support = over_axes(embed())(X)
    known = jnp.arange(6) < 4
    g = context.of_support(support, known)
    np.testing.assert_allclose(g, context.of_support(support.at[4:].set(7.0), known).at[4:].set(g[4:]), rtol=1e-5)
    assert (jnp.abs(g[0] - context.of_support(support.at[3].set(7.0), known)[0]) > 1e-6).any()
    f = context.of_query(support[0], g, known)
    hidden, cell, read = jnp.zeros(3), jnp.zeros(3), jnp.zeros(3)
    for _ in range(2):  # the paper's equations (3) to (6), in its order
        out, cell = context.reader(jnp.concatenate([support[0], read]), (hidden, cell))
        hidden = out + support[0]
        a = jax.nn.softmax(g[:4] @ hidden)
        read = a @ g[:4]
    np.testing.assert_allclose(f, hidden, rtol=1e-5)
    assert np.isfinite(predict(learner, learned_from(learner))).all()


ON_IMAGES = {
    "prototypical": lambda net: Prototypical(net, net.features, 2),
    "matching": lambda net: Matching(net, net.features, capacity=4, classes=2),
    "maml": lambda net: Gradient(
        Predictor(Chain([net, Linear(net.features, 2, key=K[2])])), Supervised(cross_entropy), SGD(0.1)
    ),
    "cavia": lambda net: Gradient(Modulated(net, 2, 3, key=K[2]), Supervised(cross_entropy), SGD(1.0), fast=context),
}


@pytest.mark.parametrize("normalise", ["layer", "support", "transductive"])
@pytest.mark.parametrize("name", ON_IMAGES)
def test_other_queries_change_a_prediction_only_where_that_was_asked_for(name, normalise):
    """And the order of the support set never does."""
    # Of 2x2 places after the last pooling: deviations of a few numbers alone would magnify what rounding leaves.
    learner = ON_IMAGES[name](Conv4((32, 32, 1), key=K[0], filters=4, normalise=normalise))
    images, y = jax.random.normal(K[1], (8, 32, 32, 1)), jnp.array([0, 1, 0, 1])
    state = learned_from(learner, images[:4], y)
    one, other = predict(learner, state, images[4:6]), predict(learner, state, images[4:].at[1].set(0.0)[:2])
    assert np.allclose(one[0], other[0], rtol=1e-4, atol=1e-5) == (normalise != "transductive")
    order = jnp.array([2, 1, 3, 0])
    shuffled = predict(learner, learned_from(learner, images[:4][order], y[order]), images[4:6])
    np.testing.assert_allclose(shuffled, one, rtol=1e-3, atol=1e-4)


# --- learned updates ----------------------------------------------------------------------------------------------


def regression(update, steps=3, **choices):
    start = Predictor(MLP((4, 5, 1), key=K[2], activation=jnp.tanh))
    return Gradient(start, Supervised(), update, steps=steps, **choices)


TARGETS = jax.random.normal(K[5], (6, 1))


def test_statistics_that_nobody_would_keep_are_refused():
    """Else a query would be normalised by the other queries, in a mode that is called honest."""
    from quickstudy.learners.memory.attention import Attention
    from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction, Recurrent
    from quickstudy.learners.metric.meta_networks import Compressed, MetaNetworks
    from quickstudy.nn.cells import GRU
    from quickstudy.nn.statistics import compute_support_stats

    key = jax.random.key(0)

    def makers(normalise):
        net = Conv4((16, 16, 1), key=key, filters=8, normalise=normalise)
        small = Compressed(net, Linear(net.features, 4, key=key))
        yield lambda: Attention(
            net, net.features, Prediction(4, 2, key=key), LabelFeedback(2), key=key, capacity=3, width=4
        )
        yield lambda: MetaNetworks(small, 4, 2, key=key, capacity=3)
        yield lambda: Recurrent(GRU(6, 4, key=key), Prediction(4, 2, key=key), LabelFeedback(2), Chain([net]))
        yield lambda: compute_support_stats(small, jnp.zeros((2, 16, 16, 1)))

    for make in makers("support"):
        with pytest.raises(Incompatible, match="use 'layer' or 'group'"):
            make()
    for make in makers("layer"):
        make()


def test_a_label_without_a_class_and_a_broken_prediction_are_not_finite():
    logits = jnp.array([1.0, 2.0, 0.5])
    for measure in (cross_entropy, accuracy):
        assert jnp.isfinite(measure(logits, jnp.asarray(2)))
        assert jnp.isnan(measure(logits, jnp.asarray(3))) and jnp.isnan(measure(logits, jnp.asarray(-1)))
        assert jnp.isnan(measure(logits.at[1].set(jnp.nan), jnp.asarray(0)))


def test_meta_lstm_with_its_gates_pinned_is_sgd():
    update = MetaLSTM(6, key=K[6], rate=0.1)
    silent = lambda gate, bias: (jnp.zeros_like(gate.weight), jnp.array([bias]))
    pinned = eqx.tree_at(
        lambda u: (u.input_gate.weight, u.input_gate.bias, u.forget_gate.weight, u.forget_gate.bias),
        update,
        (*silent(update.input_gate, jnp.log(0.1 / 0.9)), *silent(update.forget_gate, 40.0)),  # σ(40) is 1 in float32
    )
    ours = learned_from(regression(pinned), y=TARGETS).weights
    theirs = learned_from(regression(SGD(0.1)), y=TARGETS).weights
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_one_step_of_meta_lstm_by_hand():
    update = MetaLSTM(4, key=K[6])
    theta, gradient, loss = jnp.array([0.7]), jnp.array([-2e-3]), jnp.array(0.5)
    moved, memory = update.step(theta, gradient, loss, update.init(theta))
    seen = jnp.array([np.log(2e-3) / 10, -1.0, np.log(0.5) / 10, 1.0])
    h, _ = update.cell(seen, (jnp.zeros(4), jnp.zeros(4)))
    gate = lambda linear: jax.nn.sigmoid(linear.weight @ jnp.concatenate([h, theta, jnp.zeros(1)]) + linear.bias)
    i, f = gate(update.input_gate), gate(update.forget_gate)
    np.testing.assert_allclose(moved, f * theta - i * gradient, rtol=1e-5)
    np.testing.assert_allclose(memory.gates[0], jnp.concatenate([i, f]), rtol=1e-5)


def test_gradients_enter_by_logarithm_and_sign():
    told = log_and_sign(jnp.array([1.0, -1e-3, 1e-8, 0.0]))
    expected = [[0.0, 1.0], [np.log(1e-3) / 10, -1.0], [-1.0, np.exp(10) * 1e-8], [-1.0, 0.0]]
    np.testing.assert_allclose(told, expected, rtol=1e-5, atol=1e-7)
    assert jnp.isfinite(jax.jacobian(log_and_sign)(jnp.zeros(2))).all()


def test_a_learned_optimiser_starts_anywhere_and_learns_to_descend():
    draw = lambda key: Predictor(MLP((1, 6, 1), key=key, activation=jnp.tanh))
    learner = FromScratch(draw, Supervised(), LSTMOptimizer(4, key=K[6], scale=0.1), steps=5)
    a, b = (learner.init(key=k).weights for k in K[:2])
    assert not np.allclose(a.net.layers[0].weight, b.net.layers[0].weight)
    x = jnp.linspace(-1, 1, 8)[:, None]
    loss = lambda learner, key: (
        (predict(learner, _after(learner, x, jnp.sin(2 * x), key), x) - jnp.sin(2 * x)) ** 2
    ).mean()
    mean = lambda learner: jax.vmap(lambda k: loss(learner, k))(jax.random.split(K[7], 8)).mean()
    step = eqx.filter_jit(eqx.filter_value_and_grad(mean))
    optimizer = optax.adam(3e-2)
    memory, first = optimizer.init(eqx.filter(learner, eqx.is_inexact_array)), None
    for _ in range(40):
        value, gradient = step(learner)
        first = value if first is None else first
        moves, memory = optimizer.update(gradient, memory)
        learner = eqx.apply_updates(learner, moves)
    assert step(learner)[0] < 0.5 * first


def _after(learner, x, y, key):
    return learner.adapt(learner.init(key=key), Labelled(x, y), key=key)


def test_from_scratch_with_adam_is_adam():
    draw = lambda key: Predictor(MLP((4, 5, 1), key=key))
    learner = FromScratch(draw, Supervised(), Optax(optax.adam(0.1)), steps=2)
    state = learned_from(learner, y=TARGETS)
    model, solver = draw(K[3]), optax.adam(0.1)
    loss = lambda model: ((over_axes(lambda x: model(x).prediction)(X) - TARGETS) ** 2).mean()
    memory = solver.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(2):
        moves, memory = solver.update(eqx.filter_grad(loss)(model), memory)
        model = eqx.apply_updates(model, moves)
    np.testing.assert_allclose(state.weights.net.layers[0].weight, model.net.layers[0].weight, rtol=1e-5)


def test_logistic_regression_is_at_its_optimum():
    learner = LogisticRegression(4, 3, capacity=6, penalty=0.1)
    state = learned_from(learner)

    def loss(weight, bias):
        each = jax.vmap(lambda x, y: cross_entropy(weight @ (x - state.centre) + bias, y))(X, Y)
        return each.mean() + 0.05 * (weight**2).sum()

    for g in jax.grad(loss, (0, 1))(state.weight, state.bias):
        np.testing.assert_allclose(g, 0.0, atol=1e-4)


def test_a_logistic_regression_that_did_not_converge_says_so():
    assert jnp.isnan(learned_from(LogisticRegression(4, 3, capacity=6, penalty=0.1, iterations=1)).weight).all()


def test_positive_sharpness_is_learned():
    assert float(Matching(embed(), 3, capacity=2, classes=3).sharpness.value) == pytest.approx(10.0)
    assert isinstance(Matching(embed(), 3, capacity=2, classes=3).sharpness, Positive)
