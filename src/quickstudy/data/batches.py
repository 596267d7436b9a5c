"""What flows between the nouns: labelled examples, few-shot tasks, segments, transitions and outputs."""

from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, Key, PyTree

from quickstudy.data.distributions import Policy


class Labelled(eqx.Module):
    """Examples with labels; both have a leading axis of examples."""

    x: PyTree
    y: PyTree

    @property
    def axes(self) -> int:
        return 1


class FewShotTask(eqx.Module):
    """A few-shot task: adapt on `support`, be judged on `query`."""

    support: Labelled
    query: Labelled


class Segments(NamedTuple):
    """All that a task gives to adapt on, segment by segment, and the keys to do it with."""

    begin: Key[Array, "*tasks"]  # what `init` is given
    experience: PyTree  # [segments, steps, ...]
    keys: Key[Array, "*tasks segments"]  # what `adapt` is given


class Transition(eqx.Module):
    """Experience of an environment; leading axes are time, then `width` where copies run in parallel.

    `terminated`: the episode ended by itself and nothing follows. `truncated`: it was cut, something would
    have followed. `last`: the end of the trial. `next_observation` is the one before any automatic reset.
    """

    observation: PyTree
    action: PyTree
    reward: Float[Array, "*time"]
    terminated: Bool[Array, "*time"]
    truncated: Bool[Array, "*time"]
    last: Bool[Array, "*time"]
    next_observation: PyTree

    @property
    def x(self) -> PyTree:
        return self.observation

    @property
    def axes(self) -> int:
        return self.reward.ndim


class Output(eqx.Module):
    """What a learner says of one input; a loss term reads the parts it needs."""

    policy: Policy | None = None
    value: Float[Array, ""] | None = None
    prediction: PyTree = None
