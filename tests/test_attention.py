"""Attention in blocks against the plain one, with its gradients; what is never computed or stored."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.data.batches import Labelled
from quickstudy.learners.memory.attention import Attention
from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction
from quickstudy.nn import attention
from quickstudy.nn.attention import Memory, causal_attention, fused_attention
from quickstudy.parallel.platform import program_for

K = jax.random.split(jax.random.key(2), 8)
HEADS, SIZE = 2, 8


def plain(query, at, key, value, memories, *, capacity):
    """One softmax over everything at once."""
    keys, values = (jnp.concatenate([own, *(m[i] for m in memories)]) for i, own in enumerate((key, value)))
    mask = np.eye(len(query), dtype=bool)
    for memory in memories:
        number = np.asarray(memory.number)[None]
        before = np.asarray(at)[:, None]
        mask = np.concatenate([mask, (number >= 0) & (number < before) & (number >= before - capacity)], 1)
    logits = jnp.einsum("ihd,jhd->hij", query, keys) / np.sqrt(SIZE)
    return jnp.einsum("hij,jhd->ihd", jax.nn.softmax(jnp.where(mask, logits, -1e30), -1), values)


def example(queries, filled, capacity):
    """A stream of `queries` after `filled` examples, of which a ring of `capacity` holds the last."""
    draw = lambda key, rows: jax.random.normal(key, (rows, HEADS, SIZE))
    last = filled - 1
    number = last - (last - jnp.arange(capacity)) % capacity
    ring = Memory(draw(K[0], capacity), draw(K[1], capacity), number, True)
    at = filled + jnp.arange(queries)
    new = Memory(draw(K[2], queries), draw(K[3], queries), at)
    return draw(K[4], queries), at, draw(K[5], queries), draw(K[6], queries), [ring, new]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("blocks", [(256, 2**16), (4, 12), (3, 1)])
@pytest.mark.parametrize(("filled", "capacity"), [(0, 20), (7, 20), (25, 9)])
def test_blocks_say_what_one_softmax_says(monkeypatch, platform, blocks, filled, capacity):
    monkeypatch.setattr(attention, "QUERIES", blocks[0])
    monkeypatch.setattr(attention, "LOGITS", blocks[1])
    query, at, key, value, (ring, new) = example(13, filled, capacity)
    given = query, key, value, ring[:2], new[:2]

    def of(f):
        def loss(given):
            query, key, value, old, own = given
            memories = [Memory(*old, ring.number, True), Memory(*own, new.number)]
            out = f(query, at, key, value, memories, capacity=capacity)
            return (out * jnp.arange(out.size).reshape(out.shape)).sum(), out

        return jax.value_and_grad(loss, has_aux=True)(given)

    with program_for(platform):
        (_, ours), gradient = of(causal_attention)
    (_, theirs), expected = of(plain)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    for a, b in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-4)


def test_the_fused_kernel_is_given_the_same_mask():
    query, at, key, value, memories = example(13, 25, 9)
    fused = fused_attention(query, at, key, value, memories, capacity=9, implementation="xla")
    np.testing.assert_allclose(fused, plain(query, at, key, value, memories, capacity=9), atol=1e-5)


def test_half_precision_adds_up_in_single_precision():
    query, at, key, value, memories = example(40, 7, 20)
    half = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
    low = [Memory(half(m.key), half(m.value), m.number) for m in memories]
    ours = causal_attention(half(query), at, half(key), half(value), low, capacity=20)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(float), plain(query, at, key, value, memories, capacity=20), atol=0.05)


def learner(capacity, causal=False):
    return Attention(
        eqx.nn.Identity(), 3, Prediction(8, 2, key=K[0]), LabelFeedback(2), key=K[1], capacity=capacity, width=8,
        attention_heads=2, causal=causal,
    )  # fmt: skip


def stream(num, tasks):
    return Labelled(jnp.ones((tasks, num, 1, 3)), jnp.zeros((tasks, num, 1), int))


def equations(jaxpr, branch=None):
    """All equations of a program, those of inner ones too, and the branch of a condition they are in."""
    for equation in jaxpr.eqns:
        yield equation, branch
        inside = equation if equation.primitive.name == "cond" and branch is None else branch
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner), inside)


def gradient_of_a_replay(learner, num, tasks, state=None):
    def loss(learner):
        def of_one(stream):
            start = learner.init(key=K[2]) if state is None else state
            return (learner.replay(start, stream, key=jax.random.split(K[3], num)).prediction ** 2).sum()

        return jax.vmap(of_one)(stream(num, tasks)).sum()

    return jax.make_jaxpr(eqx.filter_grad(loss))(learner)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("causal", [False, True])
def test_four_thousand_steps_need_no_array_of_their_square(platform, causal):
    num, tasks = 4000, 2
    with program_for(platform):
        program = gradient_of_a_replay(learner(num, causal), num, tasks)
    found = list(equations(program.jaxpr))
    largest = max(v.aval.size for equation, _ in found for v in equation.outvars)
    assert largest < tasks * num**2 / 8
    assert not any(equation.primitive.name == "while" for equation, _ in found)


def test_a_blank_start_computes_nothing_of_its_empty_memory():
    """What has the capacity's size is in a branch, whose condition is one for all tasks."""
    num, capacity = 10, 37
    program = gradient_of_a_replay(learner(capacity), num, 3)
    products = [
        (branch, equation)
        for equation, branch in equations(program.jaxpr)
        if equation.primitive.name in ("dot_general", "exp") and capacity in equation.outvars[0].aval.shape
    ]
    assert products and all(branch is not None and branch.invars[0].aval.shape == () for branch, _ in products)


@pytest.mark.parametrize("filled", [0, 5])
def test_replays_of_tasks_side_by_side_are_those_one_by_one(filled):
    """Where some tasks begin blank and others do not."""
    made, items = learner(12), stream(6, 3)
    items = eqx.tree_at(lambda s: s.x, items, jax.random.normal(K[4], items.x.shape))
    first = jax.tree.map(lambda x: x[0, :, 0], stream(5, 1))
    begun = made.adapt(made.init(key=K[0]), first, key=K[0])
    blank = made.init(key=K[0])
    states = jax.tree.map(lambda *x: jnp.stack(x), blank, begun if filled else blank, blank)
    replay = lambda state, items: made.replay(state, items, key=jax.random.split(K[3], 6)).prediction
    together = jax.vmap(replay)(states, items)
    for i in range(3):
        one = jax.tree.map(lambda x: x[i], (states, items))
        np.testing.assert_allclose(together[i], replay(*one), atol=1e-5)
