"""The two-step task, which distinguishes model-based from model-free learning (Daw et al. 2011; Akam et al. 2015).

A first choice leads to one of two states, commonly (0.8) to its own and rarely to the other's. One of the states pays 1
with probability 0.9, the other with 0.1, and which is which changes with probability 0.025 after each trial. After
a rare transition that paid, whoever knows the transitions makes the other choice, and who does not the same one.

As in Wang et al. 2016 ("Learning to reinforcement learn", section 3.2.1; Wang et al. 2018, simulation 4, has these
figures) nothing is to be chosen in the second state, so a trial is one step: the observation is the state that the
choice before led to, one-hot, and zeros at first. Action i is the choice of which state i is the common outcome.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.spec import EnvironmentTasks, Spec, Stepped

COMMON, PAYS, SWITCHES = 0.8, 0.9, 0.025


class TwoStepEnvironment(eqx.Module):
    """One endless episode. The state is which of the two states pays more; `params` is which does at first."""

    def reset(self, key: Key[Array, ""], params: Int[Array, ""]):
        del key
        return jnp.zeros(2), params

    def step(
        self, key: Key[Array, ""], state: Int[Array, ""], action: Int[Array, ""], params: Int[Array, ""]
    ) -> Stepped:
        del params
        go, pay, switch = jax.random.split(key, 3)
        reached = jnp.where(jax.random.bernoulli(go, COMMON), action, 1 - action)
        reward = jax.random.bernoulli(pay, jnp.where(reached == state, PAYS, 1 - PAYS)).astype(float)
        state = jnp.where(jax.random.bernoulli(switch, SWITCHES), 1 - state, state)
        seen, never = jax.nn.one_hot(reached, 2), jnp.zeros((), bool)
        return seen, state, reward, never, never, {"final_observation": seen}


class TwoStep(EnvironmentTasks):
    """A task is which state pays more at first; the changes are drawn as the trial is rolled out."""

    environment = TwoStepEnvironment()

    @property
    def spec(self) -> Spec:
        return Spec(observation=2, actions=2)

    def sample(self, *, key: Key[Array, ""]) -> Int[Array, ""]:
        return jax.random.randint(key, (), 0, 2)

    def split(self) -> Splits:
        return split_by_stream(self, "training meets both states as the better one: which one it is changes all along")


def value(belief: Float[Array, ""]) -> Float[Array, "2"]:
    """What to expect of either choice where state 0 is the better one with probability `belief`."""
    of_states = 1 - PAYS + (2 * PAYS - 1) * jnp.stack([belief, 1 - belief])
    return COMMON * of_states + (1 - COMMON) * of_states[::-1]
