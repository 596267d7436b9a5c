"""Networks dressed as what a learner needs: a vector in, an `Output` out."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.data.batches import Output
from quickstudy.data.distributions import Categorical, Gaussian
from quickstudy.nn.layers import Linear
from quickstudy.nn.statistics import SupportNorm, compute_support_stats, initial_stats, with_statistics


def require_sizes(sizes: tuple[int, ...]) -> None:
    """Raises ValueError for sizes of which no layers can be made."""
    if len(sizes) < 2:
        raise ValueError(f"sizes run from the input to the output, as (1, 40, 1), got {sizes}")
    require_whole(0, **{f"sizes[{i}]": size for i, size in enumerate(sizes)})


class MLP(eqx.Module):
    """Dense layers with `activation` between them. The layers are a plain list, the last one the head."""

    layers: list[Linear]
    activation: Callable = eqx.field(static=True)
    features: int = eqx.field(static=True)  # numbers in the output

    def __init__(self, sizes: tuple[int, ...], *, key: Key[Array, ""], activation: Callable = jax.nn.relu):
        """`sizes` runs from the input to the output: (1, 40, 40, 1) has three layers."""
        require_sizes(sizes)
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = [Linear(i, o, key=k) for i, o, k in zip(sizes[:-1], sizes[1:], keys, strict=True)]
        self.activation, self.features = activation, sizes[-1]

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Refined(eqx.Module):
    """What is given and what a hidden layer adds to it: s (x + U relu(W x + b)). U begins at 0, so that before training
    two inputs are as alike as they are given."""

    down: Linear
    up: Float[Array, "features hidden"]  # U
    scale: float = eqx.field(static=True)  # s
    features: int = eqx.field(static=True)

    def __init__(self, features: int, hidden: int, *, scale: float, key: Key[Array, ""]):
        self.down = Linear(features, hidden, key=key)
        self.up = jnp.zeros((features, hidden))
        self.scale, self.features = scale, features

    def __call__(self, x: Float[Array, "features"]) -> Float[Array, "features"]:
        return self.scale * (x + jax.nn.relu(self.down(x)) @ self.up.T)


class Modulated(eqx.Module):
    """Dense layers, each hidden feature scaled and shifted: σ(scale ⊙ W x + shift), the FiLM of Perez et al. 2018. With
    only scales and shifts fast, a task moves two numbers a feature and not a row of weights."""

    layers: list[Linear]
    scales: list[Float[Array, "features"]]
    shifts: list[Float[Array, "features"]]
    activation: Callable = eqx.field(static=True)

    def __init__(self, sizes: tuple[int, ...], *, key: Key[Array, ""], activation: Callable = jax.nn.relu):
        require_sizes(sizes)
        *hidden, last = jax.random.split(key, len(sizes) - 1)
        inner = zip(sizes[:-2], sizes[1:-1], hidden, strict=True)
        self.layers = [Linear(i, o, use_bias=False, key=k) for i, o, k in inner]
        self.layers.append(Linear(sizes[-2], sizes[-1], key=last))
        self.scales, self.shifts = ([make(n) for n in sizes[1:-1]] for make in (jnp.ones, jnp.zeros))
        self.activation = activation

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        for layer, scale, shift in zip(self.layers[:-1], self.scales, self.shifts, strict=True):
            x = self.activation(scale * layer(x) + shift)
        return self.layers[-1](x)


class Chain(SupportNorm):
    """Layers one after another; the last one is the head, and the first one may take statistics."""

    layers: list[Callable]

    def __call__(self, x: Array, given: PyTree = None) -> Array:
        x = with_statistics(self.layers[0], given)(x)
        for layer in self.layers[1:]:
            x = layer(x)
        return x

    def compute_support_stats(self, xs: Array) -> PyTree:
        return compute_support_stats(self.layers[0], xs)

    def initial_stats(self) -> PyTree:
        return initial_stats(self.layers[0])


class Predictor(SupportNorm):
    """A network whose output is the prediction: a regression target, or the logits of classes."""

    net: Callable

    def __call__(self, x: Array, given: PyTree = None) -> Output:
        return Output(prediction=with_statistics(self.net, given)(x))

    def compute_support_stats(self, xs: Array) -> PyTree:
        return compute_support_stats(self.net, xs)

    def initial_stats(self) -> PyTree:
        return initial_stats(self.net)


class Contextual(eqx.Module):
    """A predictor that reads a context vector beside its input. With only the context fast, MAML is CAVIA
    (Zintgraf et al. 2019). Theirs starts at zero; here the start is learned too, which adds nothing but a bias."""

    net: Callable
    context: Float[Array, "context"]

    def __call__(self, x: Float[Array, "inputs"]) -> Output:
        return Output(prediction=self.net(jnp.concatenate([x, self.context])))


class CategoricalPolicy(eqx.Module):
    """A policy over as many actions as the network has outputs. With `critic` its last output is the value of what is
    seen."""

    net: Callable
    critic: bool = eqx.field(static=True, default=False)

    def __call__(self, x: Float[Array, "inputs"]) -> Output:
        raw = self.net(x)
        if self.critic:
            return Output(policy=Categorical(raw[:-1]), value=raw[-1])
        return Output(policy=Categorical(raw))


class GaussianPolicy(eqx.Module):
    """A normal policy: the network gives the means, `log_std` is one number an action dimension. With `critic` the
    network's last output is the value of what is seen."""

    net: Callable
    log_std: Float[Array, "dims"]
    scale: float = eqx.field(static=True, default=1.0)  # actions of unit size in the network, of this size outside
    critic: bool = eqx.field(static=True, default=False)

    def __call__(self, x: Float[Array, "inputs"]) -> Output:
        raw = self.net(x)
        mean, value = (raw[:-1], raw[-1]) if self.critic else (raw, None)
        return Output(policy=Gaussian(self.scale * mean, self.scale * jnp.exp(self.log_std)), value=value)


class TablePolicy(eqx.Module):
    """A policy of one-hot states that begins indifferent, [states, actions] logits. Beside it a value [states] that
    begins at 0, or with `predictions` the logits of as many symbols, which begin at random."""

    logits: Float[Array, "states actions"]
    value: Float[Array, "states"] | None
    symbols: Float[Array, "states predictions"] | None

    def __init__(self, states: int, actions: int, predictions: int = 0, *, key: Key[Array, ""]):
        self.logits = jnp.zeros((states, actions))
        self.value = None if predictions else jnp.zeros(states)
        self.symbols = jax.random.normal(key, (states, predictions)) if predictions else None

    def __call__(self, x: Float[Array, "states"]) -> Output:
        policy = Categorical(x @ self.logits)
        value = None if self.value is None else x @ self.value
        return Output(policy=policy, value=value, prediction=None if self.symbols is None else x @ self.symbols)


class WithValue(eqx.Module):
    """A policy beside a network of its own for the value of what is seen."""

    policy: Callable
    critic: Callable

    def __call__(self, x: Float[Array, "inputs"]) -> Output:
        return Output(policy=self.policy(x).policy, value=self.critic(x)[0])


def head(model: PyTree) -> PyTree:
    """The last layer of the model's network: ANIL's fast leaves."""
    return model.net.layers[-1]


def modulation(model: PyTree) -> PyTree:
    """The scales and shifts of a `Modulated` network and the spread of its policy."""
    return model.net.scales, model.net.shifts, model.log_std


def input_bias(model: PyTree) -> PyTree:
    """The bias of the first layer: generated linearly from features, it is reading them beside the input."""
    return model.net.layers[0].bias


def context(model: PyTree) -> PyTree:
    """The context vector: CAVIA's fast leaf."""
    return model.context


def everything(model: PyTree) -> PyTree:
    """The whole model: MAML's fast leaves."""
    return model
