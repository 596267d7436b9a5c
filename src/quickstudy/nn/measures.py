"""How good one prediction is: (prediction, y) -> a number, for one example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def squared_error(prediction: Float[Array, "outputs"], y: Float[Array, "outputs"]) -> Float[Array, ""]:
    """Mean over the outputs of the squared difference. Raises ValueError where the two are not of one shape."""
    if jnp.shape(prediction) != jnp.shape(y):
        raise ValueError(
            f"the prediction has shape {jnp.shape(prediction)} and the target {jnp.shape(y)}: give the network as many "
            "outputs, or, where targets are classes, take cross_entropy and accuracy"
        )
    return ((prediction - y) ** 2).mean()


def cross_entropy(prediction: Float[Array, "classes"], y: Int[Array, ""]) -> Float[Array, ""]:
    """−log softmax(prediction)[y], in nats; NaN where there is no class y."""
    classes = prediction.shape[-1]
    loss = -jax.nn.log_softmax(prediction) @ jax.nn.one_hot(y, classes)
    return jnp.where((y >= 0) & (y < classes), loss, jnp.nan)


def accuracy(prediction: Float[Array, "classes"], y: Int[Array, ""]) -> Float[Array, ""]:
    """1 where the largest logit is the label's, else 0; NaN where a logit is, or there is no class y."""
    known = (y >= 0) & (y < prediction.shape[-1]) & ~jnp.isnan(prediction).any()
    return jnp.where(known, (prediction.argmax() == y).astype(float), jnp.nan)
