"""Task memory: what past tasks taught is kept in slots, and a new task starts from those it resembles.

    c   = mean over the support set of e(x_i, y_i)                        the task's feature
    a   = softmax_j( τ cos(c, k_j) )                                      K slots: a key k_j, a value v_j
    φ_0 = θ + Σ_j a_j v_j,    φ_{k+1} = u(φ_k, ∇ℓ(φ_k; support)),    prediction = f(x; φ_K)

Storing is the outer gradient. It reaches a slot by  ∂L/∂v_j = a_j ∂L/∂φ_0:  every training task writes the start it
would have wanted into the slots it attended to, as far as it attended to them, and moves their keys towards itself when
they helped. Nothing is written while testing. This is the second sense in which "meta network" is used, a network with
a memory of tasks; for the memory of one task's examples see meta_networks.py.

Relatives: MMAML modulates θ by a task embedding (Vuorio et al. 2019, NeurIPS), HSML by a soft tree of task clusters
(Yao et al. 2019, ICML), ARML by a learned graph of knowledge (Yao et al. 2020, ICLR). With one slot, or K equal ones,
it is MAML from θ + v.

Where labels are names drawn anew for each task, features learn nothing from them, nor can the weights of the last
layer be corrected in any way that helps: take `OfInputs`, and let layers before the last one be fast too.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output
from quickstudy.learners.gradient.maml import Gradient, GradientState
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.attention import attend
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import Positive


class TaskMemoryState(eqx.Module):
    adapted: GradientState
    total: Float[Array, "features"]  # of e over all examples seen
    count: Float[Array, ""]

    @property
    def feature(self) -> Float[Array, "features"]:
        return self.total / jnp.maximum(self.count, 1.0)


class OfInputs(eqx.Module):
    """e for tasks whose labels mean nothing beyond them: the label is not looked at."""

    net: Callable

    def __call__(self, x: PyTree, y: PyTree) -> Float[Array, "features"]:
        del y
        return self.net(x)


class OfPairs(eqx.Module):
    """e for regression: input and label side by side."""

    net: Callable

    def __call__(self, x: Float[Array, "inputs"], y: Float[Array, "outputs"]) -> Float[Array, "features"]:
        return self.net(jnp.concatenate([x, y]))


class TaskMemory(Learner):
    """`within` adapts to a task; its fast weights are what the slots correct the start of. See `empty_memory`.

    embed: e, from the input and label of one example to a vector

    After a later segment the feature is the mean over all examples so far: the adapted weights move by what the newly
    weighted slots add to the start, and descend from there.
    """

    within: Gradient
    embed: Callable
    keys: Float[Array, "slots features"]
    values: PyTree  # the fast weights of `within`, with a leading axis of slots
    sharpness: Positive  # τ

    @property
    def inner_steps(self) -> int:
        return self.within.steps

    def with_inner_steps(self, steps: int) -> "TaskMemory":
        return dataclasses.replace(self, within=self.within.with_inner_steps(steps))

    def attention(self, feature: Float[Array, "features"]) -> Float[Array, "slots"]:
        """a; the same for every slot where nothing is known of the task and its feature is 0."""
        return attend(feature, self.keys, self.sharpness.value, jnp.ones(len(self.keys), bool))

    def init(self, *, key: Key[Array, ""]) -> TaskMemoryState:
        nothing = jnp.zeros(self.keys.shape[1])
        state = self.within.init(key=key)
        start = self._corrected(state.weights, self.attention(nothing))
        return TaskMemoryState(GradientState(start, state.memory, state.given), nothing, jnp.zeros(()))

    def adapt(self, state: TaskMemoryState, experience: Labelled, *, key: Key[Array, ""]) -> TaskMemoryState:
        embedded = over_axes(self.embed)(experience.x, experience.y)
        seen = TaskMemoryState(state.adapted, state.total + embedded.sum(0), state.count + len(embedded))
        moved = self.attention(seen.feature) - self.attention(state.feature)
        start = eqx.tree_at(lambda s: s.weights, state.adapted, self._corrected(state.adapted.weights, moved))
        return TaskMemoryState(self.within.adapt(start, experience, key=key), seen.total, seen.count)

    def apply(self, state: TaskMemoryState, x: PyTree) -> Output:
        return self.within.apply(state.adapted, x)

    replay = scan_replay

    def _corrected(self, weights: PyTree, attention: Float[Array, "slots"]) -> PyTree:
        """weights + Σ_j a_j v_j."""
        return jax.tree.map(lambda w, v: w + jnp.tensordot(attention, v, 1), weights, self.values)


def empty_memory(
    within: Gradient,
    embed: Callable,
    features: int,
    *,
    key: Key[Array, ""],
    slots: int = 8,
    scale: float = 0.01,
    sharpness: float = 5.0,
) -> TaskMemory:
    """A TaskMemory with random keys of `features` numbers.

    scale: standard deviation of the values at first; with 0 the keys would have no gradient
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")
    of_keys, of_values = jax.random.split(key)
    leaves, structure = jax.tree.flatten(within.split()[0])
    each = jax.random.split(of_values, len(leaves))
    drawn = [scale * jax.random.normal(k, (slots, *w.shape)) for k, w in zip(each, leaves, strict=True)]
    keys = jax.random.normal(of_keys, (slots, features))
    return TaskMemory(within, embed, keys, jax.tree.unflatten(structure, drawn), Positive(sharpness))
