"""The usual networks of few-shot images: four convolutional blocks, and a residual net.

    block(x) = pool(relu(γ (Wx − μ)/σ + β))        conv-4 (Vinyals et al. 2016; strided in Finn et al. 2017)

What μ and σ are taken over decides what a test may claim:

    support        over the images a task was learned from, position by channel; a query is normalised by what they gave
                   (Bronskill et al. 2020). Honest
    layer          over one image: position and channel (Ba et al. 2016). Honest, and the default
    group          over one image and each of 8 groups of channels (Wu and He 2018). Honest
    transductive   over all images that are seen together, as batch normalisation does in training mode: a query is
                   then informed by the other queries. What MAML's authors did; it must be asked for, and is printed
    none           no normalisation

Images are [height, width, channels]; bytes are taken as they are, so scale them where they are made.
"""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from quickstudy.core import Incompatible
from quickstudy.data.batches import Output
from quickstudy.nn.convolution import convolve, convolve_quads
from quickstudy.nn.layers import Linear
from quickstudy.nn.statistics import SupportNorm
from quickstudy.parallel.axes import EXAMPLES, over_axes

Normalise = Literal["support", "layer", "group", "transductive", "none"]
Moments = tuple[Array, Array]  # mean and variance
Film = tuple[Array, Array]  # what a block's channels are scaled by and shifted by, before its ReLU
GROUPS = 8


def _over_examples(x: Array) -> Array:
    try:
        return jax.lax.pmean(x, EXAMPLES)
    except NameError:
        raise Incompatible(
            "normalise='transductive' takes statistics over the images that are seen together, and here is one alone: "
            "go over examples with quickstudy.parallel.axes.over_axes, or use normalise='layer'"
        ) from None


def moments(y: Float[Array, "*positions channels"], how: Normalise) -> Moments:
    """Mean and variance to normalise one image with; they broadcast against its channels."""
    places = tuple(range(y.ndim - 1))
    if how == "group":
        grouped = y.reshape(*y.shape[:-1], GROUPS, -1)
        over = (*places, y.ndim)
        spread = lambda m: jnp.repeat(m, y.shape[-1] // GROUPS)
        return spread(grouped.mean(over)), spread(grouped.var(over))
    if how == "layer":
        return y.mean(), y.var()
    # Of differences from the mean, as `var` has it: a mean square less the mean's is next to nothing far from 0.
    mean = _over_examples(y.mean(places))
    return mean, _over_examples(((y - mean) ** 2).mean(places))


class Norm(eqx.Module):
    """γ (y − μ)/σ + β, with a maximum over windows taken on the way where that is asked for."""

    scale: Float[Array, "channels"]
    shift: Float[Array, "channels"]
    normalise: Normalise = eqx.field(static=True)

    def __init__(self, channels: int, normalise: Normalise):
        if normalise not in get_args(Normalise):
            raise ValueError(f"normalise must be one of {', '.join(get_args(Normalise))}, got {normalise!r}")
        if normalise == "group" and channels % GROUPS:
            raise ValueError(f"normalise='group' needs channels in {GROUPS} equal groups, got {channels}")
        self.scale, self.shift, self.normalise = jnp.ones(channels), jnp.zeros(channels), normalise

    def __call__(self, y: Array, pool: Callable | None = None, given: Moments | None = None) -> Array:
        if self.normalise == "none":
            mean, inverse = 0.0, 1.0
        else:
            mean, variance = moments(y, self.normalise) if given is None else given
            inverse = jax.lax.rsqrt(variance + 1e-5)
        slope = self.scale * inverse
        if pool is None:
            return y * slope + (self.shift - mean * slope)
        # σ > 0, so the maximum may be taken before dividing: all that follows it is four times smaller.
        return pool(self.scale * y) * inverse + (self.shift - mean * slope)


def _largest(y: Float[Array, "4 *rest"]) -> Float[Array, "*rest"]:
    return jnp.maximum(jnp.maximum(y[0], y[1]), jnp.maximum(y[2], y[3]))


def max_pool(y: Float[Array, "height width channels"]) -> Float[Array, "rows columns channels"]:
    """The maximum of each 2×2 window; an odd last row or column is left out."""
    high, wide = y.shape[0] // 2, y.shape[1] // 2
    windows = y[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2, -1)
    return _largest(jnp.stack([windows[:, i, :, j] for i in range(2) for j in range(2)]))


def _he(shape: tuple[int, ...], key: Key[Array, ""]) -> Array:
    """Normal, so that ReLUs keep the variance (He et al. 2015)."""
    fan_in = shape[0] * shape[1] * shape[2]
    return jax.random.normal(key, shape) * (2 / fan_in) ** 0.5


class Block(eqx.Module):
    """Convolution, normalisation, ReLU; the size is halved by max-pooling, or by a stride of 2."""

    kernel: Float[Array, "3 3 in out"]
    norm: Norm
    pool: bool = eqx.field(static=True)

    def __init__(self, inputs: int, filters: int, *, key: Key[Array, ""], pool: bool, normalise: Normalise):
        self.kernel, self.norm, self.pool = _he((3, 3, inputs, filters), key), Norm(filters, normalise), pool

    def __call__(
        self, x: Array, given: Moments | None = None, film: Film | None = None
    ) -> Float[Array, "rows columns out"]:
        y, pool = self.convolved(x)
        y = self.norm(y, pool, given)
        return jax.nn.relu(y if film is None else film[0] * y + film[1])

    def convolved(self, x: Float[Array, "height width in"]) -> tuple[Array, Callable | None]:
        """What is to be normalised, and how it is then pooled."""
        if not self.pool:
            return convolve(x, self.kernel, 2), None
        if x.shape[0] % 2 or x.shape[1] % 2:
            return convolve(x, self.kernel), max_pool
        return convolve_quads(x, self.kernel), _largest


def _third(film: Film | None) -> tuple[Film | None, ...]:
    return None, None, film, None


def check_size(image: Array, size: tuple[int, int, int]) -> None:
    if image.shape != size:
        raise ValueError(f"this network was made for images of {size} (height, width, channels), got {image.shape}")


class Conv4(SupportNorm):
    """Four blocks, from an image to a vector of `features` numbers.

    pool: max-pooling after each block (64 features of 28×28 images, with 64 filters) or strides of 2 (256 features).
    Where Finn et al. 2017 have strides, they take the mean over positions at the end; here all are kept.
    """

    blocks: list[Block]
    size: tuple[int, int, int] = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        key: Key[Array, ""],
        filters: int = 64,
        pool: bool = False,
        normalise: Normalise = "layer",
    ):
        """size: (height, width, channels) of the images, at least 16 each way where there is pooling."""
        high, wide, channels = size
        if pool and min(high, wide) < 16:
            raise ValueError(f"four poolings leave nothing of {high}x{wide} images; use pool=False")
        keys = jax.random.split(key, 4)
        inputs = [channels, filters, filters, filters]
        self.size = size
        self.blocks = [
            Block(i, filters, key=k, pool=pool, normalise=normalise) for i, k in zip(inputs, keys, strict=True)
        ]
        self.features = filters * (high // 16) * (wide // 16) if pool else filters * -(-high // 16) * -(-wide // 16)

    def __call__(
        self,
        image: Num[Array, "height width channels"],
        given: tuple[Moments, ...] | None = None,
        film: Film | None = None,
    ) -> Float[Array, "features"]:
        """film: scales and shifts of the third block's channels. Raises ValueError for images of another size."""
        check_size(image, self.size)
        x = image.astype(self.blocks[0].kernel.dtype)
        for block, of_support, change in zip(self.blocks, given or (None,) * 4, _third(film), strict=True):
            x = block(x, of_support, change)
        return x.reshape(-1)

    def compute_support_stats(
        self, xs: Num[Array, "examples height width channels"], film: Film | None = None
    ) -> tuple[Moments, ...]:
        if self.blocks[0].norm.normalise != "support":
            return ()

        def along(image):
            x, found = image.astype(self.blocks[0].kernel.dtype), []
            for block, change in zip(self.blocks, _third(film), strict=True):
                found.append(moments(block.convolved(x)[0], "support"))
                x = block(x, found[-1], change)
            return tuple(found)

        # The same for every example, so the first one's.
        return jax.tree.map(lambda m: m[0], over_axes(along)(xs))

    def initial_stats(self) -> tuple[Moments, ...]:
        if self.blocks[0].norm.normalise != "support":
            return ()
        return tuple((jnp.zeros_like(b.norm.scale), jnp.ones_like(b.norm.scale)) for b in self.blocks)


class Modulated(SupportNorm):
    """Classes from images by a conv-4 whose third block a context scales and shifts (FiLM, Perez et al. 2018). With
    only the context fast, MAML is CAVIA, in the form its authors gave it for images (Zintgraf et al. 2019). Theirs
    starts at zero; here the start is learned too, which adds nothing but a bias."""

    embed: Conv4
    head: Linear
    film: Linear
    context: Float[Array, "context"]

    def __init__(self, embed: Conv4, classes: int, size: int, *, key: Key[Array, ""]):
        """size: numbers in the context, 100 in the paper."""
        of_head, of_film = jax.random.split(key)
        filters = embed.blocks[2].norm.scale.size
        self.embed, self.context = embed, jnp.zeros(size)
        self.head = Linear(embed.features, classes, key=of_head)
        self.film = Linear(size, 2 * filters, key=of_film)

    def _film(self) -> Film:
        scale, shift = jnp.split(self.film(self.context), 2)
        return 1 + scale, shift

    def __call__(self, image: Num[Array, "height width channels"], given: tuple[Moments, ...] | None = None) -> Output:
        return Output(prediction=self.head(self.embed(image, given, self._film())))

    def compute_support_stats(self, xs: Num[Array, "examples height width channels"]) -> tuple[Moments, ...]:
        return self.embed.compute_support_stats(xs, self._film())

    def initial_stats(self) -> tuple[Moments, ...]:
        return self.embed.initial_stats()


class Residual(eqx.Module):
    """relu(x' + F(x)) with F two convolutions and x' a projection of x, then max-pooling (He et al. 2016)."""

    kernels: list[Float[Array, "3 3 in out"]]
    norms: list[Norm]
    shortcut: Float[Array, "in out"]

    def __init__(self, inputs: int, filters: int, *, key: Key[Array, ""], normalise: Normalise):
        first, second, third = jax.random.split(key, 3)
        if normalise == "support":
            raise ValueError("normalise='support' is there for Conv4 alone; use layer or group for a residual net")
        self.kernels = [_he((3, 3, inputs, filters), first), _he((3, 3, filters, filters), second)]
        self.norms = [Norm(filters, normalise), Norm(filters, normalise)]
        self.shortcut = _he((1, 1, inputs, filters), third)[0, 0]

    def __call__(self, x: Float[Array, "height width in"]) -> Float[Array, "rows columns out"]:
        y = jax.nn.relu(self.norms[0](convolve(x, self.kernels[0])))
        y = self.norms[1](convolve(y, self.kernels[1]))
        return max_pool(jax.nn.relu(y + x @ self.shortcut))


class ResNet(eqx.Module):
    """Residual stages of these widths, each halving the size, then the mean over positions."""

    stages: list[Residual]
    size: tuple[int, int, int] = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        key: Key[Array, ""],
        filters: tuple[int, ...] = (32, 64, 128),
        normalise: Normalise = "layer",
    ):
        if min(size[:2]) < 2 ** len(filters):
            raise ValueError(f"{len(filters)} stages leave nothing of {size[0]}x{size[1]} images; use fewer")
        keys = jax.random.split(key, len(filters))
        pairs = zip((size[2], *filters[:-1]), filters, keys, strict=True)
        self.stages = [Residual(i, o, key=k, normalise=normalise) for i, o, k in pairs]
        self.size, self.features = size, filters[-1]

    def __call__(self, image: Num[Array, "height width channels"]) -> Float[Array, "features"]:
        check_size(image, self.size)
        x = image.astype(self.stages[0].shortcut.dtype)
        for stage in self.stages:
            x = stage(x)
        return x.mean((0, 1))
