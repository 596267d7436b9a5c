"""Few-shot classification: N classes with K labelled examples each, drawn from a data set of many classes.

A task draws `ways` different classes, and of each `shots` examples to learn from and `queries` others to be judged
by (Vinyals et al. 2016). Labels are the order of drawing, so a class means nothing beyond its task.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, Key

from quickstudy.checks import require_at_least, require_one_of, require_whole
from quickstudy.core import TEST_STREAM, VALIDATION_STREAM, HeldOut, Splits, TaskDistribution
from quickstudy.data.batches import FewShotTask, Labelled


class Pool(eqx.Module):
    """A data set by classes: `items` [number, ...], and `order`, the rows of the items class by class. Those of a class
    are `counts` of them, from `starts` on, so that a class may be as large as it likes beside small ones."""

    items: Array
    order: Int[Array, "number"]
    starts: Int[Array, "classes"]
    counts: Int[Array, "classes"]


def distinct(count: Int[Array, ""] | int, num: int, *, key: Key[Array, ""]) -> Int[Array, "num"]:
    """`num` different numbers below `count`, in random order (Floyd's algorithm: its cost does not grow with `count`).

    `count` may be traced, and must be at least `num`.
    """
    draw, shuffle = jax.random.split(key)

    def one(chosen, step):
        i, u = step
        highest = count - num + i
        candidate = jnp.minimum((u * (highest + 1)).astype(int), highest)
        taken = (chosen == candidate).any()
        return chosen.at[i].set(jnp.where(taken, highest, candidate)), None

    steps = jnp.arange(num), jax.random.uniform(draw, (num,))
    chosen, _ = jax.lax.scan(one, jnp.full(num, -1), steps)
    return jax.random.permutation(shuffle, chosen)


def turn(image: Array, quarters: Int[Array, ""]) -> Array:
    """A square image [size, size, ...] turned by this many right angles."""
    once = jnp.where(quarters % 2 == 1, jnp.rot90(image), image)
    return jnp.where(quarters >= 2, once[::-1, ::-1], once)


def moved(image: Array, shift: float, warp: float, *, key: Key[Array, ""]) -> Array:
    """An image [height, width, ...] moved by up to `shift` pixels each way, and turned, scaled and sheared by a matrix
    whose entries differ from those of the identity by up to `warp`. What comes in at the edges is 0."""
    at, how = jax.random.split(key)
    size = jnp.array(image.shape[:2])
    centre = (size - 1) / 2 + jax.random.uniform(at, (2,), minval=-shift, maxval=shift)
    matrix = jnp.eye(2) + jax.random.uniform(how, (2, 2), minval=-warp, maxval=warp)
    places = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape[:2]), indexing="ij"), -1)
    source = jnp.round((places - centre) @ matrix.T + (size - 1) / 2).astype(int)
    nearest = jnp.clip(source, 0, size - 1)
    inside = (nearest == source).all(-1).reshape(*image.shape[:2], *[1] * (image.ndim - 2))
    return jnp.where(inside, image[nearest[..., 0], nearest[..., 1]], jnp.zeros((), image.dtype))


class Classes(TaskDistribution):
    """Tasks over the classes `members` of a pool.

    stream: a task is one labelled stream, `shots` examples of each class in random order, as the Online objective
        takes it (Santoro et al. 2016), and no episode of support and queries
    parts: the members of training, validation and test; no class is in two of them
    training_ways: another number of classes in training tasks, as 60 in Snell et al. 2017
    turns: 4 makes each quarter turn of an image a class of its own, while training (1: none)
    test_turns: the same, in validation and tests
    shift, warp: by how much training images are changed, see `moved`
    decode: from an item of the pool to what the learner sees
    note: a remark that is printed with every result
    names: what a person calls the classes of the pool; empty: their numbers
    """

    pool: Pool
    members: Int[Array, "members"]
    ways: int = eqx.field(static=True)
    shots: int = eqx.field(static=True)
    queries: int = eqx.field(static=True)
    parts: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    stream: bool = eqx.field(static=True, default=False)
    training_ways: int | None = eqx.field(static=True, default=None)
    turns: int = eqx.field(static=True, default=1)
    test_turns: int = eqx.field(static=True, default=1)
    shift: float = eqx.field(static=True, default=0.0)
    warp: float = eqx.field(static=True, default=0.0)
    decode: Callable = eqx.field(static=True, default=lambda item: item)
    note: str = eqx.field(static=True, default="")
    names: tuple[Any, ...] = eqx.field(static=True, default=())

    def __check_init__(self):
        if self.ways < 2 or self.shots < 1 or self.queries < 1:
            raise ValueError(
                f"a task needs at least 2 ways, 1 shot and 1 query, got ways={self.ways}, shots={self.shots}, "
                f"queries={self.queries}"
            )
        require_whole(2, ways=self.ways, training_ways=self.training_ways)
        require_whole(1, shots=self.shots, queries=self.queries)
        require_one_of((1, 4), turns=self.turns, test_turns=self.test_turns)
        require_at_least(0, shift=self.shift, warp=self.warp)
        if isinstance(self.pool.counts, Tracer) or isinstance(self.members, Tracer):
            return  # within a program there are no numbers to look at, and it was given what was made outside
        require_apart(self)
        own = np.asarray(self.members).tolist()
        if own not in (parts := [list(part) for part in self.parts]):
            raise ValueError("members must be the classes of one of the parts, in their order")
        require_drawable(self, parts.index(own), self.ways, self.turns)

    def called(self, number: int) -> Any:
        """What a person calls this class of the pool."""
        return self.names[number] if self.names else number

    def sample(self, *, key: Key[Array, ""]) -> FewShotTask | Labelled:
        return self._stream(key) if self.stream else self._few_shot(key)

    def _few_shot(self, key: Key[Array, ""]) -> FewShotTask:
        x = self.draw(self.shots + self.queries, key=key)
        part = lambda cut: _labelled(x[:, cut])
        return FewShotTask(part(slice(None, self.shots)), part(slice(self.shots, None)))

    def _stream(self, key: Key[Array, ""]) -> Labelled:
        draw, shuffle = jax.random.split(key)
        ordered = _labelled(self.draw(self.shots, key=draw))
        order = jax.random.permutation(shuffle, self.ways * self.shots)
        return jax.tree.map(lambda a: a[order], ordered)

    def draw(self, each: int, *, key: Key[Array, ""]) -> Array:
        """`each` examples of `ways` classes: [ways, each, ...]."""
        which, among = jax.random.split(key)
        chosen = distinct(len(self.members) * self.turns, self.ways, key=which)

        def of_class(chosen, key):
            member = self.members[chosen // self.turns]
            which = distinct(self.pool.counts[member], each, key=key)
            rows = self.pool.order[self.pool.starts[member] + which]
            items = jax.vmap(self.decode)(self.pool.items[rows])
            if self.turns > 1:
                items = jax.vmap(turn, (0, None))(items, chosen % self.turns)
            if self.shift or self.warp:
                keys = jax.random.split(jax.random.fold_in(key, 1), each)
                items = jax.vmap(lambda image, key: moved(image, self.shift, self.warp, key=key))(items, keys)
            return items

        return jax.vmap(of_class)(chosen, jax.random.split(among, self.ways))

    def split_fields(self) -> tuple[str, ...]:
        return ("pool", "parts")

    def split(self) -> Splits:
        check(self)

        def of(part: int, **changes: Any) -> "Classes":
            return dataclasses.replace(self, members=jnp.asarray(self.parts[part], int), **changes)

        train = of(0, ways=self.training_ways or self.ways)
        held_out = lambda part, stream: HeldOut(of(part, turns=self.test_turns, shift=0.0, warp=0.0), stream, self.note)
        return Splits(train, held_out(1, VALIDATION_STREAM), held_out(2, TEST_STREAM))


def _labelled(x: Array) -> Labelled:
    """[ways, each, ...] as examples one after another, labelled by their place on the first axis."""
    label = jnp.broadcast_to(jnp.arange(x.shape[0])[:, None], x.shape[:2])
    return Labelled(x.reshape(-1, *x.shape[2:]), label.reshape(-1))


def pool_of(x: np.ndarray, y: np.ndarray) -> Pool:
    """Items [number, ...] and their class numbers [number], from 0 and without gaps, as a Pool."""
    counts = np.bincount(y)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    whole = lambda numbers: jnp.asarray(numbers, jnp.int32)
    return Pool(jnp.asarray(x), whole(np.argsort(y, kind="stable")), whole(starts), whole(counts))


PARTS = "training", "validation", "test"


def check(classes: Classes) -> Classes:
    """The same, or ValueError where tasks of one of its three parts cannot be drawn."""
    c = classes
    require_drawable(c, 0, c.training_ways or c.ways, c.turns)
    for part in (1, 2):
        require_drawable(c, part, c.ways, c.test_turns)
    return classes


def require_drawable(classes: Classes, part: int, ways: int, turns: int) -> None:
    """Raises ValueError where that part has too few classes for such tasks, or one of them too few examples."""
    members, have = list(classes.parts[part]), len(classes.parts[part]) * turns
    if have < ways:
        raise ValueError(
            f"{ways}-way tasks need at least {ways} {PARTS[part]} classes, and there are {have}: "
            "lower ways, or give that part more classes"
        )
    each, counts = classes.shots + (0 if classes.stream else classes.queries), np.asarray(classes.pool.counts)
    smallest = members[counts[members].argmin()]
    if counts[smallest] < each:
        raise ValueError(
            f"class {classes.called(smallest)} has {counts[smallest]} examples, and a task takes {each} "
            "(shots + queries): lower one of them, or leave the class out"
        )


def require_apart(classes: Classes) -> None:
    """Raises ValueError where a class is in two parts, or in one of them twice."""
    of_parts, called = (
        [set(part) for part in classes.parts],
        lambda found: [classes.called(c) for c in sorted(found)[:5]],
    )
    if unknown := sorted(c for c in set().union(*of_parts) if not 0 <= c < len(classes.pool.counts)):
        raise ValueError(f"parts names classes {unknown[:5]}, and there are {len(classes.pool.counts)}, counted from 0")
    for part, its in zip(classes.parts, of_parts, strict=True):
        if len(its) < len(part):
            again = {c for c in its if part.count(c) > 1}
            raise ValueError(f"a class twice in one part would have two labels in a task: {called(again)}")
    train, validation, test = of_parts
    if twice := train & validation | train & test | validation & test:
        raise ValueError(f"classes in two parts would not be held out: {called(twice)}")


def from_arrays(
    x: Any,
    y: Any,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    held_out: tuple[float, float] = (0.2, 0.3),
    parts: tuple[Sequence, Sequence, Sequence] | None = None,
    seed: int = 0,
) -> Classes:
    """Few-shot tasks from your own labelled data.

    x: [number, ...] numbers; y: [number] labels of any kind
    held_out: fractions of the classes for validation and for test; whole classes are held out, never examples
    parts: the labels of the training, validation and test classes, instead of drawing them by `seed`

    Raises ValueError that names what is wrong: shapes, NaN, too few classes or examples.
    """
    x, y = _examples(x), _labels(y)
    if y.ndim != 1 or len(x) != len(y) or not len(y):
        raise ValueError(f"x needs one label an example: x has shape {x.shape}, y {y.shape}")
    names, numbers = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"one class alone ({names[0]!r}) leaves nothing to classify")
    if parts is None:
        order = np.random.default_rng(seed).permutation(len(names))
        validation, test = (round(f * len(names)) for f in held_out)
        chosen = order[validation + test :], order[:validation], order[validation : validation + test]
    else:
        known = {name: i for i, name in enumerate(names.tolist())}
        if unknown := [label for part in parts for label in part if label not in known]:
            raise ValueError(f"parts names labels that y does not have: {unknown[:5]}")
        # In one order whatever the caller's: that of a set of texts changes from process to process.
        chosen = [sorted(known[label] for label in part) for part in parts]
    of_parts = tuple(tuple(int(c) for c in part) for part in chosen)
    names = tuple(names.tolist())
    return check(
        Classes(pool_of(x, numbers), jnp.asarray(of_parts[0], int), ways, shots, queries, of_parts, names=names)
    )


def _examples(x: Any) -> np.ndarray:
    """As they will be stored: in 32 bits, unless JAX is set to use 64."""
    if not isinstance(x, np.ndarray) and hasattr(x, "toarray"):
        raise ValueError(f"x is sparse ({type(x).__name__}): give x.toarray(), or fewer features")
    x = np.asarray(x)
    if not (np.issubdtype(x.dtype, np.integer) or np.issubdtype(x.dtype, np.floating) or x.dtype == bool):
        raise ValueError(f"x must hold numbers, and real ones, got {x.dtype}")
    if not x.ndim or not len(x):
        raise ValueError(f"x needs examples on its first axis, got shape {x.shape}")
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):
            stored = x.astype(jax.dtypes.canonicalize_dtype(float))
        bad = np.flatnonzero(~np.isfinite(stored).reshape(len(x), -1).all(1))
        if len(bad):
            raise ValueError(
                f"x has values that are not finite in {len(bad)} examples (or too large), the first is x[{bad[0]}]"
            )
    else:
        stored = x.astype(jax.dtypes.canonicalize_dtype(x.dtype))
        if (stored != x).any():
            raise ValueError(
                f"x has whole numbers up to {np.abs(x).max()}, which 32 bits cannot hold: take an offset from them, or "
                "give floats in another unit"
            )
    if x.dtype.itemsize > 2:
        _require_told_apart(x)
    return stored


def _require_told_apart(x: np.ndarray) -> None:
    """Raises ValueError where floats of this precision would make one number of many: far from 0, as seconds since 1970
    are, with little between them."""
    rows = x.reshape(len(x), -1)
    spread = rows.max(0).astype(float) - rows.min(0)
    lost = np.abs(rows).max(0).astype(float) * np.finfo(jax.dtypes.canonicalize_dtype(float)).eps / 2
    if len(bad := np.flatnonzero((spread > 0) & (lost > 1e-4 * spread))):
        i = bad[0]
        raise ValueError(
            f"{len(bad)} of {rows.shape[1]} features of x cannot be distinguished in 32 bits: feature {i} lies around "
            f"{rows[:, i].mean():.6g} and differs by {spread[i]:.3g} at most; take its mean from it first"
        )


def _labels(y: Any) -> np.ndarray:
    """Of one kind, and comparable."""
    kinds = (
        {"text" if isinstance(label, str) else type(label).__name__ for label in y} if isinstance(y, list) else set()
    )
    y = np.asarray(y)
    if y.dtype == object:
        kinds = {"text" if isinstance(label, str) else type(label).__name__ for label in y.reshape(-1).tolist()}
    if ("text" in kinds and len(kinds) > 1) or "NoneType" in kinds:
        raise ValueError(f"labels of several kinds ({', '.join(sorted(kinds))}) have no order: make all of them text")
    if np.issubdtype(y.dtype, np.inexact) and len(bad := np.flatnonzero(~np.isfinite(y))):
        raise ValueError(f"{len(bad)} labels are not finite, the first is y[{bad[0]}]")
    return y


def unpack_bits(shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Decodes an image that is stored one bit a pixel, row by row, into bytes of 0 and 1 in this shape."""
    return functools.partial(_unpack, shape)


def _unpack(shape: tuple[int, ...], packed: Array) -> Array:
    return jnp.unpackbits(packed).reshape(shape)
