"""Mean 0 and deviation 1, whatever the unit and the level; exactly 0 where nothing differs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.rl.standardise import standardise, standardise_over_tasks

K = jax.random.key(3)
EQUAL = [(1e6, 7), (10.1, 30), (0.0, 5), (-3e-30, 9), (1e30, 11), (0.1, 300), (7.0, 1)]


@pytest.mark.parametrize(("value", "num"), EQUAL)
def test_where_all_are_equal_there_is_nothing_and_no_slope(value, num):
    x = jnp.full(num, value)
    np.testing.assert_array_equal(standardise(x), jnp.zeros(num))
    np.testing.assert_array_equal(jax.jacobian(standardise)(x), jnp.zeros((num, num)))


@pytest.mark.parametrize("unit", [1e-30, 1e-5, 1.0, 1e5, 1e30])
def test_the_unit_does_not_matter(unit):
    x = jax.random.normal(K, (200,)) + 3
    np.testing.assert_allclose(standardise(unit * x), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(standardise(unit * x).std(), 1, rtol=1e-5)


def test_the_level_does_not_matter():
    x = np.random.default_rng(0).integers(0, 50, 100) + 2.0**23  # single precision holds no halves of these
    np.testing.assert_allclose(standardise(jnp.asarray(x, jnp.float32)), (x - x.mean()) / x.std(), rtol=1e-5, atol=1e-6)


def test_the_derivative_is_that_of_the_formula():
    x = jax.random.normal(K, (6,)) + 2
    plain = lambda x: (x - x.mean()) / jnp.sqrt(((x - x.mean()) ** 2).mean())
    np.testing.assert_allclose(jax.jacobian(standardise)(x), jax.jacobian(plain)(x), rtol=1e-4, atol=1e-5)


def test_what_is_left_out_is_not_looked_at():
    x, mask = jnp.array([1.0, jnp.nan, 3.0, jnp.inf, 8.0]), jnp.array([True, False, True, False, True])
    expected = standardise(jnp.array([1.0, 3.0, 8.0]))
    for ours in (standardise(x, mask), standardise_over_tasks(x, mask)):
        np.testing.assert_allclose(ours, [expected[0], 0, expected[1], 0, expected[2]], rtol=1e-6)
    np.testing.assert_array_equal(standardise(x, jnp.zeros(5, bool)), jnp.zeros(5))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_types_are_kept(dtype):
    x = standardise(jnp.array([1.0, 2.0, 4.0], dtype))
    assert x.dtype == dtype
    np.testing.assert_allclose(x.astype(float), standardise(jnp.array([1.0, 2.0, 4.0])), atol=0.02)
