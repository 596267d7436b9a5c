"""Replay: `apply` and `adapt` again along a trial, without the environment."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from quickstudy.core import Experience, Incompatible, Outputs, State
from quickstudy.parallel.axes import over_axes


def require_single_env(experience: PyTree) -> None:
    """Raises `Incompatible` for experience of parallel copies."""
    if experience.axes != 1:
        raise Incompatible("a learner that adapts at every step takes one environment: use num_envs=None")


def along(learner: Any, state: State, experience: Experience) -> Outputs:
    """`apply` for every input of a segment, the state frozen; `experience.axes` says how many axes lead."""
    return over_axes(lambda x: learner.apply(state, x), experience.axes)(experience.x)


def scan_replay(learner: Any, state: State, experience: Experience, *, key: Key[Array, "segments"]) -> Outputs:
    """Replay by doing it again: apply along a segment, adapt on it, and on to the next.

    The last segment is applied outside the scan: nobody asks what would be learned from it.
    """

    def segment(state, item):
        experience, key = item
        return learner.adapt(state, experience, key=key), along(learner, state, experience)

    before = jax.tree.map(lambda x: x[:-1], experience)
    final = jax.tree.map(lambda x: x[-1], experience)
    state, outputs = jax.lax.scan(segment, state, (before, key[:-1]))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), outputs, along(learner, state, final))
