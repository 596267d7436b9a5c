"""A 3×3 convolution that stays fast when it is differentiated twice and its kernel belongs to one task.

    y[h, w] = Σ_ij  x[s·h + i − 1, s·w + j − 1] · k[i, j]        (zeros around x, stride s)

XLA's own convolution is good forwards, but on a CPU its gradients of gradients are 10 to 40 times slower than the
products they consist of. Three ways to compute the same thing:

    patches    nine shifted copies side by side, then one matrix product; any stride
    winograd   F(2×2, 3×3): 16 products of a quarter of the positions each, 2.25 times fewer multiplications
               (Lavin and Gray 2016); stride 1. The convolution, its derivative by x (again a convolution) and by k
               are each other's derivatives, so any order of reverse mode needs these alone
    xla        lax.conv_general_dilated, for accelerators

`choose` picks one by platform, stride and size. QUICKSTUDY_CONVOLUTION forces one, and what `measure` found on this
machine is remembered in the cache folder.

Written for one example; under `vmap` all the examples that share a kernel become one product. Reverse mode therefore
needs the `vmap` inside: differentiate a mean over examples, not one example (of one, take `x[None]`).
"""

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from quickstudy.parallel.platform import program_platform
from quickstudy.runs.cache import cache_folder

WAYS = ("patches", "winograd", "xla")
MEASURED = "convolution"  # a folder with a file for each place, so that processes which measure at once lose nothing


def convolve(
    x: Float[Array, "height width in"], kernel: Float[Array, "3 3 in out"], stride: int = 1
) -> Float[Array, "rows columns out"]:
    """One example; rows = ⌈height / stride⌉."""
    return _one(stride, False)(x, kernel)


def convolve_quads(
    x: Float[Array, "height width in"], kernel: Float[Array, "3 3 in out"]
) -> Float[Array, "4 rows columns out"]:
    """Stride 1, for even sizes, with the four positions of each 2×2 window along the first axis: pooling is then a
    maximum over four whole arrays, and nothing has to be interleaved in between."""
    return _one(1, True)(x, kernel)


def choose(stride: int, channels: int, size: int, platform: str | None = None) -> str:
    """The way to convolve images `size` high of `channels` channels: forced, measured on this machine, or known to be
    good. `platform` is by default that of the program being traced."""
    if forced := os.environ.get("QUICKSTUDY_CONVOLUTION"):
        if forced not in WAYS:
            raise ValueError(f"QUICKSTUDY_CONVOLUTION must be one of {', '.join(WAYS)}, got {forced!r}")
        return "patches" if forced == "winograd" and stride != 1 else forced
    platform = platform or program_platform()
    if (found := _remembered().get(_place(platform, stride, channels, size))) is not None:
        return found
    if platform != "cpu":
        return "xla"
    return "winograd" if stride == 1 and channels >= 16 else "patches"


def measure(*, size: int = 14, channels: int = 64, filters: int = 64, stride: int = 1, examples: int = 75) -> dict:
    """Milliseconds of each way, in a MAML step with a kernel of the task's own; the best is remembered."""
    x, k = jnp.ones((1, examples, size, size, channels)), jnp.ones((1, 3, 3, channels, filters))
    by = (0, 1) if channels > 3 else 1  # nobody asks for the derivative by an image
    took = {}
    for how in WAYS if stride == 1 else ("patches", "xla"):
        f = _batched(stride, stride == 1 and size % 2 == 0, how)  # quads where pooling would take them
        loss = lambda x, k: (f(x, k) ** 2).mean()  # noqa: B023
        adapted = lambda x, k: loss(x, k - jax.grad(loss, 1)(x, k))  # noqa: B023
        outer = jax.jit(jax.vmap(jax.grad(adapted, by)))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(outer(x, k))
            times.append(time.perf_counter() - began)
        took[how] = 1e3 * sorted(times)[1]
    folder = cache_folder()
    if folder is None:
        raise FileNotFoundError("there is no home folder to remember it in: set QUICKSTUDY_CACHE")
    folder = folder / MEASURED
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{os.getpid()}"
    unfinished.write_text(min(took, key=lambda how: took[how]))
    os.replace(unfinished, folder / _place(jax.default_backend(), stride, channels, size))  # seen whole or not at all
    _remembered.cache_clear()
    return took


def settings() -> str:
    """What was forced and what was measured: bits depend on it."""
    return json.dumps({"forced": os.environ.get("QUICKSTUDY_CONVOLUTION"), **_remembered()}, sort_keys=True)


def _place(platform: str, stride: int, channels: int, size: int) -> str:
    return f"{platform}, stride {stride}, {channels} channels, {size} high"


@functools.cache
def _remembered() -> dict[str, str]:
    try:
        found = {
            path.name: path.read_text()[:16]
            for path in Path(cache_folder() or "", MEASURED).iterdir()
            if path.is_file()
        }
    except (OSError, ValueError):
        return {}
    return {name: how for name, how in found.items() if how in WAYS and not name.startswith(".")}


@functools.cache
def _one(stride: int, quads: bool) -> Callable:
    def together(x, kernel):
        return _batched(stride, quads, choose(stride, kernel.shape[2], x.shape[1]))(x, kernel)

    @custom_vmap
    def one(x, kernel):
        return together(x[None], kernel)[0]

    @one.def_vmap
    def several(size, batched, x, kernel):
        del size
        if batched[0] and not batched[1]:
            return together(x, kernel), True
        each = jax.vmap(lambda x, kernel: together(x[None], kernel)[0], in_axes=[0 if b else None for b in batched])
        return each(x, kernel), True

    return one


@functools.cache
def _batched(stride: int, quads: bool, how: str) -> Callable:
    """(x [examples, height, width, in], kernel) -> [examples, ..., out]."""
    if how == "winograd":
        return _winograd_quads if quads else _winograd
    if how == "patches":
        return _patch_quads if quads else lambda x, kernel: _patches(stride, x.shape[1:3])(x, kernel)
    return lambda x, kernel: _quads(_xla(x, kernel, 1)) if quads else _xla(x, kernel, stride)


def _xla(x: Array, kernel: Array, stride: int) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout)


def _around(x: Array, after: int = 1) -> Array:
    return jnp.pad(x, ((0, 0), (1, after), (1, after), (0, 0)))


def _product(patches: Array, kernel: Array) -> Array:
    # As one product of two matrices: left with its axes, its gradient would be transposed in memory.
    flat = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return flat.reshape(*patches.shape[:-1], -1)


def _closed(conv: Callable, by_x: Callable, by_kernel: Callable) -> Callable:
    """The convolution of conv(x, k), by_x(g, k) and by_kernel(x, g), which are each other's derivatives: all three are
    one trilinear form, ⟨g, conv(x, k)⟩ = ⟨by_x(g, k), x⟩ = ⟨by_kernel(x, g), k⟩. So any order of reverse mode runs on
    these alone, where the derivative of slicing would be a sum of padded arrays."""
    conv, by_x, by_kernel = jax.custom_vjp(conv), jax.custom_vjp(by_x), jax.custom_vjp(by_kernel)
    saving = lambda f: lambda a, b: (f(a, b), (a, b))
    conv.defvjp(saving(conv), lambda xk, g: (by_x(g, xk[1]), by_kernel(xk[0], g)))
    by_x.defvjp(saving(by_x), lambda gk, v: (conv(v, gk[1]), by_kernel(v, gk[0])))
    by_kernel.defvjp(saving(by_kernel), lambda xg, v: (by_x(xg[1], v), conv(xg[0], v)))
    return conv


# --- Patches ---------------------------------------------------------------------------------------------------------


def _patches_of(x: Array, stride: int) -> Array:
    """[examples, rows, columns, 9 · in]."""
    high, wide = x.shape[1] - 1, x.shape[2] - 1  # of the last window, counted from the first
    around = _around(x)
    shifted = [around[:, i : i + high + 1 : stride, j : j + wide + 1 : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, -1)


def _kernel_from(patches: Array, g: Array) -> Array:
    """The derivative by the kernel, patchesᵀ g. With the wider of the two second the product is two to four times as
    fast on a CPU, as long as the compiler does not turn it round."""
    product = lambda a, b: jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))
    rows = lambda a: a.reshape(-1, a.shape[-1])
    if patches.shape[-1] <= g.shape[-1]:
        flat = product(rows(patches), rows(g))
    else:
        flat = jax.lax.optimization_barrier(product(rows(g), rows(patches))).T
    return flat.reshape(3, 3, -1, g.shape[-1])


def _patches_by_x(g: Array, kernel: Array, stride: int, size: tuple[int, int]) -> Array:
    """x[s·p + a] is met by the taps i of the windows p + t with s·t = a + 1 − i: for each a a product of its own."""
    n, rows, columns, _ = g.shape
    around = _around(g)
    taps = lambda a: [(i, 1 + (a + 1 - i) // stride) for i in range(3) if (a + 1 - i) % stride == 0]

    def phase(a: int, b: int) -> Array:
        met = [(i, j, t, u) for i, t in taps(a) for j, u in taps(b)]
        if not met:  # a stride of more than 3 leaves places out
            return jnp.zeros((n, rows, columns, kernel.shape[2]), g.dtype)
        windows = jnp.concatenate([around[:, t : t + rows, u : u + columns] for _, _, t, u in met], -1)
        return _product(windows, jnp.concatenate([kernel[i, j].T for i, j, _, _ in met]))

    phases = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)], 2)
    return phases.reshape(n, stride * rows, stride * columns, -1)[:, : size[0], : size[1]]


@functools.cache
def _patches(stride: int, size: tuple[int, int]) -> Callable:
    return _closed(
        lambda x, kernel: _product(_patches_of(x, stride), kernel),
        lambda g, kernel: _patches_by_x(g, kernel, stride, size),
        lambda x, g: _kernel_from(_patches_of(x, stride), g),
    )


def _patches_of_quads(x: Array) -> Array:
    """[examples, 4, rows, columns, 9 · in]."""
    high, wide = x.shape[1] - 1, x.shape[2] - 1
    around = _around(x)
    return jnp.stack(
        [
            jnp.concatenate(
                [around[:, a + i : a + i + high : 2, b + j : b + j + wide : 2] for i in range(3) for j in range(3)], -1
            )
            for a in range(2)
            for b in range(2)
        ],
        1,
    )


_patch_quads = _closed(
    lambda x, kernel: _product(_patches_of_quads(x), kernel),
    lambda g, kernel: _patches_by_x(_whole(g), kernel, 1, (2 * g.shape[2], 2 * g.shape[3])),
    lambda x, g: _kernel_from(_patches_of_quads(x), g),
)


def _quads(y: Array) -> Array:
    n, high, wide, out = y.shape
    return y.reshape(n, high // 2, 2, wide // 2, 2, out).transpose(0, 2, 4, 1, 3, 5).reshape(n, 4, high // 2, -1, out)


def _whole(quads: Array) -> Array:
    n, _, high, wide, out = quads.shape
    return quads.reshape(n, 2, 2, high, wide, out).transpose(0, 3, 1, 4, 2, 5).reshape(n, 2 * high, 2 * wide, out)


# --- Winograd: y = A[(B x) · (G k)], with B over 4×4 tiles that overlap by two, A onto 2×2 tiles of the result ------


def _tiles(size: int) -> int:
    return (size + 1) // 2


def _by_rows_and_columns(f: Callable, rows: tuple, columns: Callable) -> Array:
    return jnp.stack([c for row in f(*rows) for c in f(*columns(row))])


def _into_tiles(x: Array) -> Array:
    """B: [examples, height, width, in] -> [16, examples · tiles, in]."""
    down, across = _tiles(x.shape[1]), _tiles(x.shape[2])
    around = jnp.pad(x, ((0, 0), (1, 1 + 2 * down - x.shape[1]), (1, 1 + 2 * across - x.shape[2]), (0, 0)))
    b = lambda d0, d1, d2, d3: (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
    rows = tuple(around[:, i : i + 2 * down - 1 : 2] for i in range(4))
    columns = lambda row: (row[:, :, j : j + 2 * across - 1 : 2] for j in range(4))
    return _by_rows_and_columns(b, rows, columns).reshape(16, -1, x.shape[-1])


def _kernel(k: Array) -> Array:
    """G: [3, 3, in, out] -> [16, in, out]."""
    g = lambda k0, k1, k2: (k0, (k0 + k1 + k2) / 2, (k0 - k1 + k2) / 2, k2)
    return _by_rows_and_columns(g, tuple(k), lambda row: tuple(row))


def _kernel_back(m: Array) -> Array:
    """Gᵀ: [16, in, out] -> [3, 3, in, out]."""
    back = lambda a, b, c, d: (a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d)
    columns = lambda row: tuple(row)
    return _by_rows_and_columns(back, tuple(m.reshape(4, 4, *m.shape[1:])), columns).reshape(3, 3, *m.shape[1:])


def _out_of_tiles(m: Array) -> Array:
    """A: [16, ...] -> [4, ...], the four positions of a 2×2 tile."""
    a = lambda a, b, c, d: (a + b + c, b - c - d)
    return _by_rows_and_columns(a, tuple(m.reshape(4, 4, *m.shape[1:])), lambda row: tuple(row))


def _back_into_tiles(g: Array) -> Array:
    """Aᵀ: [4, ...] -> [16, ...]."""
    back = lambda a, b: (a, a + b, a - b, -b)
    return _by_rows_and_columns(back, tuple(g.reshape(2, 2, *g.shape[1:])), lambda row: tuple(row))


def _turned(kernel: Array) -> Array:
    """The kernel whose convolution is the transpose of this one's."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _tile_quads(x: Array, kernel: Array) -> Array:
    """The convolution, as [4, examples, tiles down, tiles across, out]."""
    products = jnp.einsum("tnc,tco->tno", _into_tiles(x), _kernel(kernel))
    return _out_of_tiles(products).reshape(4, len(x), _tiles(x.shape[1]), _tiles(x.shape[2]), -1)


def _by_kernel(x: Array, g: Array) -> Array:
    """The derivative by the kernel, g being that by the tile quads."""
    tiles = _back_into_tiles(g).reshape(16, -1, g.shape[-1])
    return _kernel_back(jnp.einsum("tnc,tno->tco", _into_tiles(x), tiles))


def _on_tiles(x: Array, kernel: Array) -> Array:
    y = _whole(_tile_quads(x, kernel).swapaxes(0, 1))
    return y[:, : x.shape[1], : x.shape[2]]


def _to_quads(g: Array) -> Array:
    """Any size, a row or column of zeros added where it is odd."""
    down, across = 2 * _tiles(g.shape[1]) - g.shape[1], 2 * _tiles(g.shape[2]) - g.shape[2]
    return _quads(jnp.pad(g, ((0, 0), (0, down), (0, across), (0, 0))))


_winograd = _closed(
    _on_tiles,
    lambda g, kernel: _on_tiles(g, _turned(kernel)),
    lambda x, g: _by_kernel(x, _to_quads(g).swapaxes(0, 1)),
)
_winograd_quads = _closed(
    lambda x, kernel: _tile_quads(x, kernel).swapaxes(0, 1),
    lambda g, kernel: _on_tiles(_whole(g), _turned(kernel)),
    lambda x, g: _by_kernel(x, g.swapaxes(0, 1)),
)
