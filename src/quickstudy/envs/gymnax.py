"""Any gymnax environment as a task distribution: a distribution over its `EnvParams` (Lange 2022).

Needs the extra `envs`. For example, pendulums of random mass:

    vary = lambda key, params: params.replace(m=jax.random.uniform(key, minval=0.5, maxval=2.0))
    tasks = GymnaxTasks.make("Pendulum-v1", vary)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.spec import EnvironmentTasks, Spec


class GymnaxTasks(EnvironmentTasks):
    """A task is the environment's parameters as `vary(key, default parameters)` draws them."""

    wrapped: Any = eqx.field(static=True)
    vary: Callable[[Key[Array, ""], PyTree], PyTree] = eqx.field(static=True)

    @staticmethod
    def make(name: str, vary: Callable[[Key[Array, ""], PyTree], PyTree]) -> "GymnaxTasks":
        """Raises ImportError when the extra is missing, ValueError for a name that gymnax does not know."""
        try:
            import gymnax
        except ImportError as error:
            raise ImportError("gymnax is not installed: pip install 'quickstudy[envs]'") from error
        return GymnaxTasks(gymnax.make(name)[0], vary)

    @property
    def environment(self) -> Any:
        return self.wrapped

    @property
    def spec(self) -> Spec:
        """Raises TypeError for spaces that no policy here supports (the supported ones: discrete and box actions,
        flat box observations)."""
        params = self.environment.default_params
        seen, done = self.environment.observation_space(params), self.environment.action_space(params)
        name = self.environment.name
        if len(getattr(seen, "shape", ())) != 1:
            raise TypeError(f"{name} observes {seen}; supported: vectors")
        if hasattr(done, "n"):
            return Spec(observation=seen.shape[0], actions=int(done.n))
        if len(getattr(done, "shape", ())) != 1:
            raise TypeError(f"{name} takes actions from {done}; supported: discrete choices and vectors")
        return Spec(observation=seen.shape[0], actions=None, dims=done.shape[0])

    def sample(self, *, key: Key[Array, ""]) -> PyTree:
        # Constants of the parameters become arrays: in a batch every leaf of a task has a task axis.
        default = jax.tree.map(jnp.asarray, self.environment.default_params)
        return jax.tree.map(jnp.asarray, self.vary(key, default))

    def split(self) -> Splits:
        return split_by_stream(self)


def random_cartpole(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Half-length of the pole U[0.25, 1] m, force U[5, 20] N (gymnax's constants are 0.5 and 10)."""
    length, force = jax.random.split(key)
    length = jax.random.uniform(length, minval=0.25, maxval=1.0)
    return params.replace(
        length=length,
        polemass_length=params.masspole * length,
        force_mag=jax.random.uniform(force, minval=5.0, maxval=20.0),
    )


def random_pendulum(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Mass U[0.5, 2] kg (gymnax's constant is 1)."""
    return params.replace(m=jax.random.uniform(key, minval=0.5, maxval=2.0))


def random_acrobot(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Length of the lower link U[0.7, 1.3] m, with its centre of mass in the middle, and masses of both links
    U[0.7, 1.3] kg (gymnax's constants are 1, 0.5 and 1)."""
    length, first, second = jax.random.uniform(key, (3,), minval=0.7, maxval=1.3)
    return params.replace(link_length_2=length, link_com_pos_2=length / 2, link_mass_1=first, link_mass_2=second)
