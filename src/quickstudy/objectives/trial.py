"""The return of a trial in an environment, and everything between RL² and PPO.

A trial is `trial_length` environment steps in one task: segments of `segment_length` steps with the learner's state
fixed, each followed by one adaptation.

    segment_length=1                          RL² and other memories
    segment_length=episode, num_envs=20       MAML-RL: 20 parallel trajectories, then an inner step
    segment_length=128, num_envs=16           PPO as an inner loop

`collect` rolls the trials out; `loss` replays the learner's adaptation without the environment and adds up loss terms
of its outputs now. The first `burn_in` steps of a trial do not count (MAML judges only what follows adaptation). With
a `bptt_length` shorter than the trial, a meta-step takes only so many steps, unfinished trials wait in the objective's
memory, and the gradient is cut there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from quickstudy.checks import require_between, require_one_of, require_whole
from quickstudy.collectors.collector import Collector, Schedule, TaskKeys
from quickstudy.collectors.device import DeviceCollector
from quickstudy.core import Incompatible, Learner, Metrics, ObjectiveMemory, Tasks
from quickstudy.data.batches import Rollout, RolloutBatch, Segments
from quickstudy.objectives import fits
from quickstudy.objectives.episodes import mean_return
from quickstudy.objectives.segments import SegmentObjective
from quickstudy.parameters import starts_from_leaves
from quickstudy.rl import losses
from quickstudy.rl.advantages import Ends, gae, gae_of_fit, linear_baseline, next_values, rewards_to_go
from quickstudy.rl.losses import LossTerm
from quickstudy.rl.standardise import standardise_over_tasks
from quickstudy.rl.value_statistics import ValueStatistics


class Trial(SegmentObjective):
    """`environment` follows gymnax (see quickstudy.envs.spec); tasks are its parameters.

    trial_length, segment_length, burn_in, bptt_length, curve_interval: in environment steps (of each parallel one)
    num_envs: parallel environments a task; None for one stream without that axis
    terms: (weight, loss term) pairs; they add up
    discount, gae_lambda: γ and λ of the advantages, in [0, 1]
    baseline: "value" reads the learner's own value; "linear" fits one to each segment; "none" is 0
    across_episodes: whether credit passes the end of an episode, a trial being one long episode (RL²), or not (MAML-RL)
    normalise: advantages to mean 0 and deviation 1, over all tasks
    normalise_values: the learner's values are outputs in units of running return statistics (`ValueStatistics`), where
        `losses.value` trains them and nothing else depends on their unit; else they are in units of the reward
    act: "sample" or "mode" of the policy
    per_episode: score and curve are the mean return of the episodes that ended in the time, not the total reward
    allow_cut_start: allow a `bptt_length` although the learner's start lies before it, and with it a biased gradient
    collector: what rolls out, made of the environment and a `Schedule`
    """

    environment: Any = eqx.field(static=True)
    trial_length: int = eqx.field(static=True)
    terms: tuple[tuple[float, LossTerm], ...] = eqx.field(static=True, default=())
    segment_length: int = eqx.field(static=True, default=1)
    num_envs: int | None = eqx.field(static=True, default=None)
    burn_in: int = eqx.field(static=True, default=0)
    bptt_length: int | None = eqx.field(static=True, default=None)
    discount: float = eqx.field(static=True, default=0.99)
    gae_lambda: float = eqx.field(static=True, default=0.95)
    baseline: Literal["value", "linear", "none"] = eqx.field(static=True, default="value")
    across_episodes: bool = eqx.field(static=True, default=True)
    normalise: bool = eqx.field(static=True, default=True)
    normalise_values: bool = eqx.field(static=True, default=True)
    act: Literal["sample", "mode"] = eqx.field(static=True, default="sample")
    curve_interval: int | None = eqx.field(static=True, default=None)
    per_episode: bool = eqx.field(static=True, default=False)
    allow_cut_start: bool = eqx.field(static=True, default=False)
    collector: Callable[[Any, Schedule], Collector] = eqx.field(static=True, default=DeviceCollector)

    lower_is_better = False

    @property
    def metric(self) -> str:
        return "return per episode" if self.per_episode else f"return {self._per(self.trial_length - self.burn_in)}"

    @property
    def curve_metric(self) -> str:
        return "return per episode" if self.per_episode else f"return {self._per(self._interval)}"

    @property
    def points_per_score(self) -> float:
        return 1.0 if self.per_episode else (self.trial_length - self.burn_in) / self._interval

    def _per(self, steps: int) -> str:
        if steps == 1:
            return "per step"
        return f"per trial of {steps:,} steps" if steps == self.trial_length else f"per {steps:,} steps"

    def curve_axis(self, learner: Learner, points: int) -> tuple[str, tuple[int, ...]]:
        unit = "environment steps" if self.segment_length == 1 else "adaptations"
        each = self._interval // self.segment_length
        return unit, tuple(i * each for i in range(points))

    @property
    def for_evaluation(self) -> "Trial":
        return dataclasses.replace(self, bptt_length=None)

    def __check_init__(self):
        window = self.trial_length if self.bptt_length is None else self.bptt_length
        if min(self.trial_length, window, self.segment_length) < 1:
            raise ValueError(
                f"trial_length={self.trial_length}, bptt_length={self.bptt_length} and "
                f"segment_length={self.segment_length} must be at least 1"
            )
        if window % self.segment_length or self.trial_length % window:
            raise ValueError(
                f"trial_length={self.trial_length} must be a multiple of bptt_length={self.bptt_length}, "
                f"and that of segment_length={self.segment_length}"
            )
        require_whole(1, num_envs=self.num_envs, curve_interval=self.curve_interval)
        require_one_of(("value", "linear", "none"), baseline=self.baseline)
        require_one_of(("sample", "mode"), act=self.act)
        if not 0 <= self.burn_in < self.trial_length:
            raise ValueError(f"burn_in={self.burn_in} must lie in [0, trial_length={self.trial_length})")
        require_between(0, 1, discount=self.discount, gae_lambda=self.gae_lambda)
        if window % self._interval or self._interval % self.segment_length:
            raise ValueError(
                f"curve_interval={self._interval} must divide {window} and be a multiple of {self.segment_length}"
            )
        if self.per_episode and window < self.trial_length:
            raise ValueError("per_episode needs whole trials: of a part it is not known what an episode earned before")
        if self.baseline == "linear" and self.num_envs is None:
            raise ValueError("baseline='linear' is fitted over parallel environments: give num_envs")

    @property
    def schedule(self) -> Schedule:
        window, critic = self.bptt_length or self.trial_length, self.baseline == "value"
        return Schedule(
            self.trial_length,
            self.segment_length,
            window,
            self.num_envs,
            self.act,
            cut_values=critic and not self.across_episodes,
            end_values=critic and window < self.trial_length,
        )

    def init(self, learner: Learner, tasks: Tasks, *, keys: Key[Array, "tasks"]) -> ObjectiveMemory:
        one = jax.tree.map(lambda leaf: leaf[0], tasks)
        fits.require_acts(learner, self.environment, one, steps=self.segment_length, num_envs=self.num_envs)
        trains_values = any(term is losses.value for _, term in self.terms) and not learner.value_in_reward_units
        normalises = self.normalise_values and self.baseline == "value" and trains_values
        shared = ValueStatistics.blank() if normalises else ()
        if self.schedule.whole:
            return ObjectiveMemory(shared, ())
        if learner.differentiable and not self.allow_cut_start and starts_from_leaves(learner):
            raise Incompatible(
                f"{type(learner).__name__} starts each task from its meta-parameters, which lie before every part of a "
                "trial but the first: the gradient would be biased. Use bptt_length=None, or allow_cut_start=True to "
                "accept it"
            )
        collector = self.collector(self.environment, self.schedule)
        blank = jax.eval_shape(lambda: collector.begin(learner, tasks, TaskKeys.of(keys)))
        # A trial at time 0 begins anew when it is rolled out: to compile a reset for it twice would take seconds.
        return ObjectiveMemory(shared, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank))

    def collect(
        self, learner: Learner, memory: ObjectiveMemory, tasks: Tasks, *, keys: Key[Array, "tasks"]
    ) -> tuple[RolloutBatch, ObjectiveMemory]:
        collector, streams = self.collector(self.environment, self.schedule), TaskKeys.of(keys)
        trials = collector.begin(learner, tasks, streams)
        if not self.schedule.whole:  # trials go on where they are not over
            choose = lambda new, old: jax.tree.map(lambda n, o: jnp.where(old.time == 0, n, o), new, old)
            trials = jax.vmap(choose)(trials, memory.per_task)
        rollout, trials = collector.collect(learner, trials, streams)
        batch, shared = self._batch(rollout, memory.shared, streams.loss)
        return batch, ObjectiveMemory(shared, () if self.schedule.whole else trials)

    def loss(self, learner: Learner, batch: RolloutBatch) -> tuple[Float[Array, "tasks"], Metrics]:
        if not self.terms:
            raise Incompatible("Trial(terms=()) has no loss: it can be tested and scored, but not trained by")

        def of_one(batch: RolloutBatch) -> Float[Array, "terms"]:
            outputs = learner.replay(losses.start_of(learner, batch), batch.transition, key=batch.keys)
            return jnp.stack([weight * term(learner, outputs, batch) for weight, term in self.terms])

        each = jax.vmap(of_one)(batch)
        metrics = {f"loss/{name}": each[:, i] for i, name in enumerate(losses.names(self.terms))}
        return jnp.where(batch.diverged, jnp.nan, each.sum(1)), {"return": self.score(batch), **metrics}

    @property
    def from_start(self) -> bool:
        return self.schedule.whole

    def segments(self, batch: RolloutBatch) -> Segments:
        return Segments(batch.key, batch.transition, batch.keys)

    def score(self, batch: RolloutBatch) -> Float[Array, "tasks"]:
        """What was earned after the burn-in, the mean over parallel environments; NaN where a task diverged."""
        if self.per_episode:
            earned = mean_return(batch.transition, batch.mask, 1)[:, 0]
        else:
            earned = self._over_envs(jnp.where(batch.mask, batch.transition.reward, 0.0)).sum((1, 2))
        return jnp.where(batch.diverged, jnp.nan, earned)

    def curve(self, batch: RolloutBatch) -> Float[Array, "tasks points"]:
        """The return of each `curve_interval` steps (by default one segment), burn-in included."""
        points = self.schedule.window // self._interval
        if self.per_episode:
            earned = mean_return(batch.transition, jnp.ones((), bool), points)
        else:
            reward = self._over_envs(batch.transition.reward)
            earned = reward.reshape(reward.shape[0], points, self._interval).sum(-1)
        return jnp.where(batch.diverged[:, None], jnp.nan, earned)

    @property
    def _interval(self) -> int:
        return self.curve_interval or self.segment_length

    def _over_envs(self, x: Float[Array, "..."]) -> Float[Array, "tasks segments steps"]:
        return x if self.num_envs is None else x.mean(-1)

    def _batch(self, rollout: Rollout, shared: PyTree, loss_keys: Key[Array, "tasks"]) -> tuple[RolloutBatch, PyTree]:
        """The rollout with its advantages, and the value statistics after it."""
        t, (segments, steps) = rollout.transition, (self.schedule.segments, self.segment_length)
        advantage, target = jax.vmap(lambda one: self._advantages(one, shared))(rollout)
        diverged = ~jax.vmap(_finite)((t.observation, t.action, t.reward, target))
        diverged = diverged | jax.vmap(lambda log_prob: jnp.isnan(log_prob).any())(rollout.log_prob)
        mask = rollout.time[:, None, None] + jnp.arange(segments * steps).reshape(segments, steps) >= self.burn_in
        mask = mask if self.num_envs is None else mask[..., None]
        batch = RolloutBatch(
            t,
            rollout.log_prob,
            advantage,
            target,
            mask,
            key=rollout.key,
            keys=rollout.keys,
            loss_key=loss_keys,
            start=rollout.start,
            is_first=rollout.time == 0,
            diverged=diverged,
        )
        sound = jnp.broadcast_to(mask & ~diverged.reshape(-1, *[1] * (mask.ndim - 1)), advantage.shape)
        if jax.tree.leaves(shared):  # the targets of an output are in the units in which it is read next time
            shared = shared.after(target, sound)
            target = shared.normalise(target)
        if self.normalise:
            advantage = standardise_over_tasks(advantage, sound)
        earned = standardise_over_tasks(self.score(batch), ~diverged)
        put = lambda b: (b.advantage, b.value_target, b.standardised_return)
        return eqx.tree_at(put, batch, (advantage, target, earned), is_leaf=lambda x: x is None), shared

    def _advantages(self, rollout: Rollout, shared: PyTree) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """(advantages, λ-returns) of one task, in units of the reward."""
        t = rollout.transition
        as_time = lambda x: x.reshape(-1, *x.shape[2:])  # segments and steps are one time axis
        reward, ends = as_time(t.reward), Ends(*map(as_time, Ends.of(t)))
        ends = ends.within_trial() if self.across_episodes else ends
        lengths = {"discount": self.discount, "gae_lambda": self.gae_lambda}
        if self.baseline == "value":
            if rollout.value is None:
                raise Incompatible("baseline='value' needs a learner that returns a value; use 'linear' or 'none'")
            means = shared.to_reward_units if jax.tree.leaves(shared) else lambda output: output
            value = means(as_time(rollout.value))
            end = jnp.zeros_like(value[0]) if rollout.end_value is None else means(rollout.end_value)
            at_cut = None if rollout.cut_value is None else means(as_time(rollout.cut_value))
            advantage = gae(reward, value, next_values(value, end, ends.truncated, at_cut), *ends, **lengths)
        else:
            value = jnp.zeros_like(reward)
            if self.baseline == "linear":  # to go until the episode ends, which may be in another segment
                to_go = rewards_to_go(reward, *map(as_time, Ends.of(t)), discount=self.discount)
                value = as_time(jax.vmap(linear_baseline)(t.observation, to_go.reshape(t.reward.shape)))
            advantage = gae_of_fit(reward, value, ends, **lengths)
        return advantage.reshape(t.reward.shape), (advantage + value).reshape(t.reward.shape)


def _finite(tree: PyTree) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
