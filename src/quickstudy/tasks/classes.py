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
from jaxtyping import Array, Int, Key

from quickstudy.core import TEST_STREAM, VALIDATION_STREAM, HeldOut, Splits, TaskDistribution
from quickstudy.data.batches import FewShotTask, Labelled


class Pool(eqx.Module):
    """A data set by classes: `items` [number, ...] and, for each class, the rows of its examples, the first `counts`
    of `rows` being meant."""

    items: Array
    rows: Int[Array, "classes most"]
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
    note: what is to be said with every result
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

    def sample(self, num: int, *, key: Key[Array, ""]) -> FewShotTask | Labelled:
        return jax.vmap(self._stream if self.stream else self._episode)(jax.random.split(key, num))

    def _episode(self, key: Key[Array, ""]) -> FewShotTask:
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
            rows = self.pool.rows[member][distinct(self.pool.counts[member], each, key=key)]
            items = jax.vmap(self.decode)(self.pool.items[rows])
            if self.turns > 1:
                items = jax.vmap(turn, (0, None))(items, chosen % self.turns)
            if self.shift or self.warp:
                keys = jax.random.split(jax.random.fold_in(key, 1), each)
                items = jax.vmap(lambda image, key: moved(image, self.shift, self.warp, key=key))(items, keys)
            return items

        return jax.vmap(of_class)(chosen, jax.random.split(among, self.ways))

    def split(self) -> Splits:
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
    rows = np.zeros((len(counts), counts.max()), np.int32)
    for c, count in enumerate(counts):
        rows[c, :count] = np.flatnonzero(y == c)
    return Pool(jnp.asarray(x), jnp.asarray(rows), jnp.asarray(counts, jnp.int32))


def check(classes: Classes, names: Sequence[Any] | None = None) -> Classes:
    """The same, or ValueError where such tasks cannot be drawn; `names` are those of the pool's classes."""
    c, each = classes, classes.shots + (0 if classes.stream else classes.queries)
    if c.ways < 2 or c.shots < 1 or c.queries < 1:
        raise ValueError(
            f"a task needs at least 2 ways, 1 shot and 1 query, got ways={c.ways}, shots={c.shots}, queries={c.queries}"
        )
    train, validation, test = map(len, c.parts)
    for part, ways, have in (
        ("training", c.training_ways or c.ways, train * c.turns),
        ("validation", c.ways, validation * c.test_turns),
        ("test", c.ways, test * c.test_turns),
    ):
        if have < ways:
            raise ValueError(
                f"{ways}-way tasks need at least {ways} {part} classes, and there are {have}: "
                "lower ways, or give that part more classes"
            )
    counts = np.asarray(c.pool.counts)
    for member in (member for part in c.parts for member in part):
        if counts[member] < each:
            raise ValueError(
                f"class {names[member] if names is not None else member} has {counts[member]} examples, and a task "
                f"takes {each} (shots + queries): lower one of them, or leave the class out"
            )
    return classes


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
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or len(x) != len(y) or not len(y):
        raise ValueError(f"x needs one label an example: x has shape {x.shape}, y {y.shape}")
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
        raise ValueError(f"x must hold numbers, got {x.dtype}")
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(1))
        if len(bad):
            raise ValueError(
                f"x has values that are not finite in {len(bad)} examples (or too large), the first is x[{bad[0]}]"
            )
    if np.issubdtype(y.dtype, np.floating) and len(bad := np.flatnonzero(~np.isfinite(y))):
        raise ValueError(f"{len(bad)} labels are not finite, the first is y[{bad[0]}]")
    names, numbers = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"one class alone ({names[0]!r}) leaves nothing to tell apart")
    if parts is None:
        order = np.random.default_rng(seed).permutation(len(names))
        validation, test = (round(f * len(names)) for f in held_out)
        chosen = (
            tuple(order[validation + test :]),
            tuple(order[:validation]),
            tuple(order[validation : validation + test]),
        )
    else:
        known = {name: i for i, name in enumerate(names.tolist())}
        unknown = [label for part in parts for label in part if label not in known]
        if unknown:
            raise ValueError(f"parts names labels that y does not have: {unknown[:5]}")
        chosen = tuple(tuple(known[label] for label in part) for part in parts)
        if again := [label for part in parts for label in set(part) if list(part).count(label) > 1]:
            raise ValueError(f"a class twice in one part would have two labels in a task: {sorted(again)[:5]}")
        if twice := set(chosen[0]) & set(chosen[1]) | set(chosen[0]) & set(chosen[2]) | set(chosen[1]) & set(chosen[2]):
            raise ValueError(f"classes in two parts would not be held out: {[names[i].item() for i in sorted(twice)]}")
    chosen = tuple(tuple(int(c) for c in part) for part in chosen)
    return check(Classes(pool_of(x, numbers), jnp.asarray(chosen[0]), ways, shots, queries, chosen), names.tolist())


def unpack_bits(shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Decodes an image that is stored one bit a pixel, row by row, into bytes of 0 and 1 in this shape."""
    return functools.partial(_unpack, shape)


def _unpack(shape: tuple[int, ...], packed: Array) -> Array:
    return jnp.unpackbits(packed).reshape(shape)
