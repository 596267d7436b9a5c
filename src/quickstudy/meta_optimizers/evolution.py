"""Evolution strategies: estimate the gradient of the score from the scores of a population of learners.

    ∇_θ E[F(θ + σε)]  ≈  1/(2mσ) Σ_{j≤m} (F(θ + σε_j) − F(θ − σε_j)) ε_j,   ε_j ~ N(0, I)

Pairs are antithetic, and all candidates meet the same tasks with the same keys, so that what differs is what the
perturbation did. Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning";
over MAML's learner it is ES-MAML (Song et al. 2020).
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree

from quickstudy.checks import require_above, require_one_of
from quickstudy.core import Batch, Incompatible, Learner, MetaOptimizer, Metrics, Objective
from quickstudy.parallel.keys import task_keys
from quickstudy.parallel.reduce import mean_over_devices, sum_over_devices
from quickstudy.parameters import combine, partition
from quickstudy.rl.standardise import standardise


class EvolutionMemory(eqx.Module):
    optimizer: PyTree
    scale: PyTree  # one number a leaf


def scales(learned: PyTree, floor: float) -> PyTree:
    """One number a leaf: the root mean square of its entries, at least `floor`."""
    return jax.tree.map(lambda w: jnp.maximum(jnp.sqrt((w**2).mean()), floor), learned)


def outcome(
    objective: Objective, batch: Batch
) -> tuple[Float[Array, "population"], Float[Array, "population tasks"], Bool[Array, "tasks"]]:
    """(fitness of each candidate: its mean score over all tasks, its scores, mask of the tasks left out).

    A task is left out where no candidate has a finite score: it says nothing of their difference. A candidate whose
    score is not finite in another task ranks last: below the worst of the others by as much as they differ.
    """
    scores = jax.vmap(objective.score)(batch)
    finite = jnp.isfinite(scores)
    diverged = ~finite.any(0)
    ill = sum_over_devices((~finite & ~diverged).any(1)) > 0
    mean = mean_over_devices(jnp.where(finite, scores, 0.0).mean(1))
    worst, best = jnp.where(ill, jnp.inf, mean).min(), jnp.where(ill, -jnp.inf, mean).max()
    last = worst - jnp.maximum(best - worst, 1e-3 * jnp.maximum(jnp.abs(worst), 1.0))
    return jnp.where(ill.all(), 0.0, jnp.where(ill, last, mean)), scores, diverged


def finite_mean(scores: Float[Array, "population tasks"]) -> Float[Array, "tasks"]:
    """Of each task, over the candidates whose score is finite there; NaN where there is none."""
    finite = jnp.isfinite(scores)
    return jnp.where(finite, scores, 0.0).sum(0) / finite.sum(0)


class Evolution(MetaOptimizer):
    """`population` candidates (even); `sigma` is relative to each leaf's own scale: the root mean square of its
    entries when training starts, but at least `floor`, so that leaves of zeros move too.

    fitness: "ranks" (centred ranks over the population, which no outlier can sway), "standardised", or "raw" (the
    plain estimate of the gradient).
    """

    optimizer: optax.GradientTransformation = eqx.field(static=True)
    population: int = eqx.field(static=True, default=64)
    sigma: float = eqx.field(static=True, default=0.1)
    floor: float = eqx.field(static=True, default=0.1)
    fitness: Literal["ranks", "standardised", "raw"] = eqx.field(static=True, default="ranks")

    def __check_init__(self):
        if self.population < 2 or self.population % 2:
            raise ValueError(f"population must be even and at least 2 (antithetic pairs), got {self.population}")
        require_above(0, sigma=self.sigma, floor=self.floor)
        require_one_of(("ranks", "standardised", "raw"), fitness=self.fitness)

    def init(self, learner: Learner) -> EvolutionMemory:
        learned, _ = partition(learner)
        if not jax.tree.leaves(learned):
            raise Incompatible(f"{type(learner).__name__} has no meta-parameters: there is nothing to improve")
        return EvolutionMemory(self.optimizer.init(learned), scales(learned, self.floor))

    def candidates(self, learner: Learner, memory: EvolutionMemory, *, key: Key[Array, ""]) -> Learner:
        learned, rest = partition(learner)
        noise = self._noise(learned, memory.scale, key)
        plus = jax.tree.map(lambda w, e: w + self.sigma * e, learned, noise)
        minus = jax.tree.map(lambda w, e: w - self.sigma * e, learned, noise)
        return combine(jax.tree.map(lambda p, m: jnp.concatenate([p, m]), plus, minus), rest)

    def update(
        self, objective: Objective, learner: Learner, memory: EvolutionMemory, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Learner, EvolutionMemory, Metrics]:
        mean, scores, diverged = outcome(objective, batch)
        fitness = self._shape(mean)
        learned, rest = partition(learner)
        noise = self._noise(learned, memory.scale, key)
        plus, minus = jnp.split(fitness, 2)
        estimate = lambda e: -jnp.tensordot(plus - minus, e, 1) / (self.population * self.sigma)
        # ε was scaled leaf by leaf: dividing by the scale twice gives the gradient in the leaf's own units.
        gradient = jax.tree.map(lambda e, s: (estimate(e) / s**2).astype(e.dtype), noise, memory.scale)
        moves, optimizer = self.optimizer.update(gradient, memory.optimizer, learned)
        metrics = {
            "loss": -finite_mean(scores),
            "diverged": diverged,
            "gradient_norm": optax.tree.norm(gradient),
        }
        return combine(optax.apply_updates(learned, moves), rest), EvolutionMemory(optimizer, memory.scale), metrics

    def _noise(self, learned: PyTree, scale: PyTree, key: Key[Array, ""]) -> PyTree:
        """Of each pair of candidates, [pairs, ...] a leaf; a pair's depends on its number alone."""
        leaves, structure = jax.tree.flatten(learned)
        draw = lambda k, w, s: (s * jax.random.normal(k, w.shape, w.dtype)).astype(w.dtype)

        def of_pair(key: Key[Array, ""]) -> PyTree:
            keys = jax.random.split(key, len(leaves))
            return jax.tree.unflatten(structure, list(map(draw, keys, leaves, jax.tree.leaves(scale))))

        return jax.vmap(of_pair)(task_keys(key, jnp.arange(self.population // 2)))

    def _shape(self, score: Float[Array, "population"]) -> Float[Array, "population"]:
        if self.fitness == "ranks":
            ordered = jnp.sort(score)  # equal scores have one rank, the mean of theirs: else order would be fitness
            below, up_to = (jnp.searchsorted(ordered, score, side=side) for side in ("left", "right"))
            return (below + up_to - 1) / 2 / (self.population - 1) - 0.5
        if self.fitness == "standardised":
            return standardise(score)
        return score
