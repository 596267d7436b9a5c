"""How good one prediction is: (prediction, y) -> a number, for one example."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from quickstudy.parameters import as_floats


def squared_error(prediction: Num[Array, "..."], y: Num[Array, "..."]) -> Float[Array, ""]:
    """Mean over the outputs of the squared difference. Raises ValueError where the two are not of one shape."""
    if jnp.shape(prediction) != jnp.shape(y):
        raise ValueError(
            f"the prediction has shape {jnp.shape(prediction)} and the target {jnp.shape(y)}: give the network as many "
            "outputs, or, where targets are classes, take cross_entropy and accuracy"
        )
    return ((as_floats(prediction) - as_floats(y)) ** 2).mean()


def cross_entropy(prediction: Float[Array, "classes"], y: Any) -> Float[Array, ""]:
    """−log softmax(prediction)[y], in nats; NaN where there is no class y. Raises ValueError where y is no whole
    number, as one-hot labels are not."""
    require_labels(y, 0)
    classes = prediction.shape[-1]
    # No product with a one-hot row: a class that was ruled out has a logit of −∞, and 0 · ∞ is no number.
    loss = -jnp.where(jnp.arange(classes) == y, jax.nn.log_softmax(prediction), 0.0).sum()
    return jnp.where((y >= 0) & (y < classes), loss, jnp.nan)


def accuracy(prediction: Float[Array, "classes"], y: Any) -> Float[Array, ""]:
    """1 where the largest logit is the label's, else 0; NaN where a logit is, or there is no class y. Raises ValueError
    where y is no whole number."""
    require_labels(y, 0)
    known = (y >= 0) & (y < prediction.shape[-1]) & ~jnp.isnan(prediction).any()
    return jnp.where(known, (prediction.argmax() == y).astype(prediction.dtype), jnp.nan)


def one_hot_labels(y: Any, classes: int) -> Float[Array, "*examples classes"]:
    """Labels as one-hot rows; NaN where there is no such class, so that what learns from them answers NaN and not as if
    nothing were wrong. Raises ValueError where labels are no whole numbers."""
    require_labels(y)
    y = jnp.asarray(y)
    return jnp.where(((y >= 0) & (y < classes))[..., None], jax.nn.one_hot(y, classes), jnp.nan)


def require_labels(y: Any, axes: int | None = None) -> None:
    """Raises ValueError unless `y` holds whole numbers, and is one where `axes` is 0."""
    kind, shape = jnp.asarray(y).dtype, jnp.shape(jnp.asarray(y))
    if axes is not None and len(shape) > axes:
        raise ValueError(
            f"a label is one whole number an example, and here it has shape {shape} ({kind}): of one-hot labels give "
            "their place, y.argmax(-1); for vectors as targets take squared_error"
        )
    if not (jnp.issubdtype(kind, jnp.integer) or kind == jnp.bool_):
        raise ValueError(
            f"labels are whole numbers, and these are {kind}: of one-hot labels give their place, y.argmax(-1), and of "
            "whole numbers y.astype(int); for other targets take squared_error"
        )
