"""Meta-knowledge transfer: what tasks share is a network, what one task adds is linear in that network's features.

    Q(s, a) = K_ψ(s, a) + φᵀ f_ψ(s, a),   φ_0 = 0                              only φ moves inside a task

    proximal   φ ← (φ − α g) / (1 + αλ) = argmin_u  gᵀu + ‖u − φ‖²/2α + λ‖u‖²/2,   g = −mean z (y − hᵀφ)
    ridge      (λI + Σ z hᵀ) φ = Σ z y                                 over all experience of the task so far

in the equations z (y − hᵀφ) = 0, one an example:

    regression   z = h = f(x),   y = label − K(x)
    control      z = f(s, a),   h = z − γ f(s', a'),   y = r + γ K(s', a') − K(s, a),   a' = argmax Q(s', ·)

so that y − hᵀφ is the label's or the temporal difference's error, and g its semi-gradient. λ is the guidance: at ∞ the
knowledge alone speaks. ψ, α and λ are learned outside, by the loss on what comes later in the same task.

The ridge of regression is the posterior mean of ALPaCA (Harrison, Sharma, Pavone 2018) and the solver of R2-D2
(Bertinetto, Henriques, Torr, Vedaldi 2019); that of control is least-squares temporal differences, here in the
recursive form of Bradtke and Barto 1996. See docs/learners/mktn.md for where the name comes from.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_above, require_at_least, require_between, require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Labelled, Output, Transition
from quickstudy.data.distributions import Categorical
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import unwrap


class Known(eqx.Module):
    """The shared network's outputs for an input: K of every output, or action, and the features f of each."""

    knowledge: Float[Array, "*axes outputs"]
    features: Float[Array, "*axes outputs size"]

    def values(self, weights: Float[Array, "size"]) -> Float[Array, "*axes outputs"]:
        return self.knowledge + self.features @ weights


class Equations(eqx.Module):
    """Rows of z (y − hᵀφ) = 0."""

    z: Float[Array, "rows size"]
    h: Float[Array, "rows size"]
    y: Float[Array, "rows"]


class Inner(eqx.Module):
    """What is known of one task."""

    weights: Float[Array, "size"]  # φ
    inverse: Float[Array, "size size"] | None  # of λI + Σ z hᵀ, which only the ridge needs


class Rule(eqx.Module):
    """How φ takes in a segment of experience."""

    @abc.abstractmethod
    def init(self, size: int) -> Inner: ...

    @abc.abstractmethod
    def absorb(self, inner: Inner, equations: Callable[[Array], Equations], steps: int) -> Inner:
        """`equations` of the segment under some φ, which chooses the actions that follow."""


class Proximal(Rule):
    """Steps of semi-gradient. rate, guidance: α and λ, numbers or `Positive`."""

    rate: Any
    guidance: Any

    def __check_init__(self):
        require_above(0, rate=self.rate)
        require_at_least(0, guidance=self.guidance)

    def init(self, size: int) -> Inner:
        return Inner(jnp.zeros(size), None)

    def absorb(self, inner: Inner, equations: Callable[[Array], Equations], steps: int) -> Inner:
        rate, guidance = unwrap((self.rate, self.guidance))

        def step(weights: Array, _: None) -> tuple[Array, None]:
            e = equations(weights)
            gradient = -e.z.T @ (e.y - e.h @ weights) / len(e.y)
            return (weights - rate * gradient) / (1 + rate * guidance), None

        return Inner(jax.lax.scan(step, inner.weights, None, length=steps)[0], None)


class Ridge(Rule):
    """The solution, kept up to date row by row. guidance: λ, a number above 0 or `Positive`.

    It is exact after one step, so more `steps` on the same segment change nothing.
    """

    guidance: Any

    def __check_init__(self):
        require_above(0, guidance=self.guidance)

    def init(self, size: int) -> Inner:
        return Inner(jnp.zeros(size), jnp.eye(size) / unwrap(self.guidance))

    def absorb(self, inner: Inner, equations: Callable[[Array], Equations], steps: int) -> Inner:
        def add(inner: Inner, row: Equations) -> tuple[Inner, None]:  # Sherman and Morrison 1950
            weights, inverse = inner.weights, inner.inverse
            assert inverse is not None
            gain = inverse @ row.z / (1 + row.h @ inverse @ row.z)
            weights = weights + gain * (row.y - row.h @ weights)
            return Inner(weights, inverse - jnp.outer(gain, row.h @ inverse)), None

        return jax.lax.scan(add, inner, equations(inner.weights))[0] if steps else inner


class Reading(eqx.Module):
    """What values mean: how experience becomes equations, and values an `Output`."""

    @abc.abstractmethod
    def inputs(self, experience: PyTree) -> PyTree:
        """The inputs that the network is applied to, by their place in the experience."""

    @abc.abstractmethod
    def equations(self, known: PyTree, experience: PyTree, weights: Float[Array, "size"]) -> Equations:
        """The equations that the weights solve; `known` holds the network's outputs for `inputs`."""

    @abc.abstractmethod
    def output(self, values: Float[Array, "outputs"]) -> Output: ...


class Regression(Reading):
    """Values are predictions of labels."""

    def inputs(self, experience: Labelled) -> tuple[PyTree]:
        return (experience.x,)

    def equations(self, known: tuple[Known], experience: Labelled, weights: Float[Array, "size"]) -> Equations:
        features = known[0].features.reshape(-1, len(weights))
        return Equations(features, features, (experience.y - known[0].knowledge).reshape(-1))

    def output(self, values: Float[Array, "outputs"]) -> Output:
        return Output(prediction=values)


class Control(Reading):
    """Values are those of actions, of which it chooses by softmax(Q/temperature) mixed with chance.

    discount: γ
    temperature: in the unit of returns; numbers or `Positive`
    epsilon: probability of an action drawn uniformly
    """

    discount: float = eqx.field(static=True, default=0.95)
    temperature: Any = 0.05
    epsilon: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        require_between(0, 1, discount=self.discount, epsilon=self.epsilon)
        require_above(0, temperature=self.temperature)

    def inputs(self, experience: Transition) -> tuple[PyTree, PyTree]:
        return experience.observation, experience.next_observation

    def equations(self, known: tuple[Known, Known], experience: Transition, weights: Float[Array, "size"]) -> Equations:
        now, then = known
        actions = now.knowledge.shape[-1]
        taken = jax.nn.one_hot(experience.action, actions)
        best = jax.nn.one_hot(then.values(weights).argmax(-1), actions)
        best = best * (self.discount * ~experience.terminated)[..., None]
        of = lambda known, chosen: jnp.einsum("...a,...af->...f", chosen, known.features)
        z = of(now, taken)
        y = experience.reward + (best * then.knowledge).sum(-1) - (taken * now.knowledge).sum(-1)
        flat = lambda x: x.reshape(-1, len(weights))
        return Equations(flat(z), flat(z - of(then, best)), y.reshape(-1))

    def output(self, values: Float[Array, "outputs"]) -> Output:
        log_probs = jax.nn.log_softmax(values / unwrap(self.temperature))
        if self.epsilon:
            log_probs = jnp.logaddexp(jnp.log1p(-self.epsilon) + log_probs, jnp.log(self.epsilon / len(values)))
        return Output(policy=Categorical(log_probs), value=values.max(), prediction=values)


class MKTN(Learner):
    """net: from an input to outputs × (1 + size) numbers, of each output or action K and then u, which is made shorter
        than 1: f = u / √(1 + ‖u‖²). A callable, or `Frozen`
    size: of φ
    steps: of the rule, on each segment; with 0 the output is the knowledge alone
    knowledge: False takes K for 0, so that all of a value is learned inside the task
    """

    net: Any
    rule: Rule
    reading: Reading
    size: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1)
    knowledge: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        require_whole(1, size=self.size)
        require_whole(0, steps=self.steps)

    @property
    def inner_steps(self) -> int:
        return self.steps

    def with_inner_steps(self, steps: int) -> "MKTN":
        return dataclasses.replace(self, steps=steps)

    def init(self, *, key: Key[Array, ""]) -> Inner:
        del key
        return self.rule.init(self.size)

    def adapt(self, state: Inner, experience: PyTree, *, key: Key[Array, ""]) -> Inner:
        del key
        return self._absorbed(state, self._known(experience, experience.axes), experience)

    def apply(self, state: Inner, x: PyTree) -> Output:
        return self.reading.output(self.known(x).values(state.weights))

    def replay(self, state: Inner, experience: PyTree, *, key: Key[Array, "segments"]) -> Output:
        """ψ is constant in a trial, so the network is applied to all moments at once; only φ goes step by step."""
        del key
        axes = jax.tree.map(lambda x: x[0], experience).axes
        known = self._known(experience, axes + 1)

        def segment(state: Inner, item: PyTree) -> tuple[Inner, Array]:
            return self._absorbed(state, *item), state.weights

        _, weights = jax.lax.scan(segment, state, (known, experience))
        values = jax.vmap(lambda now, weights: now.values(weights))(known[0], weights)
        return over_axes(self.reading.output, axes + 1)(values)

    def known(self, x: PyTree) -> Known:
        """K and f of one input."""
        raw = unwrap(self.net)(x).reshape(-1, 1 + self.size)
        features = raw[:, 1:]
        # Shorter than 1, so that a step of rate α corrects at most the share α of an error: without that the outer loop
        # can leave the rates at which the inner one is stable.
        features = features / jnp.sqrt(1 + (features**2).sum(-1, keepdims=True))
        return Known(raw[:, 0] * self.knowledge, features)

    def _known(self, experience: PyTree, axes: int) -> tuple[Known, ...]:
        return over_axes(lambda *inputs: jax.tree.map(self.known, inputs), axes)(*self.reading.inputs(experience))

    def _absorbed(self, state: Inner, known: tuple[Known, ...], experience: PyTree) -> Inner:
        return self.rule.absorb(state, lambda weights: self.reading.equations(known, experience, weights), self.steps)
