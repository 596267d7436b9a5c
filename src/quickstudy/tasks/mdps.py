"""Random tabular MDPs: 10 states, 5 actions, episodes of 10 steps that begin in state 0.

Mean rewards μ(s, a) ~ N(1, 1), rewards N(μ, 1), transitions Dirichlet(1, …, 1). Duan et al. 2016, section 3.2;
the family is that of Osband et al. 2013, "(More) Efficient Reinforcement Learning via Posterior Sampling".
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.core import Splits, split_by_stream
from quickstudy.tasks.environment import EnvironmentTasks, Spec, Stepped, auto_reset


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


class TabularMDPs(EnvironmentTasks):
    """A task is an `MDP`."""

    states: int = eqx.field(static=True, default=10)
    actions: int = eqx.field(static=True, default=5)
    episode: int = eqx.field(static=True, default=10)

    @property
    def environment(self) -> MDPEnvironment:
        return MDPEnvironment(self.states, self.episode)

    @property
    def spec(self) -> Spec:
        return Spec(observation=self.states, actions=self.actions)

    def sample(self, num: int, *, key: Key[Array, ""]) -> MDP:
        def one(key: Key[Array, ""]) -> MDP:
            r, t = jax.random.split(key)
            shape = (self.states, self.actions)
            reward = 1.0 + jax.random.normal(r, shape)
            # Dirichlet(1, …, 1): normalised exponentials
            weights = jax.random.exponential(t, (*shape, self.states))
            return MDP(reward, weights / weights.sum(-1, keepdims=True))

        return jax.vmap(one)(jax.random.split(key, num))

    def split(self) -> Splits:
        return split_by_stream(self)
