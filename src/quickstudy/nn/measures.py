"""How good one prediction is: (prediction, y) -> a number, for one example."""

import jax
from jaxtyping import Array, Float, Int


def squared_error(prediction: Float[Array, "outputs"], y: Float[Array, "outputs"]) -> Float[Array, ""]:
    """Mean over the outputs of the squared difference."""
    return ((prediction - y) ** 2).mean()


def cross_entropy(prediction: Float[Array, "classes"], y: Int[Array, ""]) -> Float[Array, ""]:
    """−log softmax(prediction)[y], in nats."""
    return -jax.nn.log_softmax(prediction) @ jax.nn.one_hot(y, prediction.shape[-1])


def accuracy(prediction: Float[Array, "classes"], y: Int[Array, ""]) -> Float[Array, ""]:
    """1 where the largest logit is the label's, else 0."""
    return (prediction.argmax() == y).astype(float)
