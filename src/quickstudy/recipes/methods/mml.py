"""Meta-model learning: the agent plans in a model drawn from what a meta-model makes of the trial so far.

What was decided before the runs; docs/learners/mml.md has what came of it.

    kernels-mml   MDPs that mix shared kernels. Measure: total reward of 10 episodes on 1,000 held-out tasks, paired.
                  Must be won against one model for all tasks, against a model learned from scratch in each task by
                  posterior sampling with a flat prior, its strength the best of a grid on validation tasks, and against
                  RL² after as many interactions of meta-training (`kernels-rl2`). Either may win between drawing and
                  planning in the mean model (`--spread 0`)
    maze-mml      mazes of one layout, in which goal and wind differ. Measure: goals reached in 100 steps; must be won
                  against one model, and against Dyna-Q and R-MAX from scratch
    mdp-mml       i.i.d. Dirichlet MDPs, where there is nothing to share but the prior: a sanity test against posterior
                  sampling with the exact one, which cannot be beaten; the difference must be within 2 of its 133
"""

import dataclasses
from typing import Annotated, Any

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Between, Training
from quickstudy.recipes.methods.tabular import TUNED
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig

OSBAND = "Osband, Russo, Van Roy 2013, (More) Efficient Reinforcement Learning via Posterior Sampling"
GRIMM = "Grimm, Barreto, Singh, Silver 2020, The Value Equivalence Principle for Model-Based Reinforcement Learning"
SURE = 1e6  # in visits: nothing is learned


@dataclasses.dataclass(frozen=True)
class MML(MethodConfig):
    hidden_size: Annotated[int, AtLeast(4, SIZES), "width of the network that makes the prior"] = 64
    kinds: Annotated[
        int,
        AtLeast(0, 10_000),
        "kinds of task, each with a prior of its own (0: a network makes one of the trial so far)",
    ] = 0
    latent: Annotated[int, AtLeast(1, SIZES), "numbers that describe what a task looks like"] = 32
    refinements: Annotated[int, AtLeast(0, 1000), "gradient steps that refine these numbers"] = 0
    refining_rate: Annotated[float, Above(0), "step size of the gradient steps that refine what a task looks like"] = (
        0.1
    )
    spread: Annotated[float, Between(0, 1), "1: plan in a draw of the belief; 0: in its mean"] = 1.0
    bonus: Annotated[float, AtLeast(0), "standard deviations that are added to each mean reward when planning"] = 0.0
    replan: Annotated[bool, "plan at every step and not only at the end of an episode"] = False
    epsilon: Annotated[float, Between(0, 1), "probability of any action instead of the planned one, in training"] = 0.0
    equivalence: Annotated[float, AtLeast(0), "weight of the value-equivalence loss"] = 0.1
    discount: Annotated[float, Between(0, 1), "discount γ of the returns that are planned for"] = 1.0
    outer: Gradient | Evolution = Gradient(5e-3, 0.01, "linear", 1.0)

    title, source, meets = "meta-model learning (MML)", OSBAND, "trial"
    needs = ("tables",)
    suggests = {"meta_steps": 300, "meta_batch": 64, "discount": 1.0}

    def errors(self) -> list[str]:
        if self.kinds and self.refinements:
            return [f"refinements must be 0 with kinds={self.kinds}, got {self.refinements}: only z is refined"]
        return []

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        import jax.numpy as jnp

        from quickstudy.learners.inference.meta_models import Amortised, constant
        from quickstudy.learners.inference.mixture import Mixture
        from quickstudy.learners.inference.mml import MML, equivalence, likelihood
        from quickstudy.learners.inner_rl.dyna_q import DynaQ
        from quickstudy.learners.inner_rl.r_max import RMax
        from quickstudy.report.traces import models

        assert family.average is not None and family.tables is not None
        spec, oracle = family.tasks.spec, family.oracle_value
        reward, transition = family.average()
        shape = *pair, outcomes = transition.shape
        episode = family.segment_length
        agent = lambda model, spread=self.spread, **explores: MML(
            model, episode, self.discount, spread, replan=self.replan, **explores
        )
        if self.kinds:
            model: Any = Mixture(*shape, kinds=self.kinds, key=family.key(1))
        else:
            model = Amortised(
                *shape, key=family.key(1), steps=self.refinements, rate=self.refining_rate, hidden=self.hidden_size,
                latent=self.latent,
            )  # fmt: skip
        flat, guess = family.flat
        once = jnp.ones(tuple(pair))
        scratch = constant(jnp.full(shape, flat / outcomes), guess * once, once)
        prior = constant(flat * transition, reward, once)
        one = constant(SURE * transition, reward, SURE * once)
        trial = qs.Trial(
            family.tasks.environment, trial_length=family.unit * family.trial_length,
            terms=((1.0, likelihood), (self.equivalence, equivalence)), baseline="none", normalise=False,
        )  # fmt: skip
        tested = family.unit * family.tested
        # Where an episode may end, states are left that a model from scratch cannot plan beyond.
        others = (
            {
                "Dyna-Q from scratch": DynaQ(spec.observation, spec.actions, planning=20, **TUNED),
                "R-MAX from scratch": RMax(spec.observation, spec.actions, visits=1, discount=self.discount),
            }
            if outcomes > spec.observation
            else {}
        )
        return Composition(
            learner=agent(model, bonus=self.bonus, epsilon=self.epsilon),
            objective=trial,
            meta_optimizer=self.outer.meta_optimizer(training),
            evaluation=qs.EvaluationConfig(
                dataclasses.replace(trial, trial_length=tested, curve_interval=family.curve_interval),
                baselines={
                    "the family's mean as a prior": agent(prior),
                    "from scratch": agent(scratch),
                    "from scratch, mean model": agent(scratch, 0.0),
                    "one model for all tasks": agent(one),
                    **others,
                },
                eval_view=lambda learner: dataclasses.replace(learner, epsilon=0.0),
                oracle_value=None if oracle is None else lambda tasks: oracle(tasks, family.tested),
                draw=models(family.tables),
                chunk=250,
            ),
            citations=(GRIMM,),
        )
