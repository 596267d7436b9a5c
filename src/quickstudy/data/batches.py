"""What flows between the nouns: labelled examples, few-shot tasks, segments, transitions, rollouts and outputs."""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

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
    """Experience of an environment; leading axes are time, then `num_envs` where several environments run in parallel.

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


class Rollout(eqx.Module):
    """What a collector brings of one window of every task's trial: [tasks, segments, steps] or, with parallel
    environments, [tasks, segments, steps, num_envs]. Values are in the learner's own units."""

    transition: Transition
    log_prob: Float[Array, "..."]  # of the actions
    value: Float[Array, "..."] | None  # of the observations, before the actions; None where the learner returns none
    cut_value: Float[Array, "..."] | None  # of `next_observation`, had the episode gone on; None where not asked for
    end_value: Float[Array, "..."] | None  # [tasks (, num_envs)], of the observation after the window
    key: Key[Array, "*tasks"]  # what `init` was given
    keys: Key[Array, "*tasks segments"]  # what `adapt` was given
    start: PyTree  # the learner's state when the window began; () where every trial begins in it
    time: Int[Array, "*tasks"]  # steps of the trial before the window


class RolloutBatch(eqx.Module):
    """What loss terms of policies and values read: steps in any arrangement [...], with one task's fields or, with a
    leading axis, those of many. The fields with a default are of whole trials: inside a learner, which learns from one
    segment of its own, they are None. (Their types say Any, as a term reads only those that it was given.)"""

    transition: Transition
    log_prob: Float[Array, "..."]  # of the actions, when they were taken
    advantage: Float[Array, "..."]
    value_target: Float[Array, "..."]  # λ-returns, in the units of the learner's values
    mask: Bool[Array, "..."]  # False during burn-in; [tasks, segments, steps (, 1)]
    standardised_return: Float[Array, "*tasks"] | Any = None  # after burn-in, in deviations from the mean of all tasks
    key: Key[Array, "*tasks"] | Any = None  # what `init` is given
    keys: Key[Array, "*tasks segments"] | Any = None  # what `adapt` is given
    loss_key: Key[Array, "*tasks"] | Any = None  # for loss terms that draw
    start: PyTree = ()  # the learner's state when the window began; () where every trial begins in it
    is_first: Bool[Array, "*tasks"] | Any = None  # whether the trial began here, so that `start` does not count
    diverged: Bool[Array, "*tasks"] | Any = None  # whether an observation, an output or a reward is not finite
