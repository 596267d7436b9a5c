"""A learned loss, trained in one family of environments and tested in another that it has never seen.

The agents are tables (a linear policy of one-hot states) that begin at nothing in every task and learn by gradient
steps, in training as in the test; what is meta-learned is the loss they descend. Random MDPs of 25 states and 4 actions
pay at every step, mazes of 5×5 cells only at the goal: each recipe trains in the one and is tested in the other. Beside
it, in the same tasks with the same steps: REINFORCE and the actor-critic, each with a grid of rates. What should be
won: total reward against the best of REINFORCE's.
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.base import Recipe

if TYPE_CHECKING:
    from quickstudy.envs.spec import EnvironmentTasks
    from quickstudy.recipes.experiment import Experiment

RATES = (3.0, 10.0, 30.0, 100.0)
SIZE = 5


@dataclasses.dataclass(frozen=True)
class LearnedLoss(Recipe):
    meta_steps: int = 300
    meta_batch: int = 32
    segment_length: int = 20  # steps of each copy between two updates
    num_envs: int = 8  # parallel copies of the environment
    updates: int = 40  # in a life
    bptt_length: int = 5  # updates in a meta-step, through which is differentiated
    predictions: int = 8  # categories of the agent's prediction y
    size: int = 32  # of the LSTM that is the loss
    rate: float = 10.0
    discount: float = 0.95
    learning_rate: float = 3e-3

    source = "Oh et al. 2020, Discovering Reinforcement Learning Algorithms, NeurIPS"

    def families(self) -> "tuple[EnvironmentTasks, EnvironmentTasks]":
        """(to train in, to test in)"""
        raise NotImplementedError

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must(
            "be at least 1", lambda x: x >= 1, "segment_length", "num_envs", "updates", "size", "bptt_length"
        )
        wrong += self.must("be at least 2", lambda x: x >= 2, "predictions")
        wrong += self.must("be above 0", lambda x: x > 0, "rate", "learning_rate")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "discount")
        if self.bptt_length >= 1 and self.updates % self.bptt_length:
            wrong.append(f"bptt_length={self.bptt_length} must divide updates={self.updates}")
        return wrong

    def build(self) -> "Experiment":
        import jax
        import optax

        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.learners.gradient.updates import SGD
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.actor_critic import actor_critic
        from quickstudy.learners.inner_rl.lpg import LPG
        from quickstudy.learners.inner_rl.reinforce import reinforce
        from quickstudy.meta_optimizers.backprop import Backprop
        from quickstudy.nn.models import TablePolicy
        from quickstudy.objectives.trial import Trial
        from quickstudy.parameters import Positive
        from quickstudy.recipes.experiment import Experiment
        from quickstudy.rl import losses
        from quickstudy.tasks.transfer import Transfer

        tasks = Transfer(*self.families())
        states, actions = tasks.spec.observation, tasks.spec.actions or 0
        draw = lambda key: TablePolicy(states, actions, self.predictions, key=key)
        learner = LPG(
            RandomInit(draw), SGD(Positive(self.rate)), key=jax.random.fold_in(jax.random.key(self.seed), 1),
            predictions=self.predictions, size=self.size, predicting=Positive(0.5), exploring=Positive(0.01),
        )  # fmt: skip
        objective = Trial(
            tasks.environment,
            trial_length=self.segment_length * self.updates,
            bptt_length=self.segment_length * self.bptt_length,
            segment_length=self.segment_length,
            num_envs=self.num_envs,
            terms=((1.0, losses.a2c), (0.01, losses.entropy)),
            discount=self.discount,
            baseline="linear",
            across_episodes=False,
        )
        test = dataclasses.replace(
            objective, environment=tasks.unseen.environment, bptt_length=None, baseline="none", normalise=False,
            curve_interval=self.segment_length
            * next(n for n in range(max(1, self.updates // 10), 0, -1) if self.updates % n == 0),
        )  # fmt: skip
        table, with_value = RandomInit(lambda key: TablePolicy(states, actions, key=key)), RandomInit(draw)
        baselines = {}
        for rate in RATES:
            baselines[f"REINFORCE, rate {rate}"] = reinforce(
                with_value, SGD(rate), discount=self.discount, entropy=0.01
            )
            baselines[f"actor-critic, rate {rate}"] = actor_critic(table, SGD(rate), discount=self.discount)
        return Experiment(
            self,
            learner,
            objective,
            Backprop(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(self.learning_rate))),
            tasks,
            EvaluationConfig(test, num_tasks=self.test_tasks, baselines=baselines, chunk=min(250, self.test_tasks)),
            citations=(self.source,),
        )


def families() -> "tuple[EnvironmentTasks, EnvironmentTasks]":
    """(MDPs, mazes). Where steps are worth 1 on average, as in the RL² paper, a loss learns that to earn nothing is
    bad, and that is nearly every step of a maze: so here they are worth 0."""
    from quickstudy.tasks.mazes import Mazes
    from quickstudy.tasks.mdps import TabularMDPs

    return TabularMDPs(SIZE**2, 4, mean=0.0), Mazes(SIZE, episode=25)


@dataclasses.dataclass(frozen=True)
class MazeLPG(LearnedLoss):
    name = "maze-lpg"
    description = "a loss learned on random MDPs, in the place of the policy gradient's, tested in mazes"
    expected = "4 goals after 300 meta-steps where tuned REINFORCE has 131: this way it does not carry over"

    def families(self) -> "tuple[EnvironmentTasks, EnvironmentTasks]":
        return families()


@dataclasses.dataclass(frozen=True)
class MDPLPG(LearnedLoss):
    name = "mdp-lpg"
    description = "a loss learned in mazes, in the place of the policy gradient's, tested on random MDPs"
    expected = "195 after 300 meta-steps where tuned REINFORCE has 621, and an agent that does not learn 0"

    def families(self) -> "tuple[EnvironmentTasks, EnvironmentTasks]":
        mdps, mazes = families()
        return mazes, mdps
