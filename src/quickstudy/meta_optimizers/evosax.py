"""The strategies of evosax as outer loops: CMA-ES, SNES, PGPE and others (Lange 2022). Needs the extra `evosax`.

    candidates   θ_j = θ_0 + s · z_j,    z_1 … z_m by the strategy, s one number a leaf
    update       the strategy gets the score of each candidate; θ ← θ_0 + s · (the mean of its distribution)

All candidates meet the same tasks with the same keys, as under `Evolution`. CMA-ES learns the covariance of all
meta-parameters, which is what tens of numbers, such as rates and weights of losses, need, and what thousands forbid.
"""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from quickstudy.checks import require_above
from quickstudy.core import Batch, Incompatible, Learner, MetaOptimizer, Metrics, Objective
from quickstudy.meta_optimizers.evolution import finite_mean, outcome, scales
from quickstudy.parameters import combine, partition


class SearchMemory(eqx.Module):
    state: PyTree  # the strategy's own
    start: PyTree
    scale: PyTree  # one number a leaf


class Evosax(MetaOptimizer):
    """`strategy` is the name of a class of `evosax.algorithms` that searches with a distribution ("CMA_ES", "SNES",
    "PGPE", …); `population` candidates. `sigma` is where its deviation starts, relative to each leaf's own scale: the
    root mean square of its entries when training starts, but at least `floor`.

    Raises ImportError without the extra, `Incompatible` for a name that is no such class.
    """

    strategy: str = eqx.field(static=True, default="CMA_ES")
    population: int = eqx.field(static=True, default=32)
    sigma: float = eqx.field(static=True, default=0.1)
    floor: float = eqx.field(static=True, default=0.1)

    def __check_init__(self):
        if self.population < 2:
            raise ValueError(f"population must be at least 2, got {self.population}")
        require_above(0, sigma=self.sigma, floor=self.floor)

    def init(self, learner: Learner) -> SearchMemory:
        learned, _ = partition(learner)
        if not jax.tree.leaves(learned):
            raise Incompatible(f"{type(learner).__name__} has no meta-parameters: there is nothing to improve")
        searcher, parameters = self._searcher(learned)
        state = searcher.init(jax.random.key(0), jax.tree.map(jnp.zeros_like, learned), parameters)
        memory = SearchMemory(state, learned, scales(learned, self.floor))
        return jax.tree.map(jnp.array, memory)  # copies: the loop gives the learner's own buffers away

    def candidates(self, learner: Learner, memory: SearchMemory, *, key: Key[Array, ""]) -> Learner:
        asked, _ = self._ask(memory, key)
        return combine(self._at(memory, asked), partition(learner)[1])

    def update(
        self, objective: Objective, learner: Learner, memory: SearchMemory, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Learner, SearchMemory, Metrics]:
        worth, scores, diverged = outcome(objective, batch)
        learned, rest = partition(learner)
        searcher, parameters = self._searcher(learned)
        asked, state = self._ask(memory, key)
        state, _ = searcher.tell(jax.random.fold_in(key, 1), asked, -worth, state, parameters)
        moved = self._at(memory, searcher.get_mean(state))
        state = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), state, memory.state)
        metrics = {
            "loss": -finite_mean(scores),
            "diverged": diverged,
            "step_norm": optax.tree.norm(jax.tree.map(jnp.subtract, moved, learned)),
        }
        return combine(moved, rest), SearchMemory(state, memory.start, memory.scale), metrics

    def _ask(self, memory: SearchMemory, key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
        searcher, parameters = self._searcher(memory.start)
        return searcher.ask(jax.random.fold_in(key, 0), memory.state, parameters)

    def _at(self, memory: SearchMemory, z: PyTree) -> PyTree:
        return jax.tree.map(lambda start, scale, z: start + scale * z, memory.start, memory.scale, z)

    def _searcher(self, learned: PyTree) -> tuple[Any, Any]:
        try:
            from evosax import algorithms
            from evosax.algorithms.distribution_based.base import DistributionBasedAlgorithm
        except ImportError as error:
            raise ImportError("evosax is not installed: pip install 'quickstudy[evosax]'") from error
        cls = getattr(algorithms, self.strategy, None)
        if inspect.isclass(cls) and issubclass(cls, DistributionBasedAlgorithm):
            searcher = cls(population_size=self.population, solution=learned)
            parameters = searcher.default_params
            if hasattr(parameters, "std_init"):
                return searcher, parameters.replace(std_init=jnp.asarray(self.sigma))
        raise Incompatible(f"evosax has no strategy {self.strategy!r} with a distribution whose deviation can be set")
