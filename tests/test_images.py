"""Convolutions against XLA's own, in values and in derivatives of both orders; what each normalisation looks at."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.core import Incompatible
from quickstudy.nn import convolution, images
from quickstudy.nn.convolution import WAYS, choose, convolve, convolve_quads
from quickstudy.nn.statistics import compute_support_stats, initial_stats, with_statistics
from quickstudy.parallel.axes import over_axes

K = jax.random.split(jax.random.key(0), 4)


def reference(x, kernel, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout)


def of_quads(quads):
    """[N, 4, h, w, c] put back by loops."""
    n, _, h, w, c = quads.shape
    out = np.zeros((n, 2 * h, 2 * w, c), np.float32)
    for q in range(4):
        out[:, q // 2 :: 2, q % 2 :: 2] = quads[:, q]
    return out


CASES = [
    ("patches", 1, (6, 6)),
    ("patches", 2, (7, 5)),
    ("winograd", 1, (6, 6)),
    ("winograd", 1, (7, 5)),
    ("xla", 2, (6, 5)),
]


@pytest.mark.parametrize(("how", "stride", "size"), CASES)
def test_every_way_is_the_convolution_and_so_are_its_derivatives(how, stride, size, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CONVOLUTION", how)
    x = jax.random.normal(K[0], (3, *size, 2))
    kernel, direction = jax.random.normal(K[1], (3, 3, 2, 4)), jax.random.normal(K[2], (3, 3, 2, 4))

    def both(f):
        """Value, both gradients, and the gradients of the inner gradient along a direction: what MAML takes."""
        loss = lambda kernel, x: (jnp.sin(f(x, kernel)) ** 2).mean()
        along = lambda kernel, x: (jax.grad(loss)(kernel, x) * direction).sum()
        return f(x, kernel), jax.grad(loss, (0, 1))(kernel, x), jax.grad(along, (0, 1))(kernel, x)

    ours = both(lambda x, kernel: over_axes(lambda x: convolve(x, kernel, stride))(x))
    theirs = both(lambda x, kernel: reference(x, kernel, stride))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", WAYS)
def test_quads_are_the_same_numbers_by_their_place_in_the_window(how, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CONVOLUTION", how)
    x, kernel = jax.random.normal(K[0], (3, 6, 8, 2)), jax.random.normal(K[1], (3, 3, 2, 4))
    direction = jax.random.normal(K[2], kernel.shape)
    weight = jax.random.normal(K[3], (3, 6, 8, 4))
    quads = lambda kernel, x: over_axes(lambda x: convolve_quads(x, kernel))(x)
    np.testing.assert_allclose(of_quads(np.asarray(quads(kernel, x))), reference(x, kernel), rtol=1e-4, atol=1e-5)
    as_quads = convolution._quads
    ours = lambda kernel, x: (quads(kernel, x) ** 2 * as_quads(weight)).sum()
    theirs = lambda kernel, x: (reference(x, kernel) ** 2 * weight).sum()
    for f, g in ((ours, theirs), (_along(ours, direction), _along(theirs, direction))):
        for a, b in zip(jax.grad(f, (0, 1))(kernel, x), jax.grad(g, (0, 1))(kernel, x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


def _along(loss, direction):
    return lambda kernel, x: (jax.grad(loss)(kernel, x) * direction).sum()


def test_a_kernel_for_each_task_gives_each_task_its_own():
    x, kernels = jax.random.normal(K[0], (2, 3, 6, 6, 2)), jax.random.normal(K[1], (2, 3, 3, 2, 4))
    loss = lambda kernel, x: (over_axes(lambda x: convolve(x, kernel))(x) ** 2).mean()
    together = jax.vmap(jax.grad(loss))(kernels, x)
    for i in range(2):
        np.testing.assert_allclose(together[i], jax.grad(loss)(kernels[i], x[i]), rtol=1e-4, atol=1e-5)


def test_the_choice_can_be_forced_and_is_remembered_when_measured(monkeypatch, tmp_path):
    known = [choose(1, 64, 14, "cpu"), choose(1, 1, 28, "cpu"), choose(2, 64, 14, "cpu"), choose(1, 64, 14, "gpu")]
    assert known == ["winograd", "patches", "patches", "xla"]
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path))
    convolution._remembered.cache_clear()
    before = convolution.settings()
    took = convolution.measure(size=4, channels=2, filters=2, examples=2)
    assert set(took) == set(WAYS)
    assert choose(1, 2, 4) == min(took, key=lambda how: took[how])
    assert choose(1, 2, 8, "cpu") == "patches"  # of that size nothing was measured
    assert convolution.settings() != before
    for path in (tmp_path / convolution.MEASURED).iterdir():
        path.write_bytes(b"\xff no way")
    convolution._remembered.cache_clear()
    assert choose(1, 2, 4, "cpu") == "patches"
    monkeypatch.setenv("QUICKSTUDY_CONVOLUTION", "fast")
    with pytest.raises(ValueError, match="must be one of patches, winograd, xla, got 'fast'"):
        choose(1, 64, 14)
    convolution._remembered.cache_clear()


def by_hand(net: images.Conv4, xs: np.ndarray) -> np.ndarray:
    """Layer-normalised or batch-normalised conv-4 with pooling at the end of each block, in plain NumPy."""
    x = xs.astype(np.float32)
    for block in net.blocks:
        stride = 1 if block.pool else 2
        y = np.asarray(reference(jnp.asarray(x), block.kernel, stride))
        axes = (0, 1, 2) if block.norm.normalise == "transductive" else (1, 2, 3)
        y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + 1e-5)
        y = np.maximum(np.asarray(block.norm.scale) * y + np.asarray(block.norm.shift), 0)
        if block.pool:
            h, w = y.shape[1] // 2, y.shape[2] // 2
            y = y[:, : 2 * h, : 2 * w].reshape(len(y), h, 2, w, 2, -1).max((2, 4))
        x = y
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("normalise", ["layer", "transductive"])
def test_conv4_is_convolution_normalisation_relu_pooling(pool, normalise):
    net = images.Conv4((20, 20, 1), key=K[0], filters=8, pool=pool, normalise=normalise)
    signs = jnp.where(jnp.arange(8) % 2, 1.0, -1.0)  # a negative scale turns the order of a maximum round
    net = eqx.tree_at(lambda n: [b.norm.scale for b in n.blocks], net, [0.5 * signs + 0.1] * 4)
    x = jax.random.normal(K[1], (5, 20, 20, 1))
    ours = over_axes(net)(x)
    assert ours.shape == (5, net.features)
    np.testing.assert_allclose(ours, by_hand(net, np.asarray(x)), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("pool", [True, False])
def test_statistics_of_the_support_set_are_batch_statistics_kept_for_the_queries(pool):
    net = images.Conv4((20, 20, 1), key=K[0], filters=8, pool=pool, normalise="support")
    batch = images.Conv4((20, 20, 1), key=K[0], filters=8, pool=pool, normalise="transductive")
    support, query = jax.random.normal(K[1], (5, 20, 20, 1)), jax.random.normal(K[2], (20, 20, 1))
    given = compute_support_stats(net, support)
    kept = with_statistics(net, given)
    np.testing.assert_allclose(over_axes(kept)(support), over_axes(batch)(support), rtol=1e-4, atol=1e-5)
    # The first layer by hand: the query's own convolution, with the support set's mean and deviation.
    stride = 1 if pool else 2
    y = reference(support, net.blocks[0].kernel, stride)
    mean, deviation = y.mean((0, 1, 2)), jnp.sqrt(y.var((0, 1, 2)) + 1e-5)
    z = jax.nn.relu((reference(query[None], net.blocks[0].kernel, stride)[0] - mean) / deviation)
    first = net.blocks[0](query, given[0])
    np.testing.assert_allclose(first, images.max_pool(z) if pool else z, rtol=1e-3, atol=1e-4)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(given) == shapes(initial_stats(net)) and compute_support_stats(batch, support) == ()


def test_a_context_scales_and_shifts_the_third_block_and_keeps_the_statistics_that_follow():
    embed = images.Conv4((20, 20, 1), key=K[0], filters=4, normalise="support")
    net = images.Modulated(embed, 3, 2, key=K[1])
    net = eqx.tree_at(lambda n: n.context, net, jnp.array([0.5, -1.0]))
    support, query = jax.random.normal(K[2], (5, 20, 20, 1)), jax.random.normal(K[3], (20, 20, 1))
    given = compute_support_stats(net, support)
    x = query
    for i, block in enumerate(embed.blocks):
        y = block.norm(convolve(x, block.kernel, 2), given=given[i])
        if i == 2:
            change = net.film.weight @ net.context + net.film.bias
            y = (1 + change[:4]) * y + change[4:]
        x = jax.nn.relu(y)
    np.testing.assert_allclose(net(query, given).prediction, net.head(x.reshape(-1)), rtol=1e-4, atol=1e-5)
    # What follows the context is normalised by what the support set gives under that context.
    shifted = compute_support_stats(eqx.tree_at(lambda n: n.context, net, -net.context), support)
    same = [np.allclose(a[0], b[0], atol=1e-6) for a, b in zip(given, shifted, strict=True)]
    assert same == [True, True, True, False]


@pytest.mark.parametrize("make", [images.Conv4, images.ResNet])
def test_only_transductive_statistics_see_the_other_images(make):
    x = jax.random.normal(K[1], (4, 16, 16, 1))
    other = x.at[1:].set(jax.random.normal(K[2], (3, 16, 16, 1)))
    for normalise in ("layer", "group", "none", "transductive"):
        filters = {} if make is images.Conv4 else {"filters": (8, 16)}
        net = make((16, 16, 1), key=K[0], normalise=normalise, **filters)
        same = np.allclose(over_axes(net)(x)[0], over_axes(net)(other)[0], rtol=1e-5, atol=1e-6)
        assert same == (normalise != "transductive"), normalise


def test_transductive_statistics_of_one_image_are_refused():
    net = images.Conv4((16, 16, 1), key=K[0], filters=8, normalise="transductive")
    with pytest.raises(Incompatible, match="over the images that are seen together"):
        net(jnp.zeros((16, 16, 1)))


@pytest.mark.parametrize("make", [images.Conv4, images.ResNet])
def test_images_of_another_size_are_refused(make):
    net = make((16, 16, 1), key=K[0])
    with pytest.raises(ValueError, match=r"made for images of \(16, 16, 1\).*got \(20, 20, 1\)"):
        net(jnp.zeros((20, 20, 1)))


def test_sizes_that_cannot_be_say_so():
    with pytest.raises(ValueError, match="four poolings leave nothing of 8x8"):
        images.Conv4((8, 8, 1), key=K[0], pool=True)
    with pytest.raises(ValueError, match="8 equal groups"):
        images.Conv4((28, 28, 1), key=K[0], filters=12, normalise="group")
    with pytest.raises(ValueError, match="use fewer"):
        images.ResNet((4, 4, 1), key=K[0])
