"""Prototypical networks: a class is the mean of its embedded examples (Snell, Swersky, Zemel 2017, NeurIPS).

    c_k = 1/|S_k| Σ_{(x_i, y_i) ∈ S_k} f(x_i),    p(y = k | x) = softmax_k( −‖f(x) − c_k‖² )

With the identity for f it is the nearest-centroid classifier, which learns nothing: a baseline.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.measures import one_hot_labels
from quickstudy.nn.statistics import compute_support_stats, initial_stats, with_statistics
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import as_floats

UNSEEN = -1e9  # logit of a class without examples: finite, so that a loss on it is too


class Prototypes(eqx.Module):
    total: Float[Array, "ways features"]  # of the embedded examples of each class
    count: Float[Array, "ways"]
    given: PyTree = ()  # statistics of the last segment, of networks that normalise by them


class Prototypical(Learner):
    """`embed` maps an input to a vector of `features` numbers; labels are whole numbers below `ways`.

    Any number of examples, in any segments, gives the same prototypes as all at once; but with statistics of the
    support set (normalise="support") each segment is embedded with its own.
    """

    embed: Callable
    features: int = eqx.field(static=True)
    ways: int = eqx.field(static=True)

    def __check_init__(self):
        require_whole(1, features=self.features, ways=self.ways)

    def init(self, *, key: Key[Array, ""]) -> Prototypes:
        del key
        return Prototypes(jnp.zeros((self.ways, self.features)), jnp.zeros(self.ways), initial_stats(self.embed))

    def adapt(self, state: Prototypes, experience: Labelled, *, key: Key[Array, ""]) -> Prototypes:
        del key
        belongs = one_hot_labels(experience.y, self.ways)
        embedded = as_floats(over_axes(self.embed)(experience.x))
        given = compute_support_stats(self.embed, experience.x)
        return Prototypes(state.total + belongs.T @ embedded, state.count + belongs.sum(0), given)

    def apply(self, state: Prototypes, x: PyTree) -> Output:
        prototypes = state.total / jnp.maximum(state.count, 1.0)[:, None]
        z = as_floats(with_statistics(self.embed, state.given)(x))
        # Differences, and no ‖z‖² − 2 zᵀc + ‖c‖²: far from the origin that takes one large number from another.
        distance = ((z - prototypes) ** 2).sum(1)
        return Output(prediction=jnp.where(state.count == 0, UNSEEN, -distance))

    replay = scan_replay
