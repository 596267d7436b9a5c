"""The baselines of the grids with a hidden goal (tasks.mazes.GoalGrids): strategies without meta-parameters.

    Bayes-optimal         follows the path that finds the goal soonest, on average and counting later episodes; see
                          rl.exploration
    posterior sampling    at each episode's start draws a goal that is still possible, walks there and stays    Strens
                          2000; Osband et al. 2013

Both go straight to the goal and stay there once they have met it. Posterior sampling does so from the next episode on,
unless it draws `anew` whenever it learns something: when it meets the goal, or a target that is none.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from quickstudy.core import Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.distributions import Deterministic
from quickstudy.learners.inner_rl.tabular import one_by_one
from quickstudy.learners.replay import scan_replay
from quickstudy.rl.exploration import explore, shortest
from quickstudy.tasks.mazes import MOVES, GoalGrids, moved

STAY = MOVES.index((0, 0))


def towards(cell: Int[Array, ""], target: Int[Array, ""], size: int) -> Int[Array, ""]:
    """The first action of a shortest way over an open grid, which takes all vertical moves first."""
    (row, column), (goal_row, goal_column) = jnp.divmod(cell, size), jnp.divmod(target, size)
    vertical = jnp.where(goal_row < row, MOVES.index((-1, 0)), MOVES.index((1, 0)))
    horizontal = jnp.where(goal_column < column, MOVES.index((0, -1)), MOVES.index((0, 1)))
    action = jnp.where(row != goal_row, vertical, jnp.where(column != goal_column, horizontal, STAY))
    return action.astype(jnp.int32)


class OnPath(eqx.Module):
    found: Int[Array, ""]  # the goal; −1 while it is not known
    time: Int[Array, ""]  # within the trial


class BestExplorer(Learner):
    """Follows `path`, the cells of a trial of the length it was made for, until it meets the goal."""

    size: int = eqx.field(static=True)
    path: tuple[int, ...] = eqx.field(static=True)

    differentiable = False

    def init(self, *, key: Key[Array, ""]) -> OnPath:
        del key
        return OnPath(jnp.full((), -1), jnp.zeros((), int))

    def adapt(self, state: OnPath, experience: Transition, *, key: Key[Array, ""]) -> OnPath:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: OnPath, t: Transition, key: Key[Array, ""]) -> OnPath:
        del key
        return OnPath(jnp.where(t.reward > 0, t.next_observation.argmax(), state.found), state.time + 1)

    def apply(self, state: OnPath, x: Float[Array, "cells"]) -> Output:
        target = jnp.where(state.found < 0, jnp.asarray(self.path)[state.time], state.found)
        return Output(policy=Deterministic(towards(x.argmax(), target, self.size)))

    replay = scan_replay


def best_path(tasks: GoalGrids, episodes: int) -> tuple[tuple[int, ...], float]:
    """The Bayes-optimal path of a trial of so many episodes, and the return to expect from it."""
    size, environment = tasks.size, tasks.environment
    open_ = jnp.zeros((size, size), bool)
    step = jax.jit(jax.vmap(jax.vmap(moved, (None, None, 0)), (None, 0, None)))
    next_cell = np.asarray(step(open_, jnp.arange(size**2), jnp.arange(len(MOVES))))
    goals = np.asarray(tasks.goals).tolist()
    path, waste = explore(next_cell, 0, goals, episode=tasks.episode, episodes=episodes)
    at_goal = episodes * (tasks.episode + 1 - shortest(next_cell, 0)[goals]).sum() - waste  # steps, over all goals
    gain = environment.goal_reward - environment.step_reward
    best = environment.step_reward * episodes * tasks.episode + gain * at_goal / len(goals)
    return tuple(path.tolist()), float(best)


class Belief(eqx.Module):
    possible: Bool[Array, "cells"]
    target: Int[Array, ""]


class GoalSampling(Learner):
    """Walks to a goal drawn from those that are possible."""

    size: int = eqx.field(static=True)
    goals: tuple[int, ...] = eqx.field(static=True)
    anew: bool = eqx.field(static=True, default=False)

    differentiable = False

    def init(self, *, key: Key[Array, ""]) -> Belief:
        possible = jnp.zeros(self.size**2, bool).at[jnp.asarray(self.goals)].set(True)
        return Belief(possible, _one_of(possible, key))

    def adapt(self, state: Belief, experience: Transition, *, key: Key[Array, ""]) -> Belief:
        return one_by_one(self._absorb, state, experience, key)

    def _absorb(self, state: Belief, t: Transition, key: Key[Array, ""]) -> Belief:
        here = t.next_observation > 0
        met = t.reward > 0
        possible = jnp.where(met, here, state.possible & ~here)
        draw = t.terminated | t.truncated
        if self.anew:
            draw |= met | ~possible[state.target]
        return Belief(possible, jnp.where(draw, _one_of(possible, key), state.target))

    def apply(self, state: Belief, x: Float[Array, "cells"]) -> Output:
        return Output(policy=Deterministic(towards(x.argmax(), state.target, self.size)))

    replay = scan_replay


def _one_of(possible: Bool[Array, "cells"], key: Key[Array, ""]) -> Int[Array, ""]:
    return jax.random.categorical(key, jnp.where(possible, 0.0, -jnp.inf)).astype(jnp.int32)
