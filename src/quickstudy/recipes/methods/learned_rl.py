"""Reinforcement learning whose rule is learned: meta-gradients, and a learned loss.

`meta-gradient` (Xu, van Hasselt, Silver 2018): an actor-critic that learns γ, λ, its step size and more while it
learns. A trial goes on over many meta-steps, in the objective's memory. Each meta-step rolls two segments out and is
judged by the policy gradient of the second one, with a γ and a λ that stay as they are: what the update after the first
segment should have been. Several trials at once share what is learned, and new ones begin when they end. The test
begins anew with what was found, held constant, beside the same actor-critic with every γ and λ of a grid, and with what
the meta-training began with. What should be won: return per episode at the end against the best of the grid.

`lpg` (Oh et al. 2020): a learned loss, trained in one family of environments and tested in another that it has never
seen. The agents are tables (a linear policy of one-hot states) that begin at nothing in every task and learn by
gradient steps, in training as in the test; what is meta-learned is the loss they descend. Random MDPs pay at every
step, mazes only at the goal. Beside it, in the same tasks with the same steps: REINFORCE and the actor-critic, each
with a grid of step sizes. What should be won: total reward against the best of REINFORCE's.
"""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Between, Inside, Training
from quickstudy.recipes.methods.inner_rl import Agent, tanh_policy
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig

DISCOUNTS, LAMBDAS = (0.95, 0.99, 0.995), (0.8, 0.95, 1.0)
RATES = (3.0, 10.0, 30.0, 100.0)


@dataclasses.dataclass(frozen=True)
class MetaGradient(MethodConfig):
    agent: Agent = Agent(64_000, 16, 16, 3e-3, 1.0, 0.95)
    gae_lambda: Annotated[float, Inside(0, 1), "λ of the advantages, where it starts to be learned"] = 0.9
    value: Annotated[float, Above(0), "weight of the critic's loss, where it starts to be learned"] = 0.5
    entropy: Annotated[float, Above(0), "weight of the policy's entropy, where it starts to be learned"] = 0.01
    outer_discount: Annotated[float, Between(0, 1), "discount γ of the returns in the outer loss"] = 0.99
    outer_gae_lambda: Annotated[float, Between(0, 1), "λ of the advantages in the outer loss"] = 0.95
    outer: Gradient | Evolution = Gradient(0.02, 1.0, "linear", 1.0)

    title, meets = "meta-gradients", "segments"
    needs = "vectors", "episodes"
    source = "Xu, van Hasselt, Silver 2018, Meta-Gradient Reinforcement Learning, NeurIPS"
    suggests = {"meta_steps": 500, "meta_batch": 8, "test_tasks": 10, "vary": False}
    not_evolved = "a trial goes on over many meta-steps, and evolution would compare different parts of it"

    def errors(self) -> list[str]:
        inside = 0 < self.agent.discount < 1
        return [] if inside else [f"discount must lie in (0, 1), got {self.agent.discount}"]

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.gradient.updates import Scaled
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.actor_critic import actor_critic
        from quickstudy.rl import losses

        agent, tested = self.agent, self.agent.trial(family)
        start = RandomInit(tanh_policy(family.tasks.spec, agent.hidden_size))
        began = {
            "rate": agent.rate, "discount": agent.discount, "gae_lambda": self.gae_lambda, "value": self.value,
            "entropy": self.entropy,
        }  # fmt: skip

        def learner(**choices: Any) -> Any:
            rate, *_ = (choices := {**began, **choices}).pop("rate"), None
            return actor_critic(start, Scaled(rate), **choices)

        bounded = "discount", "gae_lambda"
        learned = {name: (qs.Bounded if name in bounded else qs.Positive)(value) for name, value in began.items()}
        objective = dataclasses.replace(
            tested, bptt_length=2 * agent.segment_length, curve_interval=agent.segment_length, burn_in=0,
            per_episode=False, terms=((1.0, losses.a2c),), discount=self.outer_discount,
            gae_lambda=self.outer_gae_lambda, baseline="value", across_episodes=False, normalise=True,
        )  # fmt: skip
        grid = {
            f"γ={discount}, λ={gae_lambda}": learner(discount=discount, gae_lambda=gae_lambda)
            for discount in DISCOUNTS
            for gae_lambda in LAMBDAS
        }
        return Composition(
            learner=learner(**learned),
            objective=objective,
            meta_optimizer=self.outer.meta_optimizer(training),
            evaluation=qs.EvaluationConfig(tested, baselines={"where it began": learner(), **grid}, chunk=10**9),
        )


@dataclasses.dataclass(frozen=True)
class LPG(MethodConfig):
    train_in: Annotated[
        Literal["mdp", "maze", "same"], "family of environments to train in: MDPs, mazes, or the one of the test"
    ] = "same"
    segment_length: Annotated[int, AtLeast(1), "steps of each copy between two updates"] = 20
    num_envs: Annotated[int, AtLeast(1), "parallel copies of the environment"] = 8
    updates: Annotated[int, AtLeast(1), "updates of an agent in a task"] = 40
    bptt_updates: Annotated[int, AtLeast(1), "updates in a meta-step, through which the gradient goes back"] = 5
    predictions: Annotated[int, AtLeast(2, SIZES), "categories of the agent's prediction y"] = 8
    lstm_size: Annotated[int, AtLeast(1, SIZES), "hidden size of the LSTM that is the loss"] = 32
    rate: Annotated[float, Above(0), "step size of the agent's updates, where it starts to be learned"] = 10.0
    discount: Annotated[float, Between(0, 1), "discount γ of the returns"] = 0.95
    outer: Gradient | Evolution = Gradient(3e-3, 1.0, "linear", 1.0)

    title, meets = "a learned loss (LPG)", "segments"
    needs = "states", "choices"
    source = "Oh et al. 2020, Discovering Reinforcement Learning Algorithms, NeurIPS"
    suggests = {"meta_steps": 300, "meta_batch": 32}
    not_evolved = "a trial goes on over many meta-steps, and evolution would compare different parts of it"

    def errors(self) -> list[str]:
        if self.updates % self.bptt_updates:
            return [f"bptt_updates={self.bptt_updates} must divide updates={self.updates}"]
        return []

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.actor_critic import actor_critic
        from quickstudy.learners.inner_rl.lpg import LPG
        from quickstudy.learners.inner_rl.reinforce import reinforce
        from quickstudy.nn.models import TablePolicy
        from quickstudy.rl import losses
        from quickstudy.tasks.transfer import Transfer

        tasks = Transfer(self.trained_in(family.tasks), family.tasks)
        states, actions = tasks.spec.observation, tasks.spec.actions or 0
        draw = lambda key: TablePolicy(states, actions, self.predictions, key=key)
        learner = LPG(
            RandomInit(draw), qs.SGD(qs.Positive(self.rate)), key=family.key(1), predictions=self.predictions,
            size=self.lstm_size, predicting=qs.Positive(0.5), exploring=qs.Positive(0.01),
        )  # fmt: skip
        objective = qs.Trial(
            tasks.environment,
            trial_length=self.segment_length * self.updates,
            bptt_length=self.segment_length * self.bptt_updates,
            segment_length=self.segment_length,
            num_envs=self.num_envs,
            terms=((1.0, losses.a2c), (0.01, losses.entropy)),
            discount=self.discount,
            baseline="linear",
            across_episodes=False,
        )
        apart = next(n for n in range(max(1, self.updates // 10), 0, -1) if self.updates % n == 0)
        test = dataclasses.replace(
            objective, environment=tasks.unseen.environment, bptt_length=None, baseline="none", normalise=False,
            curve_interval=self.segment_length * apart,
        )  # fmt: skip
        table, with_value = RandomInit(lambda key: TablePolicy(states, actions, key=key)), RandomInit(draw)
        baselines = {}
        for rate in RATES:
            baselines[f"REINFORCE, rate {rate}"] = reinforce(
                with_value, qs.SGD(rate), discount=self.discount, entropy=0.01
            )
            baselines[f"actor-critic, rate {rate}"] = actor_critic(table, qs.SGD(rate), discount=self.discount)
        return Composition(
            learner=learner,
            objective=objective,
            meta_optimizer=self.outer.meta_optimizer(training),
            evaluation=qs.EvaluationConfig(test, baselines=baselines, chunk=250),
            tasks=tasks,
        )

    def trained_in(self, tested: Any) -> Any:
        """Where steps are worth 1 on average, as in the RL² paper, a loss learns that to earn nothing is bad, and that
        is nearly every step of a maze: so in the MDPs to train in they are worth 0."""
        import math

        from quickstudy.tasks.mazes import Mazes
        from quickstudy.tasks.mdps import TabularMDPs

        states, actions = tested.spec.observation, tested.spec.actions
        if self.train_in == "same":
            return tested
        if self.train_in == "mdp":
            return TabularMDPs(states, actions, mean=0.0)
        side = math.isqrt(states)
        if side**2 != states or actions != 4:
            raise qs.ConfigError(
                [f"train_in=maze needs a square number of states and 4 actions, not {states}, {actions}"]
            )
        return Mazes(side, episode=25)
