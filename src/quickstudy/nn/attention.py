"""Attention over the rows of a memory of which only some are valid.

slots      a_i = exp l_i / Σ_j exp l_j over the valid rows,   l_i = τ cos(query, key_i)
examples   the attention of transformers, of a stream to the examples before each: `causal_attention`
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from quickstudy.parallel.axes import anybody
from quickstudy.parallel.platform import on_accelerator, program_platform
from quickstudy.parameters import as_floats

QUERIES = 256  # to a block, of attentions that are gone through in blocks
LOGITS = 2**16  # to a block and head


def unit(x: Num[Array, "*rows features"], least: float = 1e-6) -> Float[Array, "*rows features"]:
    """Rows of length 1; those that are shorter than `least` stay short, and zeros stay zeros."""
    x = as_floats(x)
    # By the largest number first, or squares of large ones would be infinite and those of small ones 0.
    size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(x).max(-1, initial=0, keepdims=True), least))
    x = x / size
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + (least / size) ** 2)


def masked_softmax(logits: Float[Array, "slots"], valid: Bool[Array, "slots"]) -> Float[Array, "slots"]:
    """The softmax over the valid rows; all zeros when none is."""
    logits = jnp.where(valid, logits, jnp.finfo(logits.dtype).min)
    weights = jnp.where(valid, jnp.exp(logits - jax.lax.stop_gradient(logits.max())), 0.0)
    return weights / jnp.where(valid.any(), weights.sum(), 1.0)


def attend(
    query: Num[Array, "features"],
    keys: Num[Array, "slots features"],
    sharpness: Float[Array, ""],
    valid: Bool[Array, "slots"],
) -> Float[Array, "slots"]:
    """softmax(τ cos(query, keys)) over the valid keys; zeros when none is."""
    return masked_softmax(sharpness * (unit(keys) @ unit(query)), valid)


class Memory(NamedTuple):
    """Keys and values that queries may attend to, each with its number in the order in which the rows came."""

    key: Float[Array, "rows heads size"]
    value: Float[Array, "rows heads size"]
    number: Int[Array, "rows"]  # below 0: nothing is there
    maybe_empty: bool | None = False  # if no query sees any of it, none of it is computed


Rows = tuple[Array, Array, Array]  # keys, values and numbers


class Softmax(NamedTuple):
    """A softmax over some of the keys, to which others can be added: Σ exp(logit − most) and the values read so far."""

    most: Float[Array, "heads queries"]
    total: Float[Array, "heads queries"]
    read: Float[Array, "queries heads size"]


def causal_attention(
    query: Float[Array, "queries heads size"],
    at: Int[Array, "queries"],
    key: Float[Array, "queries heads size"],
    value: Float[Array, "queries heads size"],
    memories: Sequence[Memory],
    *,
    capacity: int,
) -> Float[Array, "queries heads size"]:
    """The attention of each query, Σ_j softmax_j(query · key_j / √size) value_j, over its own key and value and over
    those rows of `memories` that came before it and are not overwritten: whose number is in [at − capacity, at).

    Large attentions are gone through in blocks, with the softmax added up along the way and computed again for the
    gradient, so that no array has queries × keys numbers (Rabe and Staats 2021; Dao et al. 2022, FlashAttention). On
    GPUs half-precision ones go to a fused kernel, which takes a mask of queries × keys bits.
    """
    size = query.shape[-1]
    if program_platform() == "gpu" and query.dtype.itemsize == 2 and size % 8 == 0:
        return fused_attention(query, at, key, value, memories, capacity=capacity, implementation="cudnn")
    query, sums = query * size**-0.5, jnp.promote_types(query.dtype, jnp.float32)

    def of_queries(query: Array, at: Array, key: Array, value: Array) -> Array:
        logit = jnp.einsum("ihd,ihd->hi", query, key, preferred_element_type=sums)
        most = jax.lax.stop_gradient(logit)
        weight = jnp.exp(logit - most)  # 1, but not its derivative
        so_far = Softmax(most, weight, weight.T[..., None] * value)
        for memory in memories:
            so_far = _over_blocks(so_far, query, at, memory, capacity)
        return (so_far.read / so_far.total.T[..., None]).astype(value.dtype)

    if len(query) <= QUERIES:
        return of_queries(query, at, key, value)
    # A query that only fills a block up attends to nothing but itself.
    blocks = (_blocks(query, QUERIES), _blocks(at, QUERIES, -1), _blocks(key, QUERIES), _blocks(value, QUERIES))
    read = jax.lax.map(jax.checkpoint(lambda block: of_queries(*block)), blocks)
    return read.reshape(-1, *read.shape[2:])[: len(query)]


def _over_blocks(so_far: Softmax, query: Array, at: Array, memory: Memory, capacity: int) -> Softmax:
    """The softmax with the keys of a memory added, in blocks of at most `LOGITS` logits a head."""

    def add(so_far: Softmax, rows: Rows) -> Softmax:
        return _added(so_far, query, at, rows, capacity)

    def add_if_seen(so_far: Softmax, rows: Rows) -> Softmax:
        seen = anybody(visible(at, rows[2], capacity).any())
        return jax.lax.cond(seen, jax.checkpoint(add), lambda so_far, _: so_far, so_far, rows)

    rows, most = (memory.key, memory.value, memory.number), max(LOGITS // len(query), 1)
    if len(memory.number) <= most:
        return (add_if_seen if memory.maybe_empty else add)(so_far, rows)
    blocks = _blocks(memory.key, most), _blocks(memory.value, most), _blocks(memory.number, most, -1)
    # On a CPU a branch is cheap, and half of the blocks are later than all of the queries.
    step = jax.checkpoint(add) if on_accelerator() else add_if_seen
    return jax.lax.scan(lambda so_far, rows: (step(so_far, rows), None), so_far, blocks)[0]


def _added(so_far: Softmax, query: Array, at: Array, rows: Rows, capacity: int) -> Softmax:
    key, value, number = rows
    logits = jnp.einsum("ihd,jhd->hij", query, key, preferred_element_type=so_far.most.dtype)
    logits = jnp.where(visible(at, number, capacity), logits, -jnp.inf)  # never all: a query sees itself
    most = jnp.maximum(so_far.most, jax.lax.stop_gradient(logits.max(-1)))
    weights, rescale = jnp.exp(logits - most[..., None]), jnp.exp(so_far.most - most)
    new = jnp.einsum("hij,jhd->ihd", weights, value, preferred_element_type=so_far.most.dtype)
    return Softmax(most, so_far.total * rescale + weights.sum(-1), so_far.read * rescale.T[..., None] + new)


def visible(at: Int[Array, "queries"], number: Int[Array, "rows"], capacity: int) -> Bool[Array, "queries rows"]:
    """The causal, validity and capacity mask: which rows exist, come before a query, and are not overwritten yet."""
    at, number = at[:, None], number[None, :]
    return (number >= 0) & (number < at) & (number >= at - capacity)


def _blocks(x: Array, size: int, fill: int = 0) -> Array:
    """[blocks, size, ...], the last one filled up."""
    missing = -len(x) % size
    x = jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)), constant_values=fill)
    return x.reshape(-1, size, *x.shape[1:])


def fused_attention(
    query: Array,
    at: Array,
    key: Array,
    value: Array,
    memories: Sequence[Memory],
    *,
    capacity: int,
    implementation: Literal["xla", "cudnn"],
) -> Array:
    """`causal_attention` by `jax.nn.dot_product_attention`, with its mask as one array."""
    masks = [visible(at, memory.number, capacity) for memory in memories]
    mask = jnp.concatenate([jnp.eye(len(query), dtype=bool), *masks], -1)
    keys = jnp.concatenate([key, *(memory.key for memory in memories)])
    values = jnp.concatenate([value, *(memory.value for memory in memories)])
    return jax.nn.dot_product_attention(query, keys, values, mask=mask[None], implementation=implementation)
