"""The return of a trial in an on-device environment, and everything between RL² and PPO.

A trial lives `trial_length` steps of one task. It lives `segment_length` steps with the learner's state frozen, then
lets the learner adapt on that segment:

    segment_length=1                       RL² and other memories
    segment_length=episode, num_envs=20       MAML-RL: 20 parallel trajectories, then an inner step
    segment_length=128, num_envs=16           PPO as an inner loop

`collect` lives; `loss` replays the learner's adaptation along the life without the environment and adds up
loss terms of what it says now. `burn_in` steps at the start of the trial do not count (MAML judges only what
follows adaptation). With a `bptt_length` shorter than the horizon a meta-step lives only that long, and the
unfinished lives wait in the objective's memory; the gradient is cut there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from quickstudy.core import Incompatible, Learner, Memory, Metrics, Objective, State, Tasks
from quickstudy.data.batches import Output, Segments, Transition
from quickstudy.parallel.axes import over_axes
from quickstudy.parallel.reduce import sum_over_devices
from quickstudy.parameters import starts_from_leaves
from quickstudy.rl import returns
from quickstudy.rl.losses import LossTerm

MANY = 16  # segments: to leave out one adaptation of so many is not worth compiling the last segment apart


class TrialState(eqx.Module):
    """An unfinished trial of one task."""

    task: PyTree
    environment: PyTree
    observation: PyTree
    state: State
    time: Int[Array, ""]  # steps lived; 0 begins anew
    key: Key[Array, ""]  # the one `init` is given


class RolloutBatch(eqx.Module):
    """A batch: [tasks, segments, steps] or, with a width, [tasks, segments, steps, width]."""

    transition: Transition
    log_prob: Float[Array, "..."]  # of the actions, when they were taken
    advantage: Float[Array, "..."]
    target: Float[Array, "..."]  # λ-returns, what a value should have said
    worth: Float[Array, "*tasks"]  # what was earned where it counts, in deviations from the mean of all tasks
    counts: Bool[Array, "..."]  # [tasks, segments, steps (, 1)]: False during burn-in
    key: Key[Array, "*tasks"]
    keys: Key[Array, "*tasks segments"]
    start: State  # carried into this window; () where every life begins anew
    fresh: Bool[Array, "*tasks"]
    diverged: Bool[Array, "*tasks"]


class Trial(Objective):
    """`environment` follows gymnax (see tasks.environment); tasks are its parameters.

    trial_length, segment_length, burn_in, bptt_length, curve_interval: in environment steps (of each parallel copy)
    num_envs: parallel copies of the environment a task; None for one stream without that axis
    terms: (weight, loss term) pairs; they add up
    discount, trace: γ and λ of the advantages, in [0, 1]
    baseline: "value" reads the learner's own value; "linear" fits one to each segment; "none" is 0
    across_episodes: the trial is one long life and credit passes the end of an episode (RL²), or not (MAML-RL)
    normalise: advantages to mean 0 and deviation 1, over all tasks
    act: "sample" or "mode" of the policy
    per_episode: score and curve are the mean return of the episodes that ended in the time, not the total reward
    allow_cut_start: allow a window although the learner's start lies before it, and with it a biased gradient
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
    act: Literal["sample", "mode"] = eqx.field(static=True, default="sample")
    curve_interval: int | None = eqx.field(static=True, default=None)
    per_episode: bool = eqx.field(static=True, default=False)
    allow_cut_start: bool = eqx.field(static=True, default=False)

    lower_is_better = False

    @property
    def metric(self) -> str:
        return "return per episode" if self.per_episode else "return"

    @property
    def adaptations_per_point(self) -> int:
        return (self.curve_interval or self.segment_length) // self.segment_length

    @property
    def for_evaluation(self) -> "Trial":
        return dataclasses.replace(self, bptt_length=None)

    def __check_init__(self):
        lived = self.trial_length if self.bptt_length is None else self.bptt_length
        if min(self.trial_length, lived, self.segment_length) < 1:
            raise ValueError(
                f"trial_length={self.trial_length}, bptt_length={self.bptt_length} and "
                f"segment_length={self.segment_length} must be at least 1"
            )
        if lived % self.segment_length or self.trial_length % lived:
            raise ValueError(
                f"trial_length={self.trial_length} must be a multiple of bptt_length={self.bptt_length}, "
                f"and that of segment_length={self.segment_length}"
            )
        if not 0 <= self.burn_in < self.trial_length:
            raise ValueError(f"burn_in={self.burn_in} must lie in [0, trial_length={self.trial_length})")
        curve_interval = self.curve_interval or self.segment_length
        if lived % curve_interval or curve_interval % self.segment_length:
            raise ValueError(
                f"curve_interval={curve_interval} must divide {lived} and be a multiple of {self.segment_length}"
            )
        if self.per_episode and self._windowed:
            raise ValueError("per_episode needs whole lives: of a window it is not known what an episode earned before")
        if self.baseline == "linear" and self.num_envs is None:
            raise ValueError("baseline='linear' is fitted over parallel copies: give a width")

    def init(self, learner: Learner, tasks: Tasks, *, key: Key[Array, ""]) -> Memory:
        if not self._windowed:
            return ()
        if learner.differentiable and not self.allow_cut_start and starts_from_leaves(learner):
            raise Incompatible(
                f"{type(learner).__name__} starts each task from its meta-parameters, which lie before every "
                "window but the first: the gradient would be biased. Use bptt_length=None, or allow_cut_start=True to "
                "accept it"
            )
        begin = jax.vmap(lambda task, key: self._begin(learner, task, key))
        blank = jax.eval_shape(begin, tasks, jax.random.split(key, _count(tasks)))
        # A life at time 0 begins anew when it is lived: to compile a reset for it twice would take seconds.
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank)

    def collect(
        self, learner: Learner, memory: Memory, tasks: Tasks, *, key: Key[Array, ""]
    ) -> tuple[RolloutBatch, Memory]:
        beginning, living = (jax.random.split(k, _count(tasks)) for k in jax.random.split(key))
        lives = jax.vmap(lambda task, key: self._begin(learner, task, key))(tasks, beginning)
        if self._windowed:  # lives go on where they are not over
            lives = jax.vmap(lambda new, old: jax.tree.map(lambda n, o: jnp.where(old.time == 0, n, o), new, old))(
                lives, memory
            )
        batch, lives = jax.vmap(lambda life, key: self._live(learner, life, key))(lives, living)
        batch = eqx.tree_at(lambda b: b.worth, batch, _standardised(self.score(batch), batch.diverged))
        return _normalise(batch) if self.normalise else batch, lives if self._windowed else ()

    def loss(self, learner: Learner, batch: RolloutBatch) -> tuple[Float[Array, "tasks"], Metrics]:
        def of_one(lived: RolloutBatch):
            state = learner.init(key=lived.key)
            if jax.tree.leaves(lived.start):
                state = jax.tree.map(lambda new, old: jnp.where(lived.fresh, new, old), state, lived.start)
            outputs = learner.replay(state, lived.transition, key=lived.keys)
            return jnp.stack([weight * term(outputs, lived) for weight, term in self.terms]).sum()

        return jax.vmap(of_one)(batch), {"return": self.score(batch)}

    def segments(self, batch: RolloutBatch) -> Segments:
        """All of those that were lived, the last one too."""
        return Segments(batch.key, batch.transition, batch.keys)

    def score(self, batch: RolloutBatch) -> Float[Array, "tasks"]:
        """What was earned after the burn-in, the mean over parallel copies."""
        if self.per_episode:
            return self._of_episodes(batch, batch.counts, 1)[:, 0]
        reward = jnp.where(batch.counts, batch.transition.reward, 0.0)
        return _over_copies(reward, self.num_envs).sum((1, 2))

    def curve(self, batch: RolloutBatch) -> Float[Array, "tasks points"]:
        """What was earned in each `curve_interval` steps (one segment unless said otherwise), burn-in included."""
        if self.per_episode:
            periods = (
                batch.transition.reward[0].size // (self.num_envs or 1) // (self.curve_interval or self.segment_length)
            )
            return self._of_episodes(batch, jnp.ones((), bool), periods)
        reward = _over_copies(batch.transition.reward, self.num_envs)
        return reward.reshape(reward.shape[0], -1, self.curve_interval or self.segment_length).sum(-1)

    def _of_episodes(
        self, batch: RolloutBatch, counts: Bool[Array, "..."], periods: int
    ) -> Float[Array, "tasks periods"]:
        """Mean return of the episodes that ended in each period and count; where none did, of those under way."""
        t = batch.transition
        as_time = lambda x: jnp.moveaxis(x.reshape(x.shape[0], -1, self.num_envs or 1), 1, 0)
        ended = as_time(t.terminated | t.truncated)

        def step(earned, lived):
            reward, ended = lived
            earned = earned + reward
            return jnp.where(ended, 0.0, earned), earned

        _, earned = jax.lax.scan(step, jnp.zeros_like(ended[0], float), (as_time(t.reward), ended))
        judged = ended & as_time(jnp.broadcast_to(counts, t.reward.shape))
        in_periods = lambda x: x.reshape(periods, -1, *x.shape[1:])
        earned, judged = in_periods(earned), in_periods(judged)
        num = judged.sum((1, 3))
        finished = jnp.where(judged, earned, 0.0).sum((1, 3)) / jnp.maximum(num, 1)
        return jnp.where(num > 0, finished, earned[:, -1].mean(-1)).T

    @property
    def _windowed(self) -> bool:
        return self.bptt_length is not None and self.bptt_length < self.trial_length

    def _copies(self, f: Callable, *args: PyTree) -> PyTree:
        return (f if self.num_envs is None else jax.vmap(f))(*args)

    def _keys(self, key: Key[Array, ""]) -> Key[Array, "..."]:
        return key if self.num_envs is None else jax.random.split(key, self.num_envs)

    def _begin(self, learner: Learner, task: PyTree, key: Key[Array, ""]) -> TrialState:
        reset, init = jax.random.split(key)
        observation, environment = self._copies(lambda k: self.environment.reset(k, task), self._keys(reset))
        return TrialState(task, environment, observation, learner.init(key=init), jnp.zeros((), int), init)

    def _live(self, learner: Learner, life: TrialState, key: Key[Array, ""]) -> tuple[RolloutBatch, TrialState]:
        """One window of one task."""
        segments = (self.bptt_length or self.trial_length) // self.segment_length
        acting, adapting = (jax.random.split(k, segments) for k in jax.random.split(key))

        def step(carry, key):
            state, environment, observation, time = carry

            def one(key, environment, observation):
                choose, move = jax.random.split(key)
                said = learner.apply(state, observation)
                if not isinstance(said, Output) or said.policy is None:
                    raise Incompatible(f"Trial lives with a policy, and {type(learner).__name__} says none")
                action = said.policy.mode() if self.act == "mode" else said.policy.sample(key=choose)
                then, environment, reward, terminated, truncated, info = self.environment.step(
                    move, environment, action, life.task
                )
                transition = Transition(
                    observation,
                    action,
                    jnp.asarray(reward, float),
                    jnp.asarray(terminated, bool),
                    jnp.asarray(truncated, bool),
                    time == self.trial_length - 1,
                    info["final_observation"],
                )
                return then, environment, (transition, said.policy.log_prob(action), said.value)

            observation, environment, lived = self._copies(one, self._keys(key), environment, observation)
            return (state, environment, observation, time + 1), lived

        def segment(carry, key):
            carry, lived = jax.lax.scan(step, carry, jax.random.split(key, self.segment_length))
            following = self._following(learner, carry[0], lived)
            return carry, (*lived, following)

        def stretch_and_adapt(carry, keys):
            (state, *rest), lived = segment(carry, keys[0])
            return (learner.adapt(state, lived[0], key=keys[1]), *rest), lived

        carry = (life.state, life.environment, life.observation, life.time)
        if self._windowed or segments > MANY:
            carry, lived = jax.lax.scan(stretch_and_adapt, carry, (acting, adapting))
        else:  # what would be learned from the last segment is never used
            carry, lived = jax.lax.scan(stretch_and_adapt, carry, (acting[:-1], adapting[:-1]))
            carry, final = segment(carry, acting[-1])
            lived = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), lived, final)
        state, environment, observation, time = carry
        transition, log_prob, value, following = lived

        times = life.time + jnp.arange(segments * self.segment_length).reshape(segments, self.segment_length)
        advantage, target = self._advantage(learner, carry, transition, value, following)
        finite = jnp.isfinite(transition.reward).all() & jnp.isfinite(target).all() & ~jnp.isnan(log_prob).any()
        batch = RolloutBatch(
            transition,
            log_prob,
            advantage,
            target,
            jnp.zeros(()),  # known when all tasks were lived
            times >= self.burn_in if self.num_envs is None else (times >= self.burn_in)[..., None],
            life.key,
            adapting,
            life.state if self._windowed else (),
            life.time == 0,
            ~finite,
        )
        over = jnp.where(time >= self.trial_length, 0, time)
        return batch, TrialState(life.task, environment, observation, state, over, life.key)

    def _following(self, learner: Learner, state: State, lived: tuple) -> Array | None:
        """Values of the observations that followed, under the state that acted: what a cut episode is worth."""
        if self.across_episodes or self.baseline != "value":
            return None
        return over_axes(lambda o: learner.apply(state, o).value, lived[0].axes)(lived[0].next_observation)

    def _values(self, t: Transition, said: Array | None) -> Array:
        if self.baseline == "none":
            return jnp.zeros_like(t.reward)
        if self.baseline == "linear":
            # To go until the episode ends, which may be in another segment.
            lived = [x.reshape(-1, self.num_envs) for x in (t.reward, t.terminated, t.truncated, t.last)]
            target = returns.rewards_to_go(*lived, discount=self.discount).reshape(t.reward.shape)
            return jax.vmap(returns.linear_baseline)(t.observation, target)
        if said is None:
            raise Incompatible("baseline='value' needs a learner that says a value; use 'linear' or 'none'")
        return said

    def _advantage(self, learner: Learner, carry: tuple, t: Transition, said: Array | None, following: Array | None):
        as_time = lambda x: x.reshape(-1, *x.shape[2:])
        shape = t.reward.shape
        value = as_time(self._values(t, said))
        terminated, truncated, last = as_time(t.terminated), as_time(t.truncated), as_time(t.last)
        # The next moment's own value; past a window, that of the observation which waits there.
        state, _, observation, _ = carry
        end = jnp.zeros_like(value[:1])
        if self.baseline == "value":
            end = self._copies(lambda o: learner.apply(state, o).value, observation)[None]
        next_value = jnp.concatenate([value[1:], end])
        if following is not None:  # no moment follows a cut episode
            next_value = jnp.where(truncated, as_time(following), next_value)
        if self.across_episodes:
            terminated, truncated = jnp.zeros_like(terminated), jnp.zeros_like(truncated)
        elif self.baseline != "value":
            terminated = terminated | truncated  # a fit to finite sums knows no value beyond the cut
        advantage = returns.gae(
            as_time(t.reward), value, next_value, terminated, truncated, last,
            discount=self.discount, gae_lambda=self.gae_lambda,
        )  # fmt: skip
        return advantage.reshape(shape), (advantage + value).reshape(shape)


def _count(tasks: Tasks) -> int:
    return jax.tree.leaves(tasks)[0].shape[0]


def _over_copies(x: Float[Array, "..."], num_envs: int | None) -> Float[Array, "tasks segments steps"]:
    return x if num_envs is None else x.mean(-1)


def _normalise(batch: RolloutBatch) -> RolloutBatch:
    """Advantages over all tasks to mean 0, deviation 1; tasks that diverged are left out of the statistics."""
    counts = batch.counts & ~batch.diverged.reshape(-1, *[1] * (batch.counts.ndim - 1))
    left_out = ~jnp.broadcast_to(counts, batch.advantage.shape)
    return eqx.tree_at(lambda b: b.advantage, batch, _standardised(batch.advantage, left_out))


def _standardised(x: Float[Array, "*shape"], left_out: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """To mean 0 and deviation 1 over what is not left out."""
    total = lambda of: sum_over_devices(jnp.where(left_out, 0.0, of).sum())
    num = jnp.maximum(sum_over_devices((~left_out).sum()), 1)
    mean = total(x) / num
    var = total((x - mean) ** 2) / num
    return (x - mean) / jnp.sqrt(var + 1e-8)
