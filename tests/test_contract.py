"""Every learner keeps the same contract; the registry has one row for each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quickstudy.core import Incompatible, along, combine, meta_parameters, partition, scan_replay
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.runs import RunFolder
from registry import REGISTRY

rows = pytest.mark.parametrize("name", REGISTRY)


def build(name, stretches=3):
    row = REGISTRY[name]
    return row.make(), row.experience(stretches), jax.random.split(jax.random.key(1), stretches)


def first(experience):
    return jax.tree.map(lambda x: x[0], experience)


def assert_equal(a, b, **tolerance):
    leaves = zip(
        jax.tree.leaves(eqx.filter(a, eqx.is_array)), jax.tree.leaves(eqx.filter(b, eqx.is_array)), strict=True
    )
    for x, y in leaves:
        np.testing.assert_allclose(x, y, **{"rtol": 2e-5, "atol": 2e-6, **tolerance})


def plainly(learner, experience, keys):
    return learner.replay(learner.init(key=jax.random.key(2)), experience, key=keys)


# Compiled wherever that is not the question: op by op the suite takes several times as long.
replay = eqx.filter_jit(plainly)
adapted = eqx.filter_jit(lambda learner, state, stretch, key: learner.adapt(state, stretch, key=key))


@rows
def test_the_state_has_the_shapes_it_will_always_have(name):
    learner, experience, keys = build(name)
    state = learner.init(key=keys[0])
    after = adapted(learner, state, first(experience), keys[1])
    shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), eqx.filter(tree, eqx.is_array))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert shape(state) == shape(after)


@rows
def test_state_is_arrays_only_so_that_it_can_be_carried(name):
    learner, _, keys = build(name)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(learner.init(key=keys[0])))


@rows
def test_jit_is_no_jit_and_compiles_once(name):
    learner, experience, keys = build(name)
    traces = []

    @eqx.filter_jit
    def jitted(learner, experience, keys):
        traces.append(1)
        return plainly(learner, experience, keys)

    jitted(learner, experience, keys)
    assert_equal(jitted(learner, experience, keys), plainly(learner, experience, keys), rtol=2e-4, atol=1e-5)
    assert len(traces) == 1


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
    state, said, says = learner.init(key=jax.random.key(2)), [], eqx.filter_jit(along)
    for i in range(3):
        stretch = jax.tree.map(lambda x: x[i], experience)
        said.append(says(learner, state, stretch))
        state = adapted(learner, state, stretch, keys[i])
    by_hand = jax.tree.map(lambda *x: jnp.stack(x), *said)
    assert_equal(replay(learner, experience, keys), by_hand, rtol=2e-4, atol=1e-5)
    if type(learner).replay is scan_replay:
        return
    by_scan = scan_replay(learner, learner.init(key=jax.random.key(2)), experience, key=keys)
    assert_equal(by_scan, by_hand, rtol=2e-4, atol=1e-5)


@rows
def test_apply_changes_nothing_and_keeps_its_type(name):
    learner, experience, keys = build(name)
    outputs = replay(learner, experience, keys)
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
        outputs = plainly(combine(learned, rest), experience, keys)
        return sum((leaf**2).sum() + leaf.sum() for leaf in jax.tree.leaves(eqx.filter(outputs, eqx.is_inexact_array)))

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
