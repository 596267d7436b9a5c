"""Random tabular MDPs: 10 states, 5 actions, episodes of 10 steps that begin in state 0.

TabularMDPs   mean rewards μ(s, a) ~ N(1, 1), rewards N(μ, 1), transitions Dirichlet(1, …, 1). Duan et al. 2016,
              section 3.2; the family of Osband et al. 2013, "(More) Efficient Reinforcement Learning via Posterior
              Sampling". Tasks share nothing but that prior
KernelMDPs    mixtures of a few tables that all tasks share, and a residual of each task's own
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.checks import require_above, require_at_least, require_whole
from quickstudy.core import TEST_STREAM, HeldOut, Splits, split_by_stream
from quickstudy.envs.device import auto_reset
from quickstudy.envs.spec import EnvironmentTasks, Spec, Stepped


class MDP(eqx.Module):
    """A task: mean rewards, and the probabilities of the next state."""

    reward: Float[Array, "states actions"]
    transition: Float[Array, "states actions states"]


class MDPState(eqx.Module):
    state: Int[Array, ""]
    time: Int[Array, ""]


class MDPEnvironment(eqx.Module):
    """The observation is the state, one-hot; an episode is cut after `episode` steps."""

    states: int = eqx.field(static=True)
    episode: int = eqx.field(static=True)

    def reset(self, key: Key[Array, ""], params: MDP):
        del key, params
        return jax.nn.one_hot(0, self.states), MDPState(jnp.zeros((), int), jnp.zeros((), int))

    def step(self, key: Key[Array, ""], state: MDPState, action: Int[Array, ""], params: MDP) -> Stepped:
        move, pay, reset = jax.random.split(key, 3)
        reward = params.reward[state.state, action] + jax.random.normal(pay)
        following = jax.random.categorical(move, jnp.log(params.transition[state.state, action])).astype(int)
        state = MDPState(following, state.time + 1)
        after = (
            jax.nn.one_hot(following, self.states),
            state,
            reward,
            jnp.zeros((), bool),
            state.time >= self.episode,
        )
        return auto_reset(self, reset, after, params)


class MDPs(EnvironmentTasks):
    """A task is an `MDP`."""

    states: int = eqx.field(static=True, default=10)
    actions: int = eqx.field(static=True, default=5)
    episode: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        require_whole(1, states=self.states, actions=self.actions, episode=self.episode)

    @property
    def environment(self) -> MDPEnvironment:
        return MDPEnvironment(self.states, self.episode)

    @property
    def spec(self) -> Spec:
        return Spec(observation=self.states, actions=self.actions)

    def split(self) -> Splits:
        return split_by_stream(self)


class TabularMDPs(MDPs):
    """`mean` is that of the mean rewards."""

    mean: float = eqx.field(static=True, default=1.0)

    def sample(self, *, key: Key[Array, ""]) -> MDP:
        r, t = jax.random.split(key)
        shape = (self.states, self.actions)
        reward = self.mean + jax.random.normal(r, shape)
        # Dirichlet(1, …, 1): normalised exponentials
        weights = jax.random.exponential(t, (*shape, self.states))
        return MDP(reward, weights / weights.sum(-1, keepdims=True))


class KernelMDPs(MDPs):
    """Tasks that share structure and differ in a residual: with w ~ Dirichlet(mixing) and the same kernels P_k, M_k for
    all tasks, transitions ~ Dirichlet(closeness · Σ w_k P_k) and mean rewards μ ~ N(Σ w_k M_k, spread²).

    Kernels: P_k(s, a) ~ Dirichlet(0.3), M_k(s, a) ~ N(1, 1), drawn by the number `family`. A task is an `MDP`.

    shifted: test on tasks with thrice that spread and a tenth of that closeness, which have less in common
    """

    kernels: int = eqx.field(static=True, default=4)
    mixing: float = eqx.field(static=True, default=0.3)
    closeness: float = eqx.field(static=True, default=50.0)
    spread: float = eqx.field(static=True, default=0.5)
    family: int = eqx.field(static=True, default=0)
    shifted: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        require_whole(1, kernels=self.kernels)
        require_above(0, mixing=self.mixing, closeness=self.closeness)
        require_at_least(0, spread=self.spread)

    def split(self) -> Splits:
        if not self.shifted:
            return super().split()
        apart = dataclasses.replace(self, spread=3 * self.spread, closeness=self.closeness / 10, shifted=False)
        note = f"the test's MDPs have a spread of {apart.spread:g} and a closeness of {apart.closeness:g}"
        return split_by_stream(self)._replace(test=HeldOut(apart, TEST_STREAM, note))

    def shared(self) -> tuple[Float[Array, "kernels states actions"], Float[Array, "kernels states actions states"]]:
        """The kernels: (mean rewards, transitions)."""
        r, t = jax.random.split(jax.random.key(self.family))
        shape = (self.kernels, self.states, self.actions)
        return 1.0 + jax.random.normal(r, shape), jax.random.dirichlet(t, jnp.full(self.states, 0.3), shape)

    def sample(self, *, key: Key[Array, ""]) -> MDP:
        mix, r, t = jax.random.split(key, 3)
        weights = jax.random.dirichlet(mix, jnp.full(self.kernels, self.mixing))
        reward, transition = (jnp.tensordot(weights, table, 1) for table in self.shared())
        return MDP(
            reward + self.spread * jax.random.normal(r, reward.shape),
            jax.random.dirichlet(t, self.closeness * transition),
        )
