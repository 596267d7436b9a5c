"""Learners that remember: MANN's addressing by hand, attention without order, streams counted by hand."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import per_task
from quickstudy.data.batches import Labelled
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.run import evaluate
from quickstudy.learners.memory.attention import Attention
from quickstudy.learners.memory.mann import EMPTY, LRUAMemory, Memory, access, empty, least_used
from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction, Recurrent
from quickstudy.learners.metric.prototypical import Prototypical
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.cells import LSTM
from quickstudy.nn.images import Conv4
from quickstudy.nn.layers import GRUCell, Linear, LSTMCell
from quickstudy.nn.measures import accuracy, cross_entropy
from quickstudy.objectives.online import Online, Streamed
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import meta_parameters
from quickstudy.recipes import recipe_of
from quickstudy.tasks.classes import from_arrays

K = jax.random.key(3)
IDENTITY = eqx.nn.Identity()


def close(a, b, rtol=2e-5, atol=1e-5):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def labelled(steps, ways=3, dims=4):
    x, y = jax.random.split(K)
    return Labelled(jax.random.normal(x, (steps, dims)), jax.random.randint(y, (steps,), 0, ways))


def single(stream):
    return jax.tree.map(lambda leaf: leaf[:, None], stream)


# MANN: three slots of two numbers, one head, τ = ln 3, so that a slot counts 3^cosine; γ = 1/2.


def table() -> Memory:
    return Memory(
        slots=jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        reading=jnp.array([[1.0, 0.0, 0.0]]),
        usage=jnp.array([0.5, 0.2, 0.9]),
        read=jnp.zeros((1, 2)),
    )


def step(memory, key, again):
    tau = jnp.log(jnp.array([3.0]))
    return access(memory, jnp.array([key]), jnp.array([again]), sharpness=tau, decay=0.5)


def test_the_first_step_of_the_memory_is_the_one_by_hand():
    memory = step(table(), [2.0, 0.0], 0.25)
    close(memory.reading, [[3 / 5, 1 / 5, 1 / 5]])  # cosines 1, 0, 0
    close(memory.read, [[0.6, 0.4]])
    # The second slot is least used, so it is emptied; written is 1/4 where was read last and 3/4 there.
    close(memory.slots, [[1 + 0.25 * 2, 0], [0.75 * 2, 0], [0, 1]])
    # half of 0.5, 0.2, 0.9, and what was read, and what was written: 1/4, 3/4, 0
    close(memory.usage, [0.25 + 0.6 + 0.25, 0.1 + 0.2 + 0.75, 0.45 + 0.2])


def test_the_second_step_goes_on_from_what_was_read_and_used():
    memory = step(step(table(), [2.0, 0.0], 0.25), [0.0, 4.0], 0.5)
    close(memory.reading, [[1 / 5, 1 / 5, 3 / 5]])  # cosines 0, 0, 1
    close(memory.read, [[0.2 * 1.5 + 0.2 * 1.5, 0.6]])
    # Usages 1.1, 1.05, 0.65: the third slot. Written: half of (0.6, 0.2, 0.2), and half of it there: 0.3, 0.1, 0.6.
    close(memory.slots, [[1.5, 1.2], [1.5, 0.4], [0, 2.4]])
    close(memory.usage, [0.55 + 0.2 + 0.3, 0.525 + 0.2 + 0.1, 0.325 + 0.6 + 0.6])


def test_each_head_takes_a_slot_of_its_own_the_first_of_equals():
    np.testing.assert_array_equal(least_used(jnp.array([0.3, 0.1, 0.2, 0.1]), 3), jnp.eye(4)[jnp.array([1, 3, 2])])
    np.testing.assert_array_equal(least_used(jnp.zeros(4), 2), jnp.eye(4)[:2])


def test_a_memory_that_never_writes_where_it_read_fills_slot_after_slot():
    memory, keys = empty(slots=3, width=3, heads=1), jnp.eye(3)
    for key in keys:
        memory = access(memory, key[None], jnp.zeros(1), sharpness=jnp.full(1, 50.0), decay=0.9)
    close(memory.slots, keys)
    # the slot of the first key is by then the least used one, and makes room
    memory = access(memory, -keys[:1], jnp.zeros(1), sharpness=jnp.full(1, 50.0), decay=0.9)
    close(memory.slots, keys.at[0].multiply(-1))


def test_the_memory_begins_small_and_alike():
    start = LRUAMemory(3, 5, key=K, slots=4, width=2, heads=2).initial().memory
    np.testing.assert_array_equal(start.slots, np.full((4, 2), EMPTY, np.float32))
    assert not start.reading.any() and not start.usage.any()


def test_the_memory_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="heads=5"):
        LRUAMemory(3, 5, key=K, slots=4, heads=5)
    with pytest.raises(ValueError, match="decay"):
        LRUAMemory(3, 5, key=K, decay=1.0)


# Recurrent with an encoder.


def remembering(cell, features, inputs, encode=IDENTITY, ways=3):
    return Recurrent(cell, Prediction(features, ways, key=K), LabelFeedback(ways), encode)


def said(learner, stream, how=None):
    replay = how or (lambda learner, *trajectory, key: learner.replay(*trajectory, key=key))
    keys = jax.random.split(K, len(stream.y))
    return replay(learner, learner.init(key=K), single(stream), key=keys).prediction[:, 0]


@pytest.mark.parametrize(
    ("ours", "theirs", "hidden"),
    [
        (Linear, eqx.nn.Linear, None),
        (GRUCell, eqx.nn.GRUCell, jnp.linspace(-1, 1, 4)),
        (LSTMCell, eqx.nn.LSTMCell, (jnp.linspace(-1, 1, 4), jnp.linspace(2, -2, 4))),
    ],
)
def test_layers_say_what_those_of_equinox_say(ours, theirs, hidden):
    x, key = jnp.array([0.3, -1.0, 2.0]), jax.random.key(5)
    given = (x,) if hidden is None else (x, hidden)
    said, wanted = ours(3, 4, key=key)(*given), theirs(3, 4, key=key)(*given)
    assert jax.tree.structure(said) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), said, wanted)


def test_an_encoder_comes_before_the_cell():
    stream, encode = labelled(6), lambda x: jnp.tanh(2 * x[:2])
    with_it = remembering(LSTM(5, 8, key=K), 8, 5, encode)
    without = remembering(LSTM(5, 8, key=K), 8, 5)
    encoded = dataclasses.replace(stream, x=over_axes(encode)(stream.x))
    close(said(with_it, stream), said(without, encoded))
    close(said(with_it, stream, scan_replay), said(without, encoded))


@pytest.mark.parametrize("seed", range(5))
def test_an_lstm_begins_as_an_associative_memory(seed):
    size, given = 512, jnp.array([2, 0, 1])
    of_cell, of_inputs = jax.random.split(jax.random.key(seed))
    xs, noise = jax.random.normal(of_inputs, (2, 3, 20))
    cell = LSTM(23, size, key=of_cell, labels=3)
    labels = jnp.linalg.pinv(cell.cell.weight_ih[-3:, 2 * size : 3 * size])  # units to labels
    seen = lambda x, label: jnp.concatenate([x, label])

    def shown(hidden, xs):
        read = jnp.stack([cell.features(cell(hidden, seen(x, jnp.zeros(3)))) for x in xs]) @ labels
        return read - read.mean(0)  # all gates are open by half, to whatever comes

    hidden = cell.initial()
    assert not shown(hidden, xs).any()
    for x, label in zip(xs, given, strict=True):
        hidden = cell(hidden, seen(x, jax.nn.one_hot(label, 3)))
    np.testing.assert_array_equal(shown(hidden, xs + 0.3 * noise).argmax(1), given)


def test_an_lstm_without_labels_begins_with_orthogonal_weights():
    for gate in LSTM(23, 8, key=K).cell.weight_hh.reshape(8, 4, 8).swapaxes(0, 1):
        np.testing.assert_allclose(gate @ gate.T, jnp.eye(8), atol=1e-5)
    with pytest.raises(ValueError, match="of 3 inputs 3 cannot be labels"):
        LSTM(3, 8, key=K, labels=3)


def test_without_an_encoder_a_recurrent_learner_has_the_leaves_it_always_had():
    learner = Recurrent(LSTM(5, 8, key=K), Prediction(8, 3, key=K), LabelFeedback(3))
    assert {path.split(".")[0] for path in meta_parameters(learner)} == {"cell", "heads"}
    assert len(jax.tree.leaves(learner)) == len(meta_parameters(learner))


def test_an_encoder_of_images_is_learned():
    encode = Conv4((16, 16, 1), key=K, filters=8)
    cell = LRUAMemory(encode.features + 3, 8, key=K, slots=4, width=3, heads=2)
    learner = remembering(cell, cell.size, encode.features + 3, encode)
    stream = Labelled(jax.random.bernoulli(K, 0.2, (5, 16, 16, 1)).astype(jnp.uint8), jnp.array([0, 1, 0, 2, 1]))
    close(said(learner, stream), said(learner, stream, scan_replay), rtol=1e-4)
    gradient = eqx.filter_grad(lambda l: (said(l, stream) ** 2).sum())(learner)
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(gradient.encode))


# Attention.


def attending(capacity=8, **choices) -> Attention:
    said, options = Prediction(8, 3, key=K), {"width": 8, "blocks": 3, "attention_heads": 2, **choices}
    return Attention(IDENTITY, 4, said, LabelFeedback(3), key=K, capacity=capacity, **options)


def answer(learner, support, query):
    return learner.apply(learner.adapt(learner.init(key=K), support, key=K), query).prediction


def test_the_order_of_the_examples_does_not_matter():
    support, order = labelled(7), jnp.array([3, 0, 6, 2, 5, 1, 4])
    shuffled = jax.tree.map(lambda leaf: leaf[order], support)
    query = jnp.ones(4)
    close(answer(attending(), support, query), answer(attending(), shuffled, query))
    causal = attending(causal=True)
    assert not np.allclose(answer(causal, support, query), answer(causal, shuffled, query), atol=1e-4)


def test_with_likeness_a_query_begins_by_asking_for_what_is_like_it():
    """Another label of the example that is like the query changes the answer, one of an unlike example hardly does."""

    def share(likeness):
        learner = attending(blocks=1, likeness=likeness)
        x = jnp.array([[2.0, -2.0, 2.0, -2.0], [-2.0, 2.0, 2.0, -2.0]])
        of = lambda *y: answer(learner, Labelled(x, jnp.array(y)), x[0])
        like, unlike = (jnp.linalg.norm(of(*y) - of(0, 0)) for y in ((1, 0), (0, 1)))
        return like / (like + unlike)

    assert share(0.0) < 0.8 < 0.95 < share(20.0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("capacity", [4, 20])  # 4: the first examples are overwritten along the stream
def test_one_pass_over_a_stream_is_going_along_it(causal, capacity):
    learner, stream = attending(capacity, causal=causal), labelled(9)
    close(said(learner, stream), said(learner, stream, scan_replay))
    # and so from a state that has seen something
    state, keys = learner.adapt(learner.init(key=K), labelled(3), key=K), jax.random.split(K, 9)
    ours, theirs = (
        replay(state, single(stream), key=keys).prediction
        for replay in (learner.replay, lambda *trajectory, key: scan_replay(learner, *trajectory, key=key))
    )
    close(ours, theirs)


def test_examples_at_once_are_examples_one_by_one():
    for causal in (False, True):
        learner, support = attending(causal=causal), labelled(6)
        state = learner.init(key=K)
        for i in range(6):
            state = learner.adapt(state, jax.tree.map(lambda leaf: leaf[i : i + 1], support), key=K)
        close(learner.apply(state, jnp.ones(4)).prediction, answer(learner, support, jnp.ones(4)))


def test_attention_forgets_the_oldest_and_refuses_too_many_at_once():
    learner, support = attending(capacity=4), labelled(6)
    part = lambda cut: jax.tree.map(lambda leaf: leaf[cut], support)
    state = learner.adapt(learner.init(key=K), part(slice(0, 3)), key=K)
    state = learner.adapt(state, part(slice(3, 6)), key=K)
    close(learner.apply(state, jnp.ones(4)).prediction, answer(learner, part(slice(2, 6)), jnp.ones(4)))
    with pytest.raises(ValueError, match="capacity=4"):
        learner.adapt(state, support, key=K)


def test_a_label_is_given_only_after_its_prediction():
    learner, stream = attending(), labelled(6)
    changed = dataclasses.replace(stream, y=stream.y.at[2].set((stream.y[2] + 1) % 3))
    before, after = said(learner, stream), said(learner, changed)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert not np.allclose(before[3:], after[3:])


# Streams by instance.


def test_instances_are_counted_along_the_stream():
    y = jnp.array([[0, 1, 0, 0, 1, 1], [2, 2, 2, 0, 0, 0]])
    quality = jnp.array([[1.0, 0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]])
    keys = jax.random.split(K, 2)
    batch = Streamed(Labelled(quality, y), keys, jax.random.split(K, (2, 6)), quality)
    close(Online(instances=3).curve(batch), [[0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])
    assert Online().curve(batch).shape == (2, 6)


def streams(ways=2, shots=4):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    y = np.repeat(np.arange(20), 10)
    made = from_arrays(x + 10 * np.eye(3)[y % 3].astype(np.float32), y, ways=ways, shots=shots, queries=1)
    return dataclasses.replace(made, stream=True)


def online(**choices):
    return Online(cross_entropy, accuracy, "accuracy", lower_is_better=False, **choices)


def test_the_points_of_the_curve_are_named_by_instance():
    baseline, held_out = Prototypical(IDENTITY, 3, 2), streams().split().test
    result = evaluate(baseline, online(instances=4), held_out, evaluation=EvaluationConfig(online(), num_tasks=20))
    assert [point["adaptations"] for point in result.curve] == [1, 2, 3, 4]
    assert np.isfinite(result.curves).all()
    along = evaluate(baseline, online(), held_out, evaluation=EvaluationConfig(online(), num_tasks=20))
    assert [point["adaptations"] for point in along.curve] == list(range(8))
    close(result.curves.mean(), along.curves.mean())  # each class appears as often as the other


def test_instances_that_cannot_be_are_refused():
    tasks = streams().batch(jax.random.split(K, 2))
    learner = Prototypical(IDENTITY, 3, 2)
    with pytest.raises(ValueError, match="instances=9"):
        online(instances=9).init(learner, tasks, keys=per_task(tasks, K))
    real = dataclasses.replace(tasks, y=tasks.y.astype(float))
    with pytest.raises(ValueError, match="whole-number"):
        online(instances=2).init(learner, real, keys=per_task(real, K))


def test_recipes_say_what_is_wrong_with_them():
    mann, snail = recipe_of("omniglot-mann"), recipe_of("omniglot-snail")
    assert not mann.errors() and not snail.errors()
    wrong = mann.changed(normalise="transductive", heads=0, usage_decay=1.0).errors()
    for part in ("transductive", "heads", "usage_decay"):
        assert any(part in message for message in wrong), part
    assert any("divide" in message for message in snail.changed(heads=3, width=32).errors())
    assert "training_ways" not in mann.values() and "queries" not in mann.values()  # a stream has neither
