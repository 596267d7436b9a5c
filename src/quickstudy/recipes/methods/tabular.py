"""Learners of tables: Q-learning and Dyna-Q, whose rates evolve over the training tasks, and planners that need no
meta-training. Tuned by hand means the best of a grid on validation mazes."""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import Above, AtLeast, Inside, Training
from quickstudy.recipes.methods.rl2 import DUAN
from quickstudy.recipes.outer import Evolution
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig

# rate, discount, ε and initial value: the best of {0.1, 0.3, 0.6, 1} × {0.9, 0.95, 0.99} × {0.01, 0.05, 0.1, 0.2} ×
# {0, 0.5, 1} on 200 validation mazes.
TUNED = {"rate": 1.0, "discount": 0.99, "epsilon": 0.01, "initial": 0.5}
EVOLVES = "evolution is its outer loop already: its choices have no derivative"
Initial = Annotated[Literal["each", "one"], "initial values: one for each state and action, or one for all"]
NearOne = Annotated[float, Inside(0, 1), "where a rate starts that is best at 1, which no bounded number can be"]


def _trial(family: EnvironmentFamily, **fields: Any) -> Any:
    length = family.unit * family.trial_length
    return qs.Trial(family.tasks.environment, trial_length=length, baseline="none", normalise=False, **fields)


def _oracle(family: EnvironmentFamily) -> Any:
    oracle = family.oracle_value
    return None if oracle is None else lambda tasks: oracle(tasks, family.tested)


def _evolved(
    family: EnvironmentFamily,
    training: Training,
    outer: Evolution,
    make: Any,
    initial: str,
    near_one: float,
    **more: Any,
) -> Composition:
    """`make`: from rates, numbers or leaves, to the learner."""
    import jax.numpy as jnp

    spec, trial = family.tasks.spec, _trial(family)
    # Evolution goes on from the grid's best.
    rates = {name: qs.Bounded(min(TUNED[name], near_one)) for name in ("rate", "discount", "epsilon")}
    shape = (spec.observation, spec.actions) if initial == "each" else ()
    test = dataclasses.replace(trial, trial_length=family.unit * family.tested, curve_interval=family.curve_interval)
    return Composition(
        learner=make(**rates, initial=jnp.full(shape, TUNED["initial"])),
        objective=trial,
        meta_optimizer=outer.meta_optimizer(training),
        evaluation=qs.EvaluationConfig(
            test, baselines={"tuned by hand": make(**TUNED), **more}, oracle_value=_oracle(family), chunk=250
        ),
    )


@dataclasses.dataclass(frozen=True)
class QLearning(MethodConfig):
    initial: Initial = "each"
    near_one: NearOne = 0.98
    outer: Evolution = Evolution(0.02, 0.0)

    title, source, meets = "Q-learning", "Watkins 1989, Learning from Delayed Rewards", "trial"
    needs = "states", "choices"
    suggests = {"meta_steps": 300, "meta_batch": 32}
    not_evolved = EVOLVES

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.inner_rl.q_learning import QLearning

        spec = family.tasks.spec
        make = lambda **rates: QLearning(spec.observation, spec.actions, **rates)
        return _evolved(family, training, self.outer, make, self.initial, self.near_one)


@dataclasses.dataclass(frozen=True)
class DynaQ(MethodConfig):
    planning: Annotated[int, AtLeast(0, 10_000), "steps in the model after each one in the environment"] = 20
    # Values that differ a little break the ties by which it explores: noise of 0.01 on each costs 12 goals of 71.
    initial: Initial = "one"
    near_one: NearOne = 0.999
    outer: Evolution = Evolution(0.1, 0.0, sigma=0.3)

    title, meets = "Dyna-Q", "trial"
    needs = "states", "choices"
    source = "Sutton 1990, Integrated Architectures for Learning, Planning, and Reacting"
    suggests = {"meta_steps": 300, "meta_batch": 32}
    not_evolved = EVOLVES

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.inner_rl.dyna_q import DynaQ
        from quickstudy.learners.inner_rl.q_learning import QLearning

        size = family.tasks.spec.observation, family.tasks.spec.actions
        make = lambda **rates: DynaQ(*size, planning=self.planning, **rates)
        tuned = {"Q-learning, tuned by hand": QLearning(*size, **TUNED)}
        return _evolved(family, training, self.outer, make, self.initial, self.near_one, **tuned)


def _alone(family: EnvironmentFamily, learner: Any) -> Composition:
    from quickstudy.meta_optimizers.untrained import Untrained

    trial = _trial(family, curve_interval=family.curve_interval)
    return Composition(
        learner=learner,
        objective=trial,
        meta_optimizer=Untrained(),
        evaluation=qs.EvaluationConfig(trial, oracle_value=_oracle(family), chunk=500),
        citations=(DUAN,),
    )


@dataclasses.dataclass(frozen=True)
class PSRL(MethodConfig):
    """Posterior sampling."""

    title, meets = "posterior sampling (PSRL)", "trial"
    needs = "states", "choices", "whole episodes"
    source = "Osband, Russo, Van Roy 2013, (More) Efficient Reinforcement Learning via Posterior Sampling"
    suggests = {"meta_steps": 0, "meta_batch": 32}

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.baselines import mdps

        spec = family.tasks.spec
        return _alone(family, mdps.psrl(spec.observation, spec.actions, family.segment_length))


@dataclasses.dataclass(frozen=True)
class RMax(MethodConfig):
    visits: Annotated[int, AtLeast(1), "visits after which a state and action is known (m)"] = 10
    max_reward: Annotated[float, Above(0), "largest reward there is (R_max)"] = 5.0

    title, meets = "R-MAX", "trial"
    needs = "states", "choices"
    source = "Brafman and Tennenholtz 2002, R-MAX: A General Polynomial Time Algorithm"
    suggests = {"meta_steps": 0, "meta_batch": 32}

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.inner_rl.r_max import RMax

        spec = family.tasks.spec
        return _alone(family, RMax(spec.observation, spec.actions, visits=self.visits, most=self.max_reward))
