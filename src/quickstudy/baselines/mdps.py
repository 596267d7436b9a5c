"""The baselines of the random tabular MDPs: planners that know the prior and have no meta-parameters.

Rewards N(μ, 1) with μ ~ N(1, 1), transitions ~ Dirichlet(1, …, 1), episodes of H steps (tasks.mdps). After n visits of
(s, a), w of which led to s' and e of which terminated the episode, with rewards adding up to R:

    μ | data ~ N((1 + R)/(1 + n), 1/(1 + n))        (p, end) | data ~ Dirichlet(1 + w, e)

The end of an episode is absorbing and worth 0. The prior of the family gives it no weight, so that a pair may terminate
only once it was seen to: where episodes are always truncated after H steps, all is as if there were no such outcome.

    PSRL      plans in one draw of the posterior, drawn anew each episode              Strens 2000; Osband et al. 2013
    OPSRL     the same with the best of several draws in each backup: optimistic       Agrawal and Jia 2017
    BEB       plans in the mean, with a bonus of c/(1 + S + n)                         Kolter and Ng 2009
    UCRL2     plans in the most optimistic MDP within confidence bounds                Jaksch et al. 2010
    greedy    plans in the mean; ε-greedy takes a random action now and then

S + n is the sum of the Dirichlet's counts. UCRL2 takes the posterior mean as its centre and scales its bounds, which
would be too wide to guide anything in so few steps; the scales of BEB, UCRL2 and ε-greedy are to be tuned on
validation tasks, so that no baseline is a straw man.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from quickstudy.checks import require_at_least, require_between, require_whole
from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.distributions import Categorical
from quickstudy.learners.inner_rl.tabular import Statistics, draw_transition, one_by_one
from quickstudy.learners.replay import scan_replay
from quickstudy.rl.planning import backward_induction, backward_recursion, greedy, lazy_cond, planned_action


def mean_reward(seen: Statistics) -> Float[Array, "states actions"]:
    """The mean of μ | data."""
    return (1 + seen.rewards) / (1 + seen.visits)


def mean_transition(seen: Statistics) -> Float[Array, "states actions states"]:
    """The mean of p | data; what is missing to 1 is the probability that the episode terminates."""
    return (1 + seen.moves) / (seen.moves.shape[-1] + seen.visits[..., None])


class Planned(eqx.Module):
    seen: Statistics
    policy: Int[Array, "episode states"]
    time: Int[Array, ""]  # within the episode


class Planner(Learner):
    """Acts by a plan made from the counts so far: plan(seen, key) is Q [episode, states, actions].

    An observation is a state, one-hot. Plans are made between episodes, or after every step. `episode` is the number of
    steps after which the environment truncates an episode: where one goes on beyond it there is no plan, and logits
    are NaN.
    """

    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    episode: int = eqx.field(static=True)
    plan: Callable = eqx.field(static=True)
    every_step: bool = eqx.field(static=True, default=False)
    random: float = eqx.field(static=True, default=0.0)  # probability of an action drawn uniformly

    differentiable = False

    def __check_init__(self):
        require_whole(1, states=self.states, actions=self.actions, episode=self.episode)
        require_between(0, 1, random=self.random)

    def init(self, *, key: Key[Array, ""]) -> Planned:
        seen = Statistics.none(self.states, self.actions, self.states)
        return Planned(seen, greedy(self.plan(seen, key)), jnp.zeros((), int))

    def adapt(self, state: Planned, experience: Transition, *, key: Key[Array, ""]) -> Planned:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Planned, t: Transition, key: Key[Array, ""]) -> Planned:
        seen, ended = state.seen.add(t), t.terminated | t.truncated
        # Keys go as plain numbers: conditions under `vmap` take arrays alone.
        plan = lambda seen, key: greedy(self.plan(seen, jax.random.wrap_key_data(key)))
        arguments = seen, jax.random.key_data(key)
        policy = plan(*arguments) if self.every_step else lazy_cond(ended, plan, arguments, state.policy)
        return Planned(seen, policy, jnp.where(ended, 0, state.time + 1))

    def apply(self, state: Planned, x: Float[Array, "states"]) -> Output:
        best = planned_action(state.policy, state.time, x.argmax(), self.actions)
        return Output(policy=Categorical(jnp.log((1 - self.random) * best + self.random / self.actions)))

    replay = scan_replay


def drawn(seen: Statistics, key: Key[Array, ""]) -> tuple[Array, Array]:
    """Rewards [states, actions] and transitions [states, actions, states] of one draw from the posterior."""
    r, p = jax.random.split(key)
    reward = mean_reward(seen) + jax.random.normal(r, seen.rewards.shape) / jnp.sqrt(1 + seen.visits)
    return reward, draw_transition(1 + seen.moves, seen.ended, key=p)


def psrl(states: int, actions: int, episode: int) -> Planner:
    """Posterior sampling."""
    return Planner(states, actions, episode, lambda seen, key: backward_induction(*drawn(seen, key), episode))


def opsrl(states: int, actions: int, episode: int, *, draws: int = 2) -> Planner:
    """Optimistic posterior sampling; each backup takes the best of `draws` models."""
    require_whole(1, draws=draws)

    def plan(seen: Statistics, key: Key[Array, ""]) -> Array:
        reward, transition = jax.vmap(lambda key: drawn(seen, key))(jax.random.split(key, draws))
        return backward_recursion(lambda value: (reward + transition @ value).max(0), states, episode)

    return Planner(states, actions, episode, plan)


def beb(states: int, actions: int, episode: int, *, scale: float) -> Planner:
    """The Bayesian exploration bonus; `scale` is c, in units of the return."""
    require_at_least(0, scale=scale)

    def plan(seen: Statistics, key: Key[Array, ""]) -> Array:
        bonus = scale / (1 + states + seen.visits)
        return backward_induction(mean_reward(seen) + bonus, mean_transition(seen), episode)

    return Planner(states, actions, episode, plan, every_step=True)


def ucrl2(states: int, actions: int, episode: int, *, scale: float, confidence: float = 0.05) -> Planner:
    """UCRL2; `scale` multiplies both bounds, which are those of the paper at 1, and `confidence` is its δ."""
    require_at_least(0, scale=scale)
    require_between(0, 1, confidence=confidence)

    def plan(seen: Statistics, key: Key[Array, ""]) -> Array:
        visits, time = 1 + seen.visits, 1 + seen.visits.sum()
        reward = mean_reward(seen) + scale * jnp.sqrt(3.5 * jnp.log(2 * states * actions * time / confidence) / visits)
        radius = scale * jnp.sqrt(14 * states * jnp.log(2 * actions * time / confidence) / visits)
        onward = mean_transition(seen)
        end = (seen.ended / (states + seen.visits))[..., None]

        def backup(value: Array) -> Array:
            alone = optimistic(onward, radius, value)
            with_end = optimistic(jnp.concatenate([onward, end], -1), radius, jnp.append(value, 0.0))
            return reward + jnp.where(seen.ended > 0, with_end, alone)

        return backward_recursion(backup, states, episode)

    return Planner(states, actions, episode, plan)


def optimistic(
    transition: Float[Array, "states actions outcomes"],
    radius: Float[Array, "states actions"],
    value: Float[Array, "outcomes"],
) -> Float[Array, "states actions"]:
    """The largest expected value among distributions within an L1 distance of `radius` (Jaksch et al. 2010, fig. 2)."""
    order = value.argsort()
    p = transition[..., order]
    best = jnp.minimum(1, p[..., -1] + radius / 2)
    # The worst outcomes lose what the best one gains, one after another.
    owed = best - p[..., -1]
    others = p[..., :-1]
    before = others.cumsum(-1) - others
    left = jnp.clip(others - jnp.maximum(owed[..., None] - before, 0), 0)
    return jnp.concatenate([left, best[..., None]], -1) @ value[order]


def bayes_greedy(states: int, actions: int, episode: int, *, random: float = 0.0) -> Planner:
    """The planner in the posterior mean; `random` is the ε of ε-greedy."""
    plan = lambda seen, key: backward_induction(mean_reward(seen), mean_transition(seen), episode)
    return Planner(states, actions, episode, plan, every_step=True, random=random)
