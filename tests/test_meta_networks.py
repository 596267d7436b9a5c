"""Meta Networks and the task memory: hand-computed parts, and what they must be equal to."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.data.batches import FewShotTask, Labelled
from quickstudy.learners.gradient.inner_losses import Supervised
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.learners.gradient.task_memory import OfInputs, OfPairs, TaskMemory, empty_memory
from quickstudy.learners.gradient.updates import SGD
from quickstudy.learners.metric.meta_networks import SMALLEST, MetaNetworks, augmented
from quickstudy.learners.replay import along
from quickstudy.nn.attention import attend
from quickstudy.nn.gradients import log_and_sign
from quickstudy.nn.measures import cross_entropy
from quickstudy.nn.models import MLP, head
from quickstudy.objectives.few_shot import query_mean
from quickstudy.parameters import combine, partition
from registry import K, gradient, predictor

preprocess = lambda g: log_and_sign(g, SMALLEST)
close = lambda a, b, **tolerance: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


def classifier(**choices) -> MetaNetworks:
    embed = MLP((3, 8, 6), key=K, activation=jnp.tanh)
    return MetaNetworks(embed, 6, 3, key=K, loss=cross_entropy, **{"capacity": 6, "width": 5, "units": 4, **choices})


def classes(num: int = 6) -> Labelled:
    return Labelled(jax.random.normal(K, (num, 3)), jnp.arange(num) % 3)


def absorbed(learner, *segments):
    state = learner.init(key=K)
    for segment in segments:
        state = learner.adapt(state, segment, key=K)
    return state


def part(examples, cut):
    return jax.tree.map(lambda a: a[cut], examples)


def test_gradients_enter_by_size_and_sign():
    e = float(np.exp(-7))
    g = jnp.asarray([1.0, -1.0, -float(np.exp(-3.5)), e / 2, -e / 4, 0.0])
    close(preprocess(g), [[0, 1], [0, -1], [-0.5, -1], [-1, 0.5], [-1, -0.25], [-1, 0]])
    slope = jax.vmap(jax.jacobian(preprocess))(g)
    close(slope[:, 0], [1 / 7, -1 / 7, -np.exp(3.5) / 7, 0, 0, 0])
    close(slope[:, 1], [0, 0, 0, 1 / e, 1 / e, 1 / e], rtol=1e-4)


def test_an_augmented_layer_is_the_sum_of_both_paths():
    slow, first, second = (MLP((2, 3, 2), key=k) for k in jax.random.split(K, 3))
    fast = jax.tree.map(lambda *w: jnp.stack(w), first, second)
    mix, x = jnp.asarray([0.3, 0.7]), jnp.asarray([0.5, -2.0])
    (w1, b1), (w2, b2) = (jax.tree.leaves(layer) for layer in slow.layers)
    blend = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, first, second)
    (f1, c1), (f2, c2) = (jax.tree.leaves(layer) for layer in blend.layers)
    h = jnp.maximum(w1 @ x + b1, 0) + jnp.maximum(f1 @ x + c1, 0)
    close(augmented(slow, fast, mix, x), (w2 + f2) @ h + b2 + c2)


def test_without_fast_weights_it_is_the_slow_network():
    learner, x = classifier(), jnp.ones(3)
    slow = learner.base(learner.embed(x))
    close(learner.apply(learner.init(key=K), x).prediction, slow)
    state = absorbed(learner, classes())
    assert not np.allclose(learner.apply(state, x).prediction, slow, atol=1e-3)
    forgotten = eqx.tree_at(lambda s: s.ring.items.fast, state, jnp.zeros_like(state.ring.items.fast))
    close(learner.apply(forgotten, x).prediction, slow)


def test_attention_is_a_softmax_of_cosines_over_what_is_known():
    keys = jnp.asarray([[2.0, 0.0], [0.0, 0.1], [5.0, 5.0]])
    known = jnp.asarray([True, True, False])
    weights = np.exp([3.0, 0.0]) / np.exp([3.0, 0.0]).sum()
    close(attend(jnp.asarray([7.0, 0.0]), keys, jnp.asarray(3.0), known), [*weights, 0.0])
    close(attend(jnp.asarray([7.0, 0.0]), keys, jnp.asarray(3.0), ~known), [0.0, 0.0, 1.0])
    close(attend(jnp.asarray([7.0, 0.0]), keys, jnp.asarray(3.0), jnp.zeros(3, bool)), [0.0, 0.0, 0.0])


def test_one_example_gives_exactly_its_own_fast_weights():
    learner, one = classifier(), part(classes(), slice(0, 1))
    state, x = absorbed(learner, one), jnp.asarray([0.1, -0.4, 2.0])
    h = learner.embed(one.x[0])
    g = jax.grad(lambda base: cross_entropy(base(h), one.y[0]))(learner.base)
    write = lambda w: jax.vmap(learner.of_example)(preprocess(w.reshape(-1)))[:, 0].reshape(1, *w.shape)
    by_hand = augmented(learner.base, jax.tree.map(write, g), jnp.ones(1), learner.embed(x))
    close(learner.apply(state, x).prediction, by_hand)


def test_the_representation_moves_by_its_own_gradient():
    learner, support = classifier(), classes()
    state, h = absorbed(learner, support), jnp.arange(6.0)

    def loss(represent):
        told = [learner.readout(represent(learner.embed(x))) for x in support.x]
        return jnp.mean(jnp.stack([cross_entropy(t, y) for t, y in zip(told, support.y, strict=True)]))

    def write(g):
        seen = preprocess(g.reshape(-1))
        hidden = jax.vmap(lambda row: learner.of_task.cell(row, (jnp.zeros(4), jnp.zeros(4)))[0])(seen)
        return (hidden @ learner.of_task.out.weight[0]).reshape(1, *g.shape)

    fast = jax.tree.map(write, jax.grad(loss)(learner.represent))
    by_hand = augmented(learner.represent, fast, jnp.ones(1), h)
    close(learner.representation(state, h), by_hand)
    assert not np.allclose(by_hand, learner.represent(h), atol=1e-4)


def test_the_order_within_a_segment_does_not_matter():
    learner, support, queries = classifier(), classes(), classes(4)
    shuffled = part(support, jnp.asarray([4, 2, 0, 5, 1, 3]))
    said = [along(learner, absorbed(learner, s), queries).prediction for s in (support, shuffled)]
    close(*said)


def test_other_queries_change_no_prediction():
    learner, queries = classifier(), classes(4)
    state = absorbed(learner, classes())
    together = along(learner, state, queries).prediction
    for x, said in zip(queries.x, together, strict=True):
        close(learner.apply(state, x).prediction, said)


def test_segments_append_and_the_oldest_are_overwritten():
    learner, examples = classifier(capacity=4), classes()
    first, second, third = (part(examples, slice(i, i + 2)) for i in (0, 2, 4))
    state = absorbed(learner, first, second, third)
    assert state.ring.count == 6
    close(state.ring.items.features, jax.vmap(learner.embed)(jnp.concatenate([third.x, second.x])))
    with pytest.raises(ValueError, match="capacity=4"):
        absorbed(learner, examples)
    with pytest.raises(ValueError, match="at least 1"):
        classifier(capacity=0).init(key=K)


# --- Task memory ---------------------------------------------------------------------------------------------------


def task(num: int = 4) -> FewShotTask:
    x = jax.random.uniform(K, (2, num, 1), minval=-3, maxval=3)
    return FewShotTask(Labelled(x[0], jnp.sin(x[0])), Labelled(x[1], jnp.sin(x[1])))


def memory(within, slots=3, **choices) -> TaskMemory:
    e = OfPairs(MLP((2, 6, 2), key=K, activation=jnp.tanh))
    return empty_memory(within, e, 2, key=K, slots=slots, **{"scale": 0.1, **choices})


@pytest.mark.parametrize("slots", [1, 3])
def test_slots_that_agree_are_maml_from_the_corrected_start(slots):
    within = gradient(steps=2)
    value = jax.tree.map(lambda w: 0.1 * jnp.cos(jnp.arange(w.size)).reshape(w.shape), within.split()[0])
    same = jax.tree.map(lambda v: jnp.broadcast_to(v, (slots, *v.shape)), value)
    learner = eqx.tree_at(lambda m: m.values, memory(within, slots), same)
    add = lambda w, v: w if v is None else w + v
    start = jax.tree.map(add, within.start, value, is_leaf=lambda leaf: leaf is None)
    maml = eqx.tree_at(lambda m: m.start, within, start)
    for segments in ([], [task().support], [task().support, task().query]):
        ours, theirs = absorbed(learner, *segments), absorbed(maml, *segments)
        close(along(learner, ours, task(5).query).prediction, along(maml, theirs, task(5).query).prediction)


def test_one_slot_of_zero_is_maml():
    within = gradient(fast=head)
    learner = memory(within, 1, scale=0.0)
    ours, theirs = absorbed(learner, task().support), absorbed(within, task().support)
    np.testing.assert_array_equal(
        along(learner, ours, task().query).prediction, along(within, theirs, task().query).prediction
    )


def test_a_slot_is_written_as_far_as_it_was_attended_to():
    within = gradient(steps=2, fast=head)
    learner, episode = memory(within), task()
    loss = lambda p, y: ((p - y) ** 2).mean()
    learned, rest = partition(learner)
    written = jax.grad(lambda learned: query_mean(loss, combine(learned, rest), episode, K))(learned).values
    # θ enters through φ_0 alone where it is fast, so its gradient is that by φ_0 and is found without any memory.
    c = jnp.stack([learner.embed(x, y) for x, y in zip(episode.support.x, episode.support.y, strict=True)]).mean(0)
    cosine = (learner.keys @ c) / (jnp.linalg.norm(learner.keys, axis=1) * jnp.linalg.norm(c))
    a = jax.nn.softmax(5.0 * cosine)
    start = jax.tree.map(lambda w, v: w + jnp.tensordot(a, v, 1), within.split()[0], learner.values)

    def after(start):
        state = within.adapt(eqx.tree_at(lambda s: s.weights, within.init(key=K), start), episode.support, key=K)
        return jax.vmap(loss)(along(within, state, episode.query).prediction, episode.query.y).mean()

    wanted = jax.grad(after)(start)
    assert len(jax.tree.leaves(wanted)) == 2
    for slot, whole in zip(jax.tree.leaves(written), jax.tree.leaves(wanted), strict=True):
        close(slot, a.reshape(-1, *[1] * whole.ndim) * whole)


def test_later_segments_attend_by_all_examples():
    still = Gradient(predictor(), Supervised(), SGD(0.05), steps=0)  # no descent: the weights are the chosen start
    learner, episode = memory(still), task()
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), episode.support, episode.query)
    once, twice = absorbed(learner, both), absorbed(learner, episode.support, episode.query)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        close(a, b)


def test_another_number_of_steps_is_that_of_what_adapts_within():
    few, many, support = memory(gradient(steps=1)), memory(gradient(steps=3)), task().support
    more = few.with_inner_steps(3)
    said = [absorbed(learner, support).adapted.weights for learner in (few, more, many)]
    few, more, many = (jax.tree.leaves(weights)[0] for weights in said)
    np.testing.assert_array_equal(more, many)
    assert not np.allclose(few, more)


def test_labels_without_meaning_are_not_looked_at():
    e = OfInputs(MLP((3, 4), key=K))
    close(e(jnp.ones(3), jnp.asarray(0)), e(jnp.ones(3), jnp.asarray(2)))
    with pytest.raises(ValueError, match="slots"):
        memory(gradient(), slots=0)
