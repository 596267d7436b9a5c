"""Meta-knowledge transfer networks: knowledge that tasks share, and a linear part for what one task adds.

Frozen before the runs, as settings of the same recipe: `--part knowledge` (K alone), `--part inner` (φ alone, on random
features that are never learned; the knowledge is not a start but gone) and `--guidance 0` (λ = 0).
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.recipes.base import Recipe
from quickstudy.recipes.one_maze import OneMaze
from quickstudy.recipes.sinusoid import FINN, Sinusoid

if TYPE_CHECKING:
    from collections.abc import Callable

    from quickstudy.core import Learner
    from quickstudy.envs.spec import EnvironmentTasks
    from quickstudy.learners.generated.mktn import MKTN, Reading
    from quickstudy.recipes.experiment import Experiment

ALPACA = "Harrison, Sharma, Pavone 2018, Meta-Learning Priors for Efficient Online Bayesian Regression, WAFR"
R2D2 = "Bertinetto, Henriques, Torr, Vedaldi 2019, Meta-learning with Differentiable Closed-Form Solvers, ICLR"
BRADTKE = "Bradtke, Barto 1996, Linear Least-Squares Algorithms for Temporal Difference Learning"
WATKINS = "Watkins 1989, Learning from Delayed Rewards"

UNGUIDED = 1e-4  # the ridge's λ where there is to be none: the solution of least norm, as far as single precision goes


@dataclasses.dataclass(frozen=True)
class Transfer(Recipe):
    """What the recipes of MKTN share."""

    size: int = 10  # of φ
    rule: Literal["ridge", "proximal"] = "ridge"  # how φ moves: closed form, or proximal semi-gradient steps
    guidance: float = 0.1  # where the learned λ starts; 0: none, held there
    inner_rate: float = 0.1  # where the learned α of the proximal rule starts
    part: Literal["both", "knowledge", "inner"] = "both"  # knowledge: K alone; inner: φ alone on random features

    def errors(self) -> list[str]:
        wrong = super().errors() + self.must("be at least 1", lambda x: x >= 1, "size")
        wrong += self.must("not be negative", lambda x: x >= 0, "guidance")
        wrong += self.must("be above 0", lambda x: x > 0, "inner_rate")
        return wrong

    def transfer(self, net: "Callable", reading: "Reading", steps: int = 1) -> "MKTN":
        from quickstudy.learners.generated.mktn import MKTN, Proximal, Ridge
        from quickstudy.parameters import Frozen, Positive

        if self.rule == "ridge":
            rule = Ridge(Positive(self.guidance) if self.guidance else UNGUIDED)
        else:
            rule = Proximal(Positive(self.inner_rate), Positive(self.guidance) if self.guidance else 0.0)
        if self.part == "knowledge":
            return MKTN(net, rule, reading, self.size, steps=0)
        if self.part == "inner":
            return MKTN(Frozen(net), rule, reading, self.size, steps=steps, knowledge=False)
        return MKTN(net, rule, reading, self.size, steps=steps)


@dataclasses.dataclass(frozen=True)
class SinusoidMKTN(Transfer, Sinusoid):
    """To be won: query MSE on 1,000 held-out sinusoids, 5 shots, paired, after as many meta-steps, against K alone, φ
    alone and λ = 0; and against sinusoid-maml after its 70,000."""

    meta_steps: int = 3000

    name = "sinusoid-mktn"
    description = "MKTN on 5-shot sinusoid regression: a shared network, and a ridge regression on its features"
    expected = "query MSE 0.012 after 3,000 meta-steps, where MAML has 0.33 after 70,000 and ten inner steps"
    source = ALPACA

    def parts(self) -> dict[str, Any]:
        import jax

        from quickstudy.learners.generated.mktn import Regression
        from quickstudy.nn.models import MLP

        net = MLP((1, self.hidden, self.hidden, 1 + self.size), key=jax.random.fold_in(jax.random.key(self.seed), 1))
        return {
            "learner": self.transfer(net, Regression(), self.inner_steps),
            "steps": (0,) if self.part == "knowledge" else (0, 1, 5, 10),
            "citations": (ALPACA, R2D2, FINN),
        }


@dataclasses.dataclass(frozen=True)
class Controlled(Transfer):
    """Values of actions where observations are one-hot."""

    meta_steps: int = 400
    size: int = 16
    rule: Literal["ridge", "proximal"] = "proximal"
    inner_rate: float = 0.5
    guidance: float = 0.01
    hidden: int = 64
    discount: float = 0.95
    gae_lambda: float = 0.7
    temperature: float = 0.015  # of the policy softmax(Q / temperature)
    epsilon: float = 0.02  # probability of any action instead
    learning_rate: float = 6e-3
    final_rate: float = 0.05  # of the learning rate, reached linearly at the end
    clip_norm: float = 1.0

    def errors(self) -> list[str]:
        wrong = super().errors() + self.must("be at least 1", lambda x: x >= 1, "hidden")
        wrong += self.must("lie in [0, 1)", lambda x: 0 <= x < 1, "discount", "epsilon")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "gae_lambda", "final_rate")
        return wrong + self.must("be above 0", lambda x: x > 0, "temperature", "learning_rate", "clip_norm")

    def control(
        self,
        tasks: "EnvironmentTasks",
        trial_length: int,
        *,
        opinion: float,
        baselines: "dict[str, Learner]",
        oracle_value: "Callable[[Any], Any]",
    ) -> "Experiment":
        """`opinion`: scale of what the knowledge says to begin with, relative to that of a plain network."""
        import equinox as eqx
        import jax
        import jax.numpy as jnp
        import optax

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.learners.generated.mktn import Control
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.nn.models import MLP
        from quickstudy.objectives.trial import Trial
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.report.traces import transfer
        from quickstudy.rl import losses

        length, actions = tasks.spec.observation, tasks.spec.actions
        assert actions is not None
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        net = MLP((length, self.hidden, actions * (1 + self.size)), key=key, activation=jnp.tanh)
        # A one-hot input has a variance of 1/length. Without this all of them look alike to begin with, and what is
        # learned of one is learned of all.
        small = jnp.tile(jnp.array([opinion] + [1.0] * self.size), actions)
        net = eqx.tree_at(lambda n: n.layers[0].weight, net, length**0.5 * net.layers[0].weight)
        net = eqx.tree_at(lambda n: n.layers[-1], net, jax.tree.map(lambda w: (w.T * small).T, net.layers[-1]))
        trial = Trial(
            tasks.environment,
            trial_length=trial_length,
            terms=((1.0, losses.q_value),),
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            across_episodes=False,
            normalise=False,
        )
        rate = optax.linear_schedule(self.learning_rate, self.final_rate * self.learning_rate, self.meta_steps)
        return Experiment(
            self,
            self.transfer(net, Control(self.discount, self.temperature, self.epsilon)),
            trial,
            Backprop(optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.adam(rate))),
            tasks,
            EvaluationConfig(
                dataclasses.replace(trial, curve_interval=trial_length // 10, baseline="none"),
                num_tasks=self.test_tasks,
                baselines=baselines,
                oracle_value=oracle_value,
                draw=transfer,
                chunk=min(500, self.test_tasks),
            ),
            citations=(BRADTKE, WATKINS),
        )


@dataclasses.dataclass(frozen=True)
class MazeMKTN(Controlled, OneMaze):
    """To be won: goals within the horizon in 1,000 held-out tasks, paired, against K alone, φ alone and λ = 0, each
    trained as long, and against Q-learning and Dyna-Q from scratch."""

    name = "maze-mktn"
    description = "MKTN in one maze with a goal and a wind of its own in each task: the ways are known, where to is not"
    expected = "14 goals in 200 steps, where Dyna-Q from scratch has 7 and K alone 6 (2 minutes)"
    source = BRADTKE

    def build(self) -> "Experiment":
        # The knowledge begins near indifference, so that every goal is found.
        return self.control(
            self.tasks(), self.trial_length, opinion=0.01, baselines=self.baselines(), oracle_value=self.optimum
        )


@dataclasses.dataclass(frozen=True)
class KernelsMKTN(Controlled):
    """To be won: total reward of the life in 1,000 held-out MDPs, paired, against K alone, φ alone and λ = 0, each
    trained as long, and against posterior sampling from scratch. RL² is `kernels-rl2` on the same tasks."""

    discount: float = 0.9
    temperature: float = 0.1  # of the policy softmax(Q / temperature)
    episodes: int = 10  # of a life

    name = "kernels-mktn"
    description = "MKTN on MDPs that mix shared kernels: what they share is known, what they mix is not"
    expected = "10 episodes: 187 (RL² 179, K alone 140, from scratch 138, the task known 225; half a minute)"
    source = BRADTKE

    def errors(self) -> list[str]:
        return super().errors() + self.must("be a multiple of 10", lambda x: x >= 10 and x % 10 == 0, "episodes")

    def build(self) -> "Experiment":
        from quickstudy.baselines import mdps
        from quickstudy.rl.planning import best_returns
        from quickstudy.tasks.mdps import KernelMDPs

        tasks = KernelMDPs()
        return self.control(
            tasks,
            tasks.episode * self.episodes,
            opinion=1.0,
            baselines={"PSRL, flat prior": mdps.psrl(tasks.states, tasks.actions, tasks.episode)},
            oracle_value=lambda drawn: self.episodes * best_returns(drawn, tasks.episode),
        )
