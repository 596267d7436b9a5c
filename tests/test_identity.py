"""What is held out has an identity: no family is tested on its training classes because a field has another name."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.core import TEST_STREAM, VALIDATION_STREAM, HeldOut, Incompatible, Splits, TaskDistribution
from quickstudy.identity import NoDigest, digest
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.classes import from_arrays
from quickstudy.tasks.navigation import Navigation
from quickstudy.tasks.sinusoid import Sinusoids

X, Y = np.arange(600.0).reshape(600, 1), np.arange(600) % 30


class Letters(TaskDistribution):
    """A user's own family: whose letters are held out depends on `order`, and `length` is how much of one is seen."""

    order: tuple[int, ...] = eqx.field(static=True)
    length: int = eqx.field(static=True, default=3)

    def sample(self, *, key):
        return jax.random.choice(key, jnp.asarray(self.order)) + jnp.zeros(self.length)

    def split(self):
        part = lambda a, b: type(self)(self.order[a:b], self.length)
        return Splits(part(0, 4), HeldOut(part(4, 5), VALIDATION_STREAM), HeldOut(part(5, 6), TEST_STREAM))


class Declared(Letters):
    def split_fields(self):
        return ("order",)


class Twice(TaskDistribution):
    """A family that wraps another one."""

    family: TaskDistribution

    def sample(self, *, key):
        return jax.tree.map(lambda x: 2 * x, self.family.sample(key=key))

    def split(self):
        splits = self.family.split()
        wrap = lambda held_out: HeldOut(Twice(held_out.distribution), held_out.stream)
        return Splits(Twice(splits.train), wrap(splits.validation), wrap(splits.test))


class Varied(TaskDistribution):
    vary: object = eqx.field(static=True)

    def sample(self, *, key):
        return jax.random.normal(key)

    def split(self):
        return Splits(self, HeldOut(self, VALIDATION_STREAM), HeldOut(self, TEST_STREAM))


def identity(tasks):
    return tasks.split().test.identity()


def test_all_fields_count_unless_a_family_says_which():
    assert identity(Letters(tuple(range(6)))) == identity(Letters(tuple(range(6))))
    assert identity(Letters(tuple(range(6)))) != identity(Letters(tuple(range(6)), length=4))
    assert identity(Letters(tuple(range(6)))) != identity(Letters((5, 4, 3, 2, 1, 0)))
    assert identity(Declared(tuple(range(6)))) == identity(Declared(tuple(range(6)), length=4))
    assert identity(Declared(tuple(range(6)))) != identity(Declared((5, 4, 3, 2, 1, 0)))
    assert identity(Declared(tuple(range(6)))) != identity(Letters(tuple(range(6))))


def test_a_wrapped_family_has_the_identity_of_what_it_wraps():
    wrapped = lambda order, length=3: identity(Twice(Declared(order, length)))
    assert wrapped(tuple(range(6))) == wrapped(tuple(range(6)), 4)
    assert wrapped(tuple(range(6))) != wrapped((5, 4, 3, 2, 1, 0))
    assert identity(Twice(from_arrays(X, Y))) != identity(Twice(from_arrays(X, Y, seed=1)))


def test_classes_may_be_tested_with_other_ways_but_not_with_others_held_out():
    assert identity(from_arrays(X, Y, ways=2, queries=1)) == identity(from_arrays(X, Y, ways=3, shots=2, queries=2))
    assert identity(from_arrays(X, Y)) != identity(from_arrays(X, Y, seed=1))
    assert identity(from_arrays(X, Y)) != identity(from_arrays(X + 1, Y))


def test_what_is_held_out_by_the_stream_of_keys_does_not_depend_on_fields():
    assert identity(Bandits(3)) == identity(Bandits(5)) != identity(Sinusoids())
    splits = Bandits(3).split()
    assert splits.validation.identity() != splits.test.identity()
    assert identity(Navigation()) == identity(Navigation(within=2.0))


def test_what_has_no_digest_is_refused_with_the_mend():
    with pytest.raises(Incompatible, match=r"which tasks Varied holds out.*\.vary.*<lambda>.*split_fields"):
        identity(Varied(lambda x: x))
    assert identity(Varied(np.mean)) != identity(Varied(np.sum))
    assert identity(Varied(functools.partial(np.mean, axis=0))) != identity(Varied(functools.partial(np.mean, axis=1)))


def test_digests_tell_values_apart():
    values = [
        None, 0, 0.0, False, "", b"", (), [], {}, "0", 1, True, 1.0, (1,), [1], ((1,),), {"a": 1}, {"b": 1}, {1, 2},
        {1, 3}, np.zeros(2), np.zeros(3), np.zeros((2, 1)), np.zeros(2, np.float32), np.array([0.0, 1.0]),
        jax.random.key(0), jax.random.key(1), Bandits(3), Bandits(4), np.mean, np.sum, Sinusoids, 1j,
        -0.0, ("a", "bc"), ("ab", "c"),
    ]  # fmt: skip
    found = [digest(value) for value in values]
    assert len(set(found)) == len(values)
    assert found == [digest(value) for value in values]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(NoDigest, match="Python objects"):
        digest(np.array([object()]))
