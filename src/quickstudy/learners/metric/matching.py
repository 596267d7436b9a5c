"""Matching Networks: predict by attention over the labelled examples (Vinyals et al. 2016, NeurIPS).

    y(x) = Σ_i a(x, x_i) y_i,    a = softmax_i( τ cos(f(x), g(x_i)) )

Full-context embeddings let every example be seen in the light of the others:

    g(x_i, S) = g'(x_i) + h→_i + h←_i                              a bidirectional LSTM over the support set
    f(x, S):  ĥ_k, c_k = LSTM(f'(x), [h_{k−1}, r_{k−1}]),  h_k = ĥ_k + f'(x),  r_k = Σ_i softmax(h_k·g_i) g_i

The paper has τ = 1, which bounds how sure a prediction may be (e² to 1); here it is learned.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.data.ring import Ring
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.attention import attend, masked_softmax
from quickstudy.nn.layers import LSTMCell
from quickstudy.nn.measures import one_hot_labels
from quickstudy.nn.statistics import compute_support_stats, initial_stats, with_statistics
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import Positive, as_floats, in_types_of


class Example(eqx.Module):
    embedded: Float[Array, "*rows features"]
    target: Float[Array, "*rows outputs"]


class Examples(eqx.Module):
    ring: Ring  # of `Example`
    given: PyTree = ()  # statistics of the last segment, of networks that normalise by them


class FullContext(eqx.Module):
    """Full-context embeddings; `steps` of attention for a query (the paper's K)."""

    forwards: LSTMCell
    backwards: LSTMCell
    reader: LSTMCell
    steps: int = eqx.field(static=True)

    def __init__(self, features: int, *, key: Key[Array, ""], steps: int = 5):
        require_whole(1, features=features, steps=steps)
        first, second, third = jax.random.split(key, 3)
        self.forwards = LSTMCell(features, features, key=first)
        self.backwards = LSTMCell(features, features, key=second)
        self.reader = LSTMCell(2 * features, features, key=third)
        self.steps = steps

    def of_support(
        self, embedded: Float[Array, "capacity features"], valid: Bool[Array, "capacity"]
    ) -> Float[Array, "capacity features"]:
        """g; rows that are not valid pass the LSTMs by."""
        zero = jnp.zeros(embedded.shape[1])

        def along(cell, reverse):
            def step(hidden, row):
                x, is_known = row
                new = in_types_of(hidden, cell(x, hidden))
                hidden = jax.tree.map(lambda n, o: jnp.where(is_known, n, o), new, hidden)
                return hidden, hidden[0]

            return jax.lax.scan(step, (zero, zero), (embedded, valid), reverse=reverse)[1]

        return embedded + along(self.forwards, False) + along(self.backwards, True)

    def of_query(
        self,
        embedded: Float[Array, "features"],
        support: Float[Array, "capacity features"],
        valid: Bool[Array, "capacity"],
    ) -> Float[Array, "features"]:
        """f."""

        def step(carry, _):
            hidden, cell, read = carry
            out, cell = self.reader(jnp.concatenate([embedded, read]), (hidden, cell))
            hidden = out + embedded
            read = masked_softmax(support @ hidden, valid) @ support
            return in_types_of(carry, (hidden, cell, read)), None

        zero = jnp.zeros_like(embedded)
        (hidden, _, _), _ = jax.lax.scan(step, (zero, zero, zero), None, length=self.steps)
        return hidden


class Matching(Learner):
    """`embed` maps an input to a vector of `features` numbers, for examples and queries alike.

    classes: labels are whole numbers below this, and predictions are log-probabilities; None: labels are vectors of
        `outputs` numbers and are predicted as such (regression)
    capacity: how many examples are remembered; of more than these the last ones are
    """

    embed: Callable
    sharpness: Positive  # τ
    context: FullContext | None
    features: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    def __init__(
        self,
        embed: Callable,
        features: int,
        *,
        capacity: int,
        classes: int | None = None,
        outputs: int = 1,
        sharpness: float = 10.0,
        context: FullContext | None = None,
    ):
        require_whole(1, features=features, capacity=capacity, classes=classes, outputs=outputs)
        self.embed, self.sharpness, self.context = embed, Positive(sharpness), context
        self.features, self.capacity, self.classes = features, capacity, classes
        self.outputs = outputs if classes is None else classes

    def init(self, *, key: Key[Array, ""]) -> Examples:
        del key
        nothing = Example(jnp.zeros(self.features), jnp.zeros(self.outputs))
        return Examples(Ring.empty(nothing, self.capacity), initial_stats(self.embed))

    def adapt(self, state: Examples, experience: Labelled, *, key: Key[Array, ""]) -> Examples:
        del key
        target = as_floats(experience.y) if self.classes is None else one_hot_labels(experience.y, self.classes)
        new = Example(as_floats(over_axes(self.embed)(experience.x)), target)
        return Examples(state.ring.push(new), compute_support_stats(self.embed, experience.x))

    def apply(self, state: Examples, x: PyTree) -> Output:
        query, valid = as_floats(with_statistics(self.embed, state.given)(x)), state.ring.known
        support: Example = state.ring.items
        if self.context is None:
            keys = support.embedded
        else:  # it reads examples in the order in which they came, which the slots of a full ring are not in
            order = jnp.argsort(state.ring.number)
            valid, support = jax.tree.map(lambda leaf: leaf[order], (valid, support))
            keys = self.context.of_support(support.embedded, valid)
            query = self.context.of_query(query, keys, valid)
        weighted = attend(query, keys, self.sharpness.value, valid) @ support.target
        return Output(prediction=weighted if self.classes is None else jnp.log(weighted + 1e-6))

    replay = scan_replay
