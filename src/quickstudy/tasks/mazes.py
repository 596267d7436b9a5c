"""Grid worlds: a goal that is not shown, with walls and wind or without.

    GoalGrids   an open 5×5 grid, episodes of 15 steps that go on at the goal; −0.1 a step, +1 at the goal. Zintgraf et
                al. 2020, VariBAD, section 5.1
    Mazes       walls drawn at random, a goal that can be reached, and wind; an episode ends at the goal, worth 1

An action is a step up, down, left or right, or to stay; walls and edges stop it. The observation is the cell, one-hot.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from quickstudy.checks import require_between, require_whole
from quickstudy.core import Splits, split_by_stream
from quickstudy.envs.device import auto_reset
from quickstudy.envs.spec import EnvironmentTasks, Spec, Stepped
from quickstudy.parallel.platform import on_accelerator
from quickstudy.rl.planning import value_iteration

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


class Maze(eqx.Module):
    """A task. Cells are numbered row by row."""

    wall: Bool[Array, "rows columns"]
    start: Int[Array, ""]
    goal: Int[Array, ""]
    wind: Float[Array, "4"]  # probabilities that a step is one up, down, left or right, whatever was chosen


class MazeState(eqx.Module):
    cell: Int[Array, ""]
    time: Int[Array, ""]


class GridEnvironment(eqx.Module):
    """step_reward, goal_reward: of a step that does not, or does, end at the goal
    ends: the episode is over at the goal
    """

    size: int = eqx.field(static=True)
    episode: int = eqx.field(static=True)
    step_reward: float = eqx.field(static=True)
    goal_reward: float = eqx.field(static=True)
    ends: bool = eqx.field(static=True)

    def reset(self, key: Key[Array, ""], params: Maze):
        del key
        return jax.nn.one_hot(params.start, self.size**2), MazeState(params.start, jnp.zeros((), int))

    def step(self, key: Key[Array, ""], state: MazeState, action: Int[Array, ""], params: Maze) -> Stepped:
        blow, where, reset = jax.random.split(key, 3)
        blown = jax.random.uniform(blow) < params.wind.sum()
        move = jnp.where(blown, jax.random.categorical(where, jnp.log(params.wind)), action)
        cell = moved(params.wall, state.cell, move)
        there = cell == params.goal
        state = MazeState(cell, state.time + 1)
        terminated = there & self.ends
        reward = jnp.where(there, self.goal_reward, self.step_reward)
        truncated = (state.time >= self.episode) & ~terminated
        after = (jax.nn.one_hot(cell, self.size**2), state, reward, terminated, truncated)
        return auto_reset(self, reset, after, params)


def moved(wall: Bool[Array, "size size"], cell: Int[Array, ""], move: Int[Array, ""]) -> Int[Array, ""]:
    """The cell after a move, the same where a wall or the edge is in the way."""
    size = len(wall)
    row, column = jnp.divmod(cell, size)
    down, right = jnp.asarray(MOVES)[move]
    row, column = jnp.clip(row + down, 0, size - 1), jnp.clip(column + right, 0, size - 1)
    return jnp.where(wall[row, column], cell, row * size + column)


def distances(wall: Bool[Array, "size size"], source: Int[Array, ""]) -> Float[Array, "size size"]:
    """Steps from a cell to every other, infinite where there is no way. Steps go both ways, so also back."""
    size = len(wall)

    def farther(carry):
        steps, _ = carry
        around = jnp.pad(steps, 1, constant_values=jnp.inf)
        near = [around[1 + i : 1 + i + size, 1 + j : 1 + j + size] for i, j in MOVES[:4]]
        new = jnp.where(wall, jnp.inf, jnp.minimum(steps, jnp.stack(near).min(0) + 1))
        return new, (new != steps).any()

    at = jnp.full(size**2, jnp.inf).at[source].set(0).reshape(size, size), jnp.ones((), bool)
    if on_accelerator():  # no way has more steps than there are cells
        return jax.lax.scan(lambda carry, _: (farther(carry), None), at, None, length=size**2 - 1)[0][0]
    return jax.lax.while_loop(lambda carry: carry[1], farther, at)[0]


class GoalGrids(EnvironmentTasks):
    """The start is a corner; goals are all cells but it and its neighbours. There are few, and training meets them
    all: what is held out is which of them it is."""

    size: int = eqx.field(static=True, default=5)
    episode: int = eqx.field(static=True, default=15)

    def __check_init__(self):
        require_whole(3, size=self.size)  # smaller ones have no cell that is not beside the start
        require_whole(1, episode=self.episode)

    @property
    def environment(self) -> GridEnvironment:
        return GridEnvironment(self.size, self.episode, -0.1, 1.0, False)

    @property
    def spec(self) -> Spec:
        return Spec(observation=self.size**2, actions=5)

    @property
    def goals(self) -> Int[Array, "goals"]:
        cells = [r * self.size + c for r in range(self.size) for c in range(self.size) if max(r, c) > 1]
        return jnp.array(cells)

    def sample(self, *, key: Key[Array, ""]) -> Maze:
        open_ = jnp.zeros((self.size, self.size), bool)
        return Maze(open_, jnp.zeros((), int), jax.random.choice(key, self.goals), jnp.zeros(4))

    def split(self) -> Splits:
        return split_by_stream(self, "training meets every goal too: which one it is has to be found out")


class Mazes(EnvironmentTasks):
    """size: of the square; the start is a corner
    walls: share of the cells that are walls; a layout that cuts off more than half of the others, or all of them, is
        drawn again
    wind: largest probability that a step goes astray; each maze has its own, with one direction
    layout: a number draws one layout for all tasks, of which goal and wind then differ; None: each its own
    episode: steps after which an episode is cut
    """

    size: int = eqx.field(static=True, default=9)
    walls: float = eqx.field(static=True, default=0.25)
    wind: float = eqx.field(static=True, default=0.0)
    layout: int | None = eqx.field(static=True, default=None)
    episode: int = eqx.field(static=True, default=200)

    def __check_init__(self):
        require_whole(1, episode=self.episode)
        require_whole(0, layout=self.layout)
        require_between(0, 1, wind=self.wind)
        if self.size < 2 or not 0 <= self.walls < 1:  # or there is nowhere to go
            raise ValueError(f"mazes need a size of 2 or more and walls in [0, 1), got {self.size} and {self.walls}")

    @property
    def environment(self) -> GridEnvironment:
        return GridEnvironment(self.size, self.episode, 0.0, 1.0, True)

    @property
    def spec(self) -> Spec:
        return Spec(observation=self.size**2, actions=4)

    def sample(self, *, key: Key[Array, ""]) -> Maze:
        build, aim, blow, which = jax.random.split(key, 4)
        wall = self._walls(build if self.layout is None else jax.random.key(self.layout))
        start = jnp.zeros((), int)
        away = distances(wall, start)
        # Goals in the farther half of what can be reached.
        reached = jnp.where(jnp.isfinite(away), away, -1.0)
        goal = jax.random.categorical(aim, jnp.where(reached >= reached.max() / 2, 0.0, -jnp.inf).reshape(-1))
        strength = jax.random.uniform(blow, maxval=self.wind) if self.wind else jnp.zeros(())
        wind = strength * jax.nn.one_hot(jax.random.randint(which, (), 0, 4), 4)
        return Maze(wall, start, goal.astype(int), wind)

    def _walls(self, key: Key[Array, ""]) -> Bool[Array, "size size"]:
        def draw(carry):
            key, _, tries = carry
            key, now = jax.random.split(key)
            wall = jax.random.bernoulli(now, self.walls, (self.size, self.size)).at[0, 0].set(False)
            return key, wall, tries + 1

        def cut_off(carry):
            _, wall, tries = carry
            reached = jnp.isfinite(distances(wall, jnp.zeros((), int))).sum()
            return (2 * reached < (~wall).sum()) | (reached < 2) | (tries == 0)

        nothing = jnp.zeros((self.size, self.size), bool)
        return jax.lax.while_loop(cut_off, draw, (key, nothing, jnp.zeros((), int)))[1]

    def split(self) -> Splits:
        return split_by_stream(self)


def shortest(tasks: Maze) -> Float[Array, "num"]:
    """Steps from start to goal, without wind."""
    return jax.vmap(lambda task: distances(task.wall, task.start).reshape(-1)[task.goal])(tasks)


def tables(task: Maze) -> tuple[Float[Array, "cells 4"], Float[Array, "cells 4 outcomes"]]:
    """(mean rewards, transitions) of a maze as `Mazes` has them; outcomes are the cells, and the end at the goal."""
    cells = task.wall.size
    ways = jax.vmap(lambda cell: jax.vmap(lambda move: moved(task.wall, cell, move))(jnp.arange(4)))(jnp.arange(cells))
    landed = jax.nn.one_hot(jnp.where(ways == task.goal, cells, ways), cells + 1)
    calm = 1 - task.wind.sum()
    transition = calm * landed + jnp.einsum("m,smo->so", task.wind, landed)[:, None]
    return transition[..., -1], transition


def expected_steps(tasks: Maze, *, tolerance: float = 1e-3) -> Float[Array, "num"]:
    """Steps from start to goal in the mean, of the best policy in a wind that it knows."""

    def one(task: Maze) -> Float[Array, ""]:
        reached = jnp.isfinite(distances(task.wall, task.start)).reshape(-1, 1)
        onward = tables(task)[1][..., :-1]
        steps = value_iteration(jnp.where(reached, -jnp.ones(4), 0.0), onward, 1.0, tolerance=tolerance)
        return -steps[task.start].max()

    return jax.vmap(one)(tasks)
