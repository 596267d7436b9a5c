"""Few-shot classification tasks: what is drawn, from which classes, and what bad data is told."""

import dataclasses
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import small_data
from quickstudy.data.batches import Labelled
from quickstudy.parallel.axes import over_axes
from quickstudy.recipes import configure, recipe_of
from quickstudy.tasks.classes import Classes, check, distinct, from_arrays, moved, pool_of, turn
from quickstudy.tasks.clinc150 import clinc150
from quickstudy.tasks.files import DataError
from quickstudy.tasks.omniglot import omniglot

sample = eqx.filter_jit(lambda tasks, num, key: tasks.batch(jax.random.split(key, num)))


def toy(classes=12, each=8, **kw):
    """Items that say who they are: 100·class + number."""
    y = np.repeat(np.arange(classes), each)
    x = (100 * y + np.tile(np.arange(each), classes)).astype(np.float32)[:, None]
    return from_arrays(x, y, **{"ways": 3, "shots": 2, "queries": 3, "held_out": (0.25, 0.25), **kw})


def test_distinct_numbers_are_distinct_and_every_order_is_as_likely():
    keys = jax.random.split(jax.random.key(0), 12_000)
    drawn = np.asarray(jax.vmap(lambda k: distinct(jnp.asarray(4), 3, key=k))(keys))
    assert drawn.min() == 0 and drawn.max() == 3
    assert all(len(set(row)) == 3 for row in drawn[:500].tolist())
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 24  # 4·3·2 ordered triples
    assert (abs(counts - 500) < 5 * np.sqrt(500)).all()


def test_an_episode_has_distinct_classes_and_no_example_twice():
    tasks = sample(toy().split().train, 50, jax.random.key(0))
    support, query = np.asarray(tasks.support.x[..., 0]), np.asarray(tasks.query.x[..., 0])
    for s, q, ys, yq in zip(support, query, np.asarray(tasks.support.y), np.asarray(tasks.query.y), strict=True):
        assert len({*s, *q}) == 3 * 5  # support and query never overlap, nothing is repeated
        belongs = {int(label): {int(v // 100) for v in [*s[ys == label], *q[yq == label]]} for label in range(3)}
        assert all(len(classes) == 1 for classes in belongs.values())
        assert len(set.union(*belongs.values())) == 3
        assert ys.tolist() == [0, 0, 1, 1, 2, 2]


def test_held_out_classes_are_held_out():
    splits = toy().split()
    seen = [
        {int(v // 100) for v in np.asarray(tasks.support.x).ravel()}
        for tasks in (
            sample(splits.train, 200, jax.random.key(1)),
            splits.validation.tasks(200),
            splits.test.tasks(200),
        )
    ]
    assert [len(s) for s in seen] == [6, 3, 3]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    first = splits.test.tasks(3)
    np.testing.assert_array_equal(first.support.x, splits.test.tasks(5).support.x[:3])


def test_classes_of_unlike_sizes_draw_only_their_own_examples():
    y = np.array([0] * 3 + [1] * 7 + [2] * 4 + [3] * 3)
    y = np.append(y, [4, 4, 4, 5, 5, 5])
    pool = pool_of(100.0 * y[:, None] + np.arange(len(y))[:, None], y)
    classes = check(Classes(pool, jnp.arange(2), 2, 1, 2, ((0, 1), (2, 3), (4, 5))))
    tasks = sample(classes, 100, jax.random.key(0))
    drawn = np.asarray(tasks.query.x).ravel()
    assert set(drawn.tolist()) == {100.0 * y[i] + i for i in range(10)}


def test_turns_make_new_classes_in_training_only():
    image = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
    for quarters in range(4):
        np.testing.assert_array_equal(turn(jnp.asarray(image), jnp.asarray(quarters)), np.rot90(image, quarters))
    x = np.repeat(np.stack([image + 100 * c for c in range(9)]), 4, 0)
    classes = from_arrays(x, np.repeat(np.arange(9), 4), ways=3, shots=1, queries=1, held_out=(0.34, 0.34))
    splits = dataclasses.replace(classes, turns=4).split()
    upright = lambda tasks: np.asarray(tasks.support.x[..., 0, 0, 0]).ravel() % 100 == 0
    assert not upright(sample(splits.train, 50, jax.random.key(0))).all()
    assert upright(splits.test.tasks(50)).all()
    assert splits.train.turns == 4 and splits.test.distribution.turns == 1
    also = dataclasses.replace(classes, turns=4, test_turns=4).split()
    assert not upright(also.test.tasks(50)).all() and not upright(also.validation.tasks(50)).all()


def test_training_images_are_moved_and_warped_about_their_middle_and_others_are_not():
    image = jnp.zeros((9, 9, 1), jnp.uint8).at[4, 4].set(1).at[2, 4].set(2).at[4, 7].set(3)
    keys = jax.random.split(jax.random.key(0), 300)
    many = lambda shift, warp: np.asarray(jax.vmap(lambda k: moved(image, shift, warp, key=k))(keys))[..., 0]
    assert (many(0.0, 0.0) == image[..., 0]).all() and many(0.0, 0.0).dtype == np.uint8
    # Moved: by whole pixels, all parts alike, as far as was allowed in every direction and no farther.
    middle = np.argwhere(many(2.0, 0.0) == 1)[:, 1:] - 4
    above = np.argwhere(many(2.0, 0.0) == 2)[:, 1:] - (2, 4)
    assert set(middle.ravel().tolist()) == {-2, -1, 0, 1, 2}
    np.testing.assert_array_equal(middle, above)
    # Warped: the middle stays, and the rest goes by up to warp times its distance.
    warped = many(0.0, 0.3)
    assert (warped[:, 4, 4] == 1).all() and (warped != np.asarray(image[..., 0])).any()
    right = np.argwhere(warped == 3)[:, 1:] - (4, 7)
    assert 1 <= abs(right).max() <= 2
    classes = dataclasses.replace(toy(), shift=1.0, warp=0.1).split()
    assert (classes.train.shift, classes.train.warp) == (1.0, 0.1)
    assert all((part.distribution.shift, part.distribution.warp) == (0, 0) for part in classes[1:])


def test_a_test_never_moves_what_is_held_out(tmp_path):
    small_data.omniglot(tmp_path, characters=1623)
    from quickstudy.config import ConfigError
    from quickstudy.runs import RunFolder
    from quickstudy.runs.load import experiment_of

    recipe = configure("omniglot-proto", {"data": str(tmp_path), "split": "maml"})
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.note(recipe.about())
    assert experiment_of(run, ways=20).tasks.ways == 20
    with pytest.raises(ConfigError, match="what was trained on"):
        experiment_of(run, split="vinyals")
    run = RunFolder(tmp_path / "maml")
    with run.locked():
        run.note(configure("omniglot-maml", {"data": str(tmp_path)}).about())
    with pytest.raises(ConfigError, match=r"trained for other tasks than ways=20: .* is \(.*5.*\) and would be"):
        experiment_of(run, ways=20)


def test_training_may_have_more_ways():
    classes = dataclasses.replace(toy(), training_ways=6)
    assert sample(classes.split().train, 2, jax.random.key(0)).support.y.max() == 5
    assert classes.split().test.tasks(2).support.y.max() == 2


def test_a_stream_has_every_class_equally_often_in_random_order():
    stream = sample(dataclasses.replace(toy(), stream=True, shots=4).split().train, 20, jax.random.key(0))
    assert stream.x.shape == (20, 12, 1)
    assert all(np.bincount(y).tolist() == [4, 4, 4] for y in np.asarray(stream.y))
    assert len({tuple(y) for y in np.asarray(stream.y).tolist()}) > 10


X, Y = np.zeros((40, 2), np.float32), np.repeat(np.arange(8), 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": Y[:-1]}, r"one label an example: x has shape \(40, 2\), y \(39,\)"),
        ({"y": Y[:, None]}, "one label an example"),
        (
            {"x": np.where(np.arange(40)[:, None] == 7, np.nan, X)},
            r"not finite in 1 examples .or too large., the first is x\[7\]",
        ),
        ({"x": np.full((40, 2), "a")}, "must hold numbers"),
        ({"y": np.zeros(40, int)}, r"one class alone \(.*0.*\) leaves nothing to classify"),
        ({"ways": 20}, "20-way tasks need at least 20 training classes, and there are 4"),
        ({"shots": 6}, r"class \d has 5 examples, and a task takes 8 \(shots \+ queries\)"),
        ({"ways": 1}, "at least 2 ways"),
        ({"parts": ([0, 1, 2], [3, 4], [5, 99])}, r"labels that y does not have: \[99\]"),
        ({"parts": ([0, 1, 2], [2, 4], [5, 6])}, r"would not be held out: \[2\]"),
    ],
)
def test_bad_arrays_are_refused_with_the_reason(change, says):
    good = {"x": X, "y": Y, "ways": 2, "shots": 1, "queries": 2, "held_out": (0.25, 0.25)}
    from_arrays(**good)
    with pytest.raises(ValueError, match=says):
        from_arrays(**{**good, **change})


DATA = Path(os.environ.get("QUICKSTUDY_DATA", "nowhere"))
needs_omniglot = pytest.mark.skipif(
    not (DATA / "omniglot28.npz").exists(), reason="no omniglot28.npz in QUICKSTUDY_DATA"
)


@needs_omniglot
@pytest.mark.parametrize(("split", "sizes"), [("maml", [1100, 100, 423]), ("vinyals", [1028, 172, 423])])
def test_omniglot_splits(split, sizes):
    classes = omniglot(split=split)
    assert [len(p) for p in classes.parts] == sizes
    assert len({c for p in classes.parts for c in p}) == 1623
    tasks = classes.split().test.tasks(3)
    assert tasks.query.x.shape == (3, 75, 28, 28, 1) and tasks.query.x.dtype == jnp.uint8
    assert set(np.unique(tasks.query.x).tolist()) == {0, 1}
    assert "area" in classes.split().test.note and "nearest" in omniglot(rendering="nearest").note


@needs_omniglot
def test_an_omniglot_image_is_the_stored_one():
    classes = omniglot(rendering="nearest")
    stored = np.load(DATA / "omniglot28.npz")["images_nearest"]
    images = np.unpackbits(stored, axis=-1).reshape(-1, 28 * 28)
    drawn = np.asarray(classes.split().test.tasks(2).support.x).reshape(-1, 28 * 28)
    held_out = {images[20 * c + d].tobytes() for c in classes.parts[2] for d in range(20)}
    assert all(image.tobytes() in held_out for image in drawn)


def test_omniglot_of_another_form_is_refused(tmp_path):
    small_data.omniglot(tmp_path)
    assert [len(p) for p in omniglot(split="vinyals", data=tmp_path).parts] == [10, 10, 10]
    with pytest.raises(ValueError, match="20-way tasks need at least 20 validation classes, and there are 10"):
        omniglot(split="vinyals", ways=20, data=tmp_path)
    with pytest.raises(ValueError, match="takes 25"):
        omniglot(split="vinyals", shots=10, data=tmp_path)
    small_data.omniglot(tmp_path, pixels=16 * 16)
    with pytest.raises(DataError, match=r"images of shape \(30, 20, 32\), not \(30, 20, 98\)"):
        omniglot(data=tmp_path)
    (tmp_path / "omniglot28.npz").write_bytes(b"PK\3\4 broken")
    with pytest.raises(DataError, match="cannot be read as Omniglot"):
        omniglot(data=tmp_path)


def test_clinc150_holds_out_whole_domains(tmp_path):
    small_data.clinc150(tmp_path)
    classes = clinc150(ways=3, shots=1, queries=2, dims=64, data=tmp_path)
    assert [len(p) for p in classes.parts] == [15, 6, 3]
    domain = lambda member: member // 3  # names are sorted, three to a domain
    assert not {domain(m) for m in classes.parts[0]} & {domain(m) for m in classes.parts[2]}
    np.testing.assert_allclose(np.linalg.norm(classes.pool.items, axis=1), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="4-way tasks need at least 4 test classes, and there are 3"):
        clinc150(ways=4, shots=1, queries=2, dims=64, data=tmp_path)
    (tmp_path / "clinc150_domains.json").write_text("{}")
    with pytest.raises(DataError, match="disagree about the intents"):
        clinc150(dims=64, data=tmp_path)
    (tmp_path / "clinc150_domains.json").unlink()
    with pytest.raises(DataError, match=r"there is no clinc150_domains.json in .*--data"):
        clinc150(dims=64, data=tmp_path)


def test_clinc150_maml_begins_by_comparing_with_each_example(tmp_path):
    """From a head of zeros one step says of class k: rate · scale² · x_k · x / ways, beside what all classes have."""
    small_data.clinc150(tmp_path)
    small = {"ways": 3, "queries": 3, "dims": 64, "inner_steps": 1, "inner_rate": 0.5, "data": str(tmp_path)}
    recipe = configure("clinc150-maml", small)
    learner, key = recipe.build().learner, jax.random.key(0)
    x = jax.random.normal(key, (8, 64))
    state = learner.adapt(learner.init(key=key), Labelled(x[:3], jnp.arange(3)), key=key)
    said = over_axes(lambda x: learner.apply(state, x).prediction)(x[3:])
    alike = 0.5 * recipe.tasks.scale**2 * x[3:] @ x[:3].T / 3
    np.testing.assert_allclose(said - said.mean(1, keepdims=True), alike - alike.mean(1, keepdims=True), rtol=1e-3)


@pytest.mark.skipif(not (DATA / "clinc150.json.gz").exists(), reason="no clinc150.json.gz in QUICKSTUDY_DATA")
def test_clinc150_as_published():
    classes = clinc150(dims=64)
    assert [len(p) for p in classes.parts] == [75, 30, 45]
    assert np.asarray(classes.pool.counts).tolist() == [150] * 150


def test_a_recipe_says_what_is_wrong_with_its_tasks(tmp_path):
    small_data.omniglot(tmp_path)
    with pytest.raises(ValueError, match="60-way tasks need at least 60 training classes, and there are 40"):
        configure("omniglot-proto", {"ways": 20, "data": str(tmp_path)}).build()
    wrong = lambda name, **values: recipe_of(name).changed(**values).errors()
    assert any("ways must be at least 2" in e for e in wrong("omniglot-maml", ways=1))
    assert any("training_ways must be 0" in e for e in wrong("omniglot-maml", training_ways=20))
    assert len(wrong("omniglot-meta-lstm", retain=1.0, inner_rate=1.5, lstm_size=0)) == 3
    assert any("future images" in e for e in wrong("omniglot-mann", normalise="support"))


def test_the_order_in_which_a_part_is_named_changes_no_task():
    """That of a set of texts is another one in every process."""
    x, y = np.arange(160.0)[:, None], np.repeat([f"class {i}" for i in range(8)], 20)
    names = sorted(set(y.tolist()))
    of = lambda order: from_arrays(x, y, ways=2, queries=1, parts=(order(names[:4]), names[4:6], order(names[6:])))
    first, second = (of(order).split() for order in (list, lambda part: part[::-1]))
    assert first.train.members.tolist() == second.train.members.tolist()
    np.testing.assert_array_equal(first.test.tasks(9).support.x, second.test.tasks(9).support.x)
    assert first.test.identity() == second.test.identity()
