"""XLand-MiniGrid as a task distribution: a task is a ruleset (Nikulin et al. 2024, "XLand-MiniGrid: Scalable
Meta-Reinforcement Learning Environments in JAX"). Needs the extra `xland`.

Coloured objects lie in a room. A ruleset is a goal (hold an object, stand next to one, put one next to another),
production rules (what is held or brought together so becomes another object), and the objects that lie there when an
episode begins. Goal and rules are not shown: they are found out in one episode and remembered in the next.

The package's own benchmarks are downloads, so rulesets are drawn here, of the same form and size:

               an object of the goal is made by a rule    distractors: rules    objects
    trivial    never                                      none                  3
    small      with probability 0.7                       0 to 2                2

Unlike theirs, all objects of a ruleset are different and can be carried: no rule spoils what another one needs, so
every goal can be reached.
"""

import functools
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree, UInt8

from quickstudy.checks import require_whole
from quickstudy.core import TEST_STREAM, VALIDATION_STREAM, HeldOut, Splits
from quickstudy.envs.device import auto_reset
from quickstudy.envs.spec import EnvironmentTasks, Spec, Stepped

BENCHMARKS = {"trivial": (0.0, 0, 3), "small": (0.7, 2, 2)}  # probability, distracting rules and objects, as above
ROOM = "XLand-MiniGrid-R1-9x9"
SIDES = ("", "Up", "Right", "Down", "Left")
# Conditions of goals and rules alike: the first six are about one object, the others about two.
CONDITIONS = ("AgentHold", *(f"AgentNear{side}" for side in SIDES), *(f"TileNear{side}" for side in SIDES))
OF_ONE = 6
SHAPES = ("BALL", "SQUARE", "PYRAMID", "KEY", "STAR", "HEX")
COLORS = ("RED", "GREEN", "BLUE", "PURPLE", "YELLOW", "GREY", "WHITE", "BROWN", "PINK", "ORANGE")
SYMBOLS = 13, 12  # kinds of tiles, and of colours
SHARES = 0.8, 0.1  # of the rulesets, for training and for validation; the rest is for the test


class XLandState(eqx.Module):
    """What changes in an episode; the package's own state holds the ruleset too."""

    grid: UInt8[Array, "rows columns 2"]
    agent: Any
    time: Int[Array, ""]


class XLandEnvironment(eqx.Module):
    """The package's environment behind gymnax's interface; `params` is a ruleset."""

    room: str = eqx.field(static=True)

    def reset(self, key: Key[Array, ""], params: PyTree):
        environment, settings = packaged(self.room)
        begun = environment.reset(settings.replace(ruleset=params), key)
        return _seen(begun), XLandState(begun.state.grid, begun.state.agent, begun.state.step_num)

    def step(self, key: Key[Array, ""], state: XLandState, action: Int[Array, ""], params: PyTree) -> Stepped:
        from xminigrid.types import EnvCarry, State, StepType, TimeStep

        environment, settings = packaged(self.room)
        move, reset = jax.random.split(key)
        now = State(move, state.time, state.grid, state.agent, params.goal, params.rules, EnvCarry())
        nothing = jnp.zeros(())
        before = TimeStep(now, StepType.MID, nothing, nothing, nothing)
        then = environment.step(settings.replace(ruleset=params), before, action)
        terminated = then.discount == 0
        state = XLandState(then.state.grid, then.state.agent, then.state.step_num)
        after = (_seen(then), state, then.reward, terminated, then.last() & ~terminated)
        return auto_reset(self, reset, after, params)


def _seen(timestep: PyTree) -> UInt8[Array, "seen"]:
    """Tile and colour of each cell of the view, row by row, then the direction that the agent looks in."""
    direction = timestep.state.agent.direction.astype(jnp.uint8)
    return jnp.append(timestep.observation.reshape(-1), direction)


class XLandTasks(EnvironmentTasks):
    """`rulesets`: the package's RuleSet with a leading axis, all different."""

    rulesets: Any
    room: str = eqx.field(static=True, default=ROOM)

    @staticmethod
    def make(benchmark: str, num: int = 10_000, room: str = ROOM) -> "XLandTasks":
        """Of `num` rulesets drawn for "trivial" or "small", those with goals and rules of their own.

        Raises ImportError when the extra is missing, ValueError for a benchmark or a room that is not known."""
        require_whole(3, num=num)  # one for each part
        if benchmark not in BENCHMARKS:
            raise ValueError(f"no benchmark {benchmark!r}: there are {', '.join(BENCHMARKS)}")
        if room not in (known := [name for name in _package().registered_environments() if "XLand" in name]):
            raise ValueError(f"no room {room!r}: xminigrid has {', '.join(known)}")
        drawn = draw(num, *BENCHMARKS[benchmark], generator=np.random.default_rng(0))
        rows = np.concatenate([np.asarray(drawn.goal), np.asarray(drawn.rules).reshape(num, -1)], 1)
        first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        return XLandTasks(jax.tree.map(lambda x: x[first], drawn), room)

    def split_fields(self) -> tuple[str, ...]:
        """Another number of rulesets is another split of them."""
        return ("rulesets",)

    @property
    def environment(self) -> XLandEnvironment:
        return XLandEnvironment(self.room)

    @property
    def spec(self) -> Spec:
        environment, settings = packaged(self.room)
        view = int(np.prod(environment.observation_shape(settings)))
        return Spec(observation=view + 1, actions=environment.num_actions(settings))

    def sample(self, *, key: Key[Array, ""]) -> PyTree:
        which = jax.random.randint(key, (), 0, len(self.rulesets.goal))
        return jax.tree.map(lambda x: x[which], self.rulesets)

    def split(self) -> Splits:
        num = len(self.rulesets.goal)
        cuts = [0, *(round(share * num) for share in itertools.accumulate(SHARES)), num]
        part = lambda a, b: XLandTasks(jax.tree.map(lambda x: x[a:b], self.rulesets), self.room)
        train, validation, test = itertools.starmap(part, itertools.pairwise(cuts))
        return Splits(train, HeldOut(validation, VALIDATION_STREAM), HeldOut(test, TEST_STREAM))


def draw(num: int, made: float, rules: int, objects: int, *, generator: np.random.Generator) -> PyTree:
    """`num` random rulesets, as the package's RuleSet.

    made: probability that an object of the goal does not lie there but is made by a rule
    rules: at most so many others, that serve nothing, in rooms where what they need lies about
    objects: that serve nothing
    """
    from xminigrid.types import RuleSet

    goals, productions, things = encodings()
    # In turn: two objects of the goal, two pairs that make them, two and a product of each other rule, and the rest.
    order = generator.random((num, len(things))).argsort(1)[:, : 6 + 3 * rules + objects]
    of_goal, makers, others, rest = np.split(things[order], (2, 6, 6 + 3 * rules), 1)
    makers, others = makers.reshape(num, 2, 2, 2), others.reshape(num, rules, 3, 2)
    condition = generator.integers(len(CONDITIONS), size=(num, 3 + rules))
    two = condition >= OF_ONE

    wanted = np.stack([np.ones(num, bool), two[:, 0]], 1)
    by_rule = wanted & (generator.random((num, 2)) < made)
    distracts = np.arange(rules) < generator.integers(rules + 1, size=(num, 1))
    applies = np.concatenate([by_rule, distracts], 1)
    needs = np.concatenate([makers, others[:, :, :2]], 1) * applies[..., None, None].astype(np.uint8)
    needs[:, :, 1] *= two[:, 1:, None]
    makes = np.concatenate([of_goal, others[:, :, 2]], 1)
    nothing = np.zeros_like(makes)
    tail = np.where(two[:, 1:, None], np.concatenate([needs[:, :, 1], makes], -1), np.concatenate([makes, nothing], -1))
    encoded = np.concatenate([productions[condition[:, 1:, None]], needs[:, :, 0], tail], -1) * applies[..., None]

    goal = np.concatenate([goals[condition[:, :1]], of_goal[:, 0], of_goal[:, 1] * two[:, :1]], 1)
    there = of_goal * (wanted & ~by_rule)[..., None]
    needs[:, :2, 0] += there  # an object of the goal lies where what makes it would
    lying = np.concatenate([needs.reshape(num, -1, 2), rest], 1)
    if not made + rules:  # the package steps through every rule of its arrays, and wants at least one
        encoded, lying = encoded[:, :1], np.concatenate([there, rest], 1)
    return RuleSet(*map(jnp.asarray, (goal, encoded, lying)))


def _package() -> Any:
    try:
        import xminigrid
    except ImportError as error:
        raise ImportError("xminigrid is not installed: pip install 'quickstudy[xland]'") from error
    return xminigrid


@functools.cache
def packaged(room: str) -> tuple[Any, Any]:
    """The package's environment and its settings. Raises ImportError when the extra is missing."""
    with jax.ensure_compile_time_eval():
        return _package().make(room)


@functools.cache
def encodings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the package's numbers of goals, and of rules, in the order of CONDITIONS; tile and colour of every object)."""
    from xminigrid.core import goals, rules
    from xminigrid.core.constants import Colors, Tiles

    def number(place: int, of: Any, **more: Any) -> int:
        names = ["tile"] if place < OF_ONE else ["tile_a", "tile_b"]
        none = jnp.zeros(2, jnp.uint8)
        return int(of(**dict.fromkeys([*names, *more], none)).encode()[0])

    with jax.ensure_compile_time_eval():
        of_goals = [number(i, getattr(goals, f"{name}Goal")) for i, name in enumerate(CONDITIONS)]
        of_rules = [number(i, getattr(rules, f"{name}Rule"), prod_tile=None) for i, name in enumerate(CONDITIONS)]
    things = [(getattr(Tiles, shape), getattr(Colors, color)) for shape in SHAPES for color in COLORS]
    return np.array(of_goals, np.uint8), np.array(of_rules, np.uint8), np.array(things, np.uint8)
