"""Meta-knowledge transfer networks: knowledge that tasks share, and a linear part for what one task adds.

Decided before the runs, as settings of the same recipe: `--part knowledge` (K alone), `--part inner` (φ alone, on
random features that are never learned; the knowledge is not a start but gone) and `--guidance 0` (λ = 0). To be won,
paired, on 1,000 held-out tasks, against these, each trained as long:

    sinusoid-mktn   query MSE at 5 shots, and against sinusoid-maml after its 70,000
    maze-mktn       goals within the trial, and against Q-learning and Dyna-Q from scratch
    kernels-mktn    total reward of the trial, and against posterior sampling from scratch; RL² is `kernels-rl2`
"""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Between, Training
from quickstudy.recipes.methods.gradient import InnerSteps, TestSteps
from quickstudy.recipes.methods.labelled import FINN, composed
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, EnvironmentFamily, LabelledFamily, MethodConfig

ALPACA = "Harrison, Sharma, Pavone 2018, Meta-Learning Priors for Efficient Online Bayesian Regression, WAFR"
R2D2 = "Bertinetto, Henriques, Torr, Vedaldi 2019, Meta-learning with Differentiable Closed-Form Solvers, ICLR"
BRADTKE = "Bradtke, Barto 1996, Linear Least-Squares Algorithms for Temporal Difference Learning"
WATKINS = "Watkins 1989, Learning from Delayed Rewards"
UNGUIDED = 1e-4  # the ridge's λ where there is to be none: the solution of least norm, as far as single precision goes


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What is transferred, and how a task adds to it."""

    added_size: Annotated[int, AtLeast(1, SIZES), "numbers in what one task adds (φ)"] = 10
    rule: Annotated[
        Literal["ridge", "proximal"],
        "how the weights of a task (φ) are solved: in closed form, or by proximal semi-gradient steps",
    ] = "ridge"
    guidance: Annotated[
        float,
        AtLeast(0),
        "how strongly they are held back, where it starts to be learned (λ; 0: not at all, held there)",
    ] = 0.1
    inner_rate: Annotated[float, Above(0), "step size of the proximal rule, where it starts to be learned"] = 0.1
    part: Annotated[
        Literal["both", "knowledge", "inner"],
        "knowledge: the shared network alone; inner: what a task adds alone, on random features",
    ] = "both"

    def learner(self, net: Any, reading: Any, steps: int = 1) -> Any:
        from quickstudy.learners.generated.mktn import MKTN, Proximal, Ridge

        guidance = qs.Positive(self.guidance) if self.guidance else None
        if self.rule == "ridge":
            rule: Any = Ridge(guidance or UNGUIDED)
        else:
            rule = Proximal(qs.Positive(self.inner_rate), guidance or 0.0)
        size = self.added_size
        if self.part == "knowledge":
            return MKTN(net, rule, reading, size, steps=0)
        if self.part == "inner":
            return MKTN(qs.Frozen(net), rule, reading, size, steps=steps, knowledge=False)
        return MKTN(net, rule, reading, size, steps=steps)


@dataclasses.dataclass(frozen=True)
class Regression(MethodConfig):
    transfer: Transfer = Transfer()
    inner_steps: InnerSteps = 1
    test_steps: TestSteps = ()
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "MKTN", ALPACA, "few-shot"
    needs = ("numbers",)

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.learners.generated.mktn import Regression

        net = family.net(family.outputs + self.transfer.added_size, family.key(1))
        tested = tuple(sorted({*self.test_steps} or {0, self.inner_steps}))
        return composed(
            family, training, self.outer, self.transfer.learner(net, Regression(), self.inner_steps),
            steps=(0,) if self.transfer.part == "knowledge" else tested,
            citations=(R2D2, FINN),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Control(MethodConfig):
    """Values of actions where observations are one-hot."""

    transfer: Transfer = Transfer(16, "proximal", 0.01, 0.5)
    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the shared network's hidden layer"] = 64
    discount: Annotated[float, Between(0, 0.999999), "discount γ of the returns"] = 0.95
    gae_lambda: Annotated[float, Between(0, 1), "λ of the returns that the values are trained on"] = 0.7
    temperature: Annotated[float, Above(0), "temperature of the policy, which is a softmax of the values"] = 0.015
    epsilon: Annotated[float, Between(0, 0.999999), "probability of a random action (ε of the policy)"] = 0.02
    initial_scale: Annotated[
        float, AtLeast(0), "scale of the shared values to begin with; near indifference every goal is found"
    ] = 1.0
    outer: Gradient | Evolution = Gradient(6e-3, 0.05, "linear", 1.0)

    title, source, meets = "MKTN", BRADTKE, "trial"
    needs = "states", "choices"
    suggests = {"meta_steps": 400, "meta_batch": 32, "discount": 0.95, "gae_lambda": 0.7}

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        from quickstudy.learners.generated.mktn import Control
        from quickstudy.nn.models import MLP
        from quickstudy.report.traces import transfer
        from quickstudy.rl import losses

        spec, size, oracle = family.tasks.spec, self.transfer.added_size, family.oracle_value
        states, actions = spec.observation, spec.actions
        net = MLP((states, self.hidden_size, actions * (1 + size)), key=family.key(1), activation=jnp.tanh)
        # A one-hot input has a variance of 1/states. Without this all of them look alike to begin with, and what is
        # learned of one is learned of all.
        small = jnp.tile(jnp.array([self.initial_scale] + [1.0] * size), actions)
        net = eqx.tree_at(lambda n: n.layers[0].weight, net, states**0.5 * net.layers[0].weight)
        net = eqx.tree_at(lambda n: n.layers[-1], net, jax.tree.map(lambda w: (w.T * small).T, net.layers[-1]))
        trial = qs.Trial(
            family.tasks.environment, trial_length=family.unit * family.trial_length, terms=((1.0, losses.q_value),),
            discount=self.discount, gae_lambda=self.gae_lambda, across_episodes=False, normalise=False,
        )  # fmt: skip
        tested = family.unit * family.tested
        test = dataclasses.replace(trial, trial_length=tested, curve_interval=family.curve_interval, baseline="none")
        return Composition(
            learner=self.transfer.learner(net, Control(self.discount, self.temperature, self.epsilon)),
            objective=trial,
            meta_optimizer=self.outer.meta_optimizer(training),
            evaluation=qs.EvaluationConfig(
                test,
                baselines=family.baselines(),
                oracle_value=None if oracle is None else lambda tasks: oracle(tasks, family.tested),
                draw=transfer,
                chunk=500,
            ),
            citations=(WATKINS,),
        )
