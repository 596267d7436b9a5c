"""Meta Networks: weights for one task, written by networks that read gradients (Munkhdalai and Yu 2017, ICML).

A representation u has slow weights Q, a base learner b slow weights W; both get fast ones:

    Q*    = d( ∇_Q  mean_i ℓ(u(x_i; Q), y_i) )                     d an LSTM, the same for every coordinate
    W*_i  = m( ∇_W  ℓ(b(x_i; W), y_i) )                            m an MLP, the same for every coordinate
    r_i   = u(x_i; Q, Q*),    a = softmax_i( τ cos(u(x; Q, Q*), r_i) )
    b(x)  = b(x; W, Σ_i a_i W*_i)

A layer that has both is augmented, relu(W h) + relu(W* h), and the last one W h + W* h. Networks of coordinates see a
gradient g by size and sign (Andrychowicz et al. 2016):

    (log|g| / p, sign g)  where |g| ≥ e^{−p},    (−1, e^p g)  elsewhere

Differences from the paper. Fast weights are those of the dense layers; the convolutions before them, `embed`, are slow
and shared by u and b, so that the gradients of single examples are cheap (the paper augments convolutions too). The
LSTM takes one step a segment of experience, on its mean gradient, and not one an example, so the order of examples in a
segment does not matter. ℓ of the representation is that of the task, read out linearly, also where a class has more
than one example (the paper then has a contrastive loss). τ is learned, and is 1 in the paper.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.data.ring import Ring
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.attention import attend
from quickstudy.nn.gradients import log_and_sign
from quickstudy.nn.layers import Linear, LSTMCell
from quickstudy.nn.measures import squared_error
from quickstudy.nn.models import MLP
from quickstudy.nn.statistics import refuse
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import Positive, as_floats

SMALLEST = 7.0  # p: sizes of gradients are distinguished down to e^−p
CAUTION = 0.1  # of the usual size of first weights, so that training begins close to the slow networks


class Example(eqx.Module):
    features: Float[Array, "*rows features"]  # r_i follows from them by the Q* of the moment
    fast: Float[Array, "*rows weights"]  # W*_i


class MetaMemory(eqx.Module):
    ring: Ring  # of `Example`
    hidden: tuple[Float[Array, "coordinates units"], Float[Array, "coordinates units"]]  # of d; Q* follows from it


class Compressed(eqx.Module):
    """relu(A net(x) + c): fewer features, and so fewer fast weights behind them, which are what costs time here."""

    net: Callable
    layer: Linear

    def __call__(self, x: PyTree) -> Float[Array, "features"]:
        return jax.nn.relu(self.layer(self.net(x)))


class GradientLSTM(eqx.Module):
    """d: what a coordinate's gradients have been, and from that its fast weight. Nothing seen gives a weight of 0."""

    cell: LSTMCell
    out: Linear

    def __init__(self, units: int, *, key: Key[Array, ""]):
        first, second = jax.random.split(key)
        self.cell = LSTMCell(2, units, key=first)
        self.out = _cautious(Linear(units, 1, use_bias=False, key=second))

    def __call__(self, hidden: PyTree) -> Float[Array, "coordinates"]:
        return jax.vmap(self.out)(hidden[0])[:, 0]


class MetaNetworks(Learner):
    """`embed` maps an input to a vector of `features` numbers; `loss(prediction, y)` is of one example.

    width: of the hidden layer of b, and of both layers of u
    units: of the two networks over coordinates
    capacity: how many examples are remembered; of more than these the last ones are

    Later segments add examples to those remembered and move Q* by another step of its LSTM; the keys r_i of all that
    are remembered move with it.
    """

    embed: Callable
    represent: MLP  # u behind `embed`, with Q
    readout: Linear  # from a representation to a prediction, for its own loss
    base: MLP  # b behind `embed`, with W
    of_task: GradientLSTM  # d
    of_example: MLP  # m
    sharpness: Positive  # τ
    features: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    loss: Callable = eqx.field(static=True)

    def __init__(
        self,
        embed: Callable,
        features: int,
        outputs: int,
        *,
        key: Key[Array, ""],
        capacity: int,
        loss: Callable = squared_error,
        width: int = 64,
        units: int = 20,
        sharpness: float = 10.0,
    ):
        require_whole(1, features=features, outputs=outputs, capacity=capacity, width=width, units=units)
        refuse(embed)
        of_u, of_readout, of_b, of_d, of_m = jax.random.split(key, 5)
        self.embed, self.features, self.capacity, self.loss = embed, features, capacity, loss
        self.represent = MLP((features, width, width), key=of_u)
        self.readout = Linear(width, outputs, key=of_readout)
        self.base = MLP((features, width, outputs), key=of_b)
        self.of_task = GradientLSTM(units, key=of_d)
        writer = MLP((2, units, 1), key=of_m)
        self.of_example = eqx.tree_at(lambda m: m.layers[-1], writer, _cautious(writer.layers[-1]))
        self.sharpness = Positive(sharpness)

    def init(self, *, key: Key[Array, ""]) -> MetaMemory:
        del key
        zeros = jnp.zeros((_size(self.represent), self.of_task.cell.size))
        nothing = Example(jnp.zeros(self.features), jnp.zeros(_size(self.base)))
        return MetaMemory(Ring.empty(nothing, self.capacity), (zeros, zeros))

    def adapt(self, state: MetaMemory, experience: Labelled, *, key: Key[Array, ""]) -> MetaMemory:
        del key
        # The convolutions are gone through once: no gradient that is read below reaches behind these features.
        features = as_floats(over_axes(self.embed)(experience.x))

        def mean_loss(represent):
            losses = jax.vmap(lambda h, y: self.loss(self.readout(represent(h)), y))
            return losses(features, experience.y).mean()

        def own_gradient(h, y):
            return _flat(jax.grad(lambda base: self.loss(base(h), y))(self.base))

        of_representation = log_and_sign(_flat(jax.grad(mean_loss)(self.represent)), SMALLEST)
        of_examples = log_and_sign(jax.vmap(own_gradient)(features, experience.y), SMALLEST)
        new = Example(features, jax.vmap(jax.vmap(self.of_example))(of_examples)[..., 0])
        return MetaMemory(state.ring.push(new), jax.vmap(self.of_task.cell)(of_representation, state.hidden))

    def apply(self, state: MetaMemory, x: PyTree) -> Output:
        h, examples = as_floats(self.embed(x)), state.ring.items
        attention = attend(
            self.representation(state, h),
            jax.vmap(lambda h: self.representation(state, h))(examples.features),
            self.sharpness.value,
            state.ring.known,
        )
        return Output(prediction=augmented(self.base, _shaped(self.base, examples.fast), attention, h))

    replay = scan_replay

    def representation(self, state: MetaMemory, h: Float[Array, "features"]) -> Float[Array, "width"]:
        """u(x; Q, Q*), given what `embed` makes of x."""
        fast = _shaped(self.represent, self.of_task(state.hidden)[None])
        return augmented(self.represent, fast, jnp.ones(1), h)


def augmented(slow: MLP, fast: MLP, mix: Float[Array, "sets"], h: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
    """The network with slow weights W and fast weights W* = Σ_i mix_i W*_i; leaves of `fast` are [sets, ...]."""
    for number, layer in enumerate(slow.layers, 1):
        # Σ_i mix_i (W*_i h), not (Σ_i mix_i W*_i) h: many inputs then share one product, and need no matrix each.
        by_slow, by_fast = layer(h), mix @ jax.vmap(lambda own: own(h))(fast.layers[number - 1])  # noqa: B023
        last = number == len(slow.layers)
        h = by_slow + by_fast if last else slow.activation(by_slow) + slow.activation(by_fast)
    return h


def _cautious(layer: Linear) -> Linear:
    return jax.tree.map(lambda w: CAUTION * w, layer)


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _flat(tree: PyTree) -> Float[Array, "weights"]:
    return ravel_pytree(tree)[0]


def _shaped(like: MLP, rows: Float[Array, "sets weights"]) -> MLP:
    return jax.vmap(ravel_pytree(like)[1])(rows)
