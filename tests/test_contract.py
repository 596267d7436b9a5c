"""Every learner keeps the same contract; the registry has one row for each."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quickstudy.core import Incompatible
from quickstudy.data.batches import RolloutBatch
from quickstudy.learners.replay import along, scan_replay
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.parameters import combine, meta_parameters, partition
from quickstudy.runs import RunFolder
from registry import REGISTRY

rows = pytest.mark.parametrize("name", REGISTRY)


@functools.cache
def build(name):
    """The learner, three segments of experience, and their keys."""
    row = REGISTRY[name]
    return row.make(), row.experience(3), jax.random.split(jax.random.key(1), 3)


def first(experience):
    return jax.tree.map(lambda x: x[0], experience)


def assert_equal(a, b, **tolerance):
    leaves = zip(
        jax.tree.leaves(eqx.filter(a, eqx.is_array)), jax.tree.leaves(eqx.filter(b, eqx.is_array)), strict=True
    )
    for x, y in leaves:
        np.testing.assert_allclose(x, y, **{"rtol": 2e-5, "atol": 2e-6, **tolerance})


TRACED = []


def plainly(learner, experience, keys):
    TRACED.append(1)
    return learner.replay(learner.init(key=jax.random.key(2)), experience, key=keys)


def rolled_out(t, keys):
    """One task's batch, in which nothing was good or bad."""
    nothing, key = jnp.zeros(t.reward.shape), jax.random.key(2)
    begun = jnp.array(True)
    return RolloutBatch(t, nothing, nothing, nothing, nothing == 0, key=key, keys=keys, loss_key=key, is_first=begun)


# Compiled wherever that is not the question: op by op the suite takes several times as long.
replay = eqx.filter_jit(plainly)
says = eqx.filter_jit(along)
adapted = eqx.filter_jit(lambda learner, state, segment, key: learner.adapt(state, segment, key=key))
shaped = eqx.filter_eval_shape


@rows
def test_the_state_is_arrays_of_the_shapes_they_will_always_have(name):
    learner, experience, keys = build(name)
    state = shaped(learner.init, key=keys[0])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    after = shaped(learner.adapt, state, first(experience), key=keys[1])
    assert jax.tree.structure(state) == jax.tree.structure(after)
    kept = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert kept(state) == kept(after)


@rows
def test_jit_is_no_jit_and_compiles_once(name):
    learner, experience, keys = build(name)
    assert_equal(replay(learner, experience, keys), plainly(learner, experience, keys), rtol=2e-4, atol=1e-5)
    traced = len(TRACED)
    other = jax.tree.map(lambda x: x * 0.9 if eqx.is_inexact_array(x) else x, learner)
    replay(other, jax.tree.map(lambda x: x[::-1], experience), keys[::-1])
    assert len(TRACED) == traced


@rows
def test_vmap_is_a_loop(name):
    learner, experience, _ = build(name)
    keys = jax.random.split(jax.random.key(3), (2, 3))
    twice = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), experience)
    together = eqx.filter_jit(lambda l, e, k: jax.vmap(lambda e, k: plainly(l, e, k))(e, k))(learner, twice, keys)
    for i in range(2):
        one = replay(learner, jax.tree.map(lambda x: x[i], twice), keys[i])
        assert_equal(jax.tree.map(lambda x: x[i], together), one, rtol=2e-4, atol=1e-5)


@rows
def test_replay_is_applying_and_adapting_step_by_step(name):
    learner, experience, keys = build(name)
    state, said = learner.init(key=jax.random.key(2)), []
    for i in range(3):
        segment = jax.tree.map(lambda x: x[i], experience)
        said.append(says(learner, state, segment))
        state = adapted(learner, state, segment, keys[i])
    by_hand = jax.tree.map(lambda *x: jnp.stack(x), *said)
    assert_equal(replay(learner, experience, keys), by_hand, rtol=2e-4, atol=1e-5)
    if type(learner).replay.__wrapped__ is scan_replay:
        return
    by_scan = eqx.filter_jit(lambda *a, key: scan_replay(*a, key=key))(
        learner, learner.init(key=jax.random.key(2)), experience, key=keys
    )
    assert_equal(by_scan, by_hand, rtol=2e-4, atol=1e-5)


@rows
def test_outputs_keep_their_type(name):
    learner, experience, keys = build(name)
    outputs = shaped(plainly, learner, experience, keys)
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(outputs))


@rows
def test_every_learned_leaf_gets_a_finite_gradient(name):
    learner, experience, keys = build(name)
    if not REGISTRY[name].learned:
        assert meta_parameters(learner) == {}
        return
    if not learner.differentiable:
        with pytest.raises(Incompatible, match="Evolution"):
            Backprop(optax.sgd(0.1)).init(learner)
        return
    learned, rest = partition(learner)

    def loss(learned):
        learner = combine(learned, rest)
        outputs = plainly(learner, experience, keys)
        leaves = jax.tree.leaves(eqx.filter(outputs, eqx.is_inexact_array))
        of_terms = [term(learner, outputs, rolled_out(experience, keys)) for term in REGISTRY[name].terms]
        return sum((leaf**2).sum() + leaf.sum() for leaf in leaves) + sum(of_terms)

    gradient = jax.jit(jax.grad(loss))(learned)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all(), path
        assert (leaf != 0).any(), f"{jax.tree_util.keystr(path)} is never used"


@rows
def test_save_and_load(name, tmp_path):
    learner, experience, keys = build(name)
    folder = RunFolder(tmp_path)
    with folder.locked():
        folder.save(3, {"learner": learner}, keep=1)
    blank = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else x, learner)
    loaded = folder.load(3, {"learner": blank})["learner"]
    assert_equal(replay(loaded, experience, keys), replay(learner, experience, keys), rtol=0, atol=0)
