"""Reinforcement learning from scratch on classic control (extra `envs`): nothing is meta-trained, a run is its test.

Every held-out task is the same environment, lived by a new agent with a new network: `test_tasks` says how many
agents learn. The score is the mean return of the episodes in the last tenth of a life, exploration included.
`cartpole-es-dqn` alone is meta-trained, on poles that differ.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from quickstudy.recipes.base import Recipe

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.envs.gymnax import GymnaxTasks
    from quickstudy.envs.spec import Spec
    from quickstudy.learners.gradient.updates import Update
    from quickstudy.objectives.trial import Trial
    from quickstudy.recipes.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Classic(Recipe):
    meta_steps: int = 0
    test_tasks: int = 10
    steps: int = 100_000  # of the environment, over all parallel copies
    num_envs: int = 16  # parallel copies
    segment_length: int = 128  # steps of each copy between two adaptations
    rate: float = 3e-4
    final_rate: float = 1.0  # of the rate, reached linearly at the end
    discount: float = 0.99
    hidden: int = 64

    environment: ClassVar[str]

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "num_envs", "segment_length", "hidden")
        wrong += self.must("be above 0", lambda x: x > 0, "rate")
        wrong += self.must("lie in [0, 1]", lambda x: 0 <= x <= 1, "discount", "final_rate")
        if self.num_envs >= 1 and self.segment_length >= 1 and self.adaptations < 10:
            wrong.append(
                f"steps={self.steps} must be at least 10 times num_envs x segment_length = "
                f"{self.num_envs * self.segment_length}"
            )
        return wrong

    @property
    def adaptations(self) -> int:
        """A multiple of ten, as many as fit into `steps`."""
        return self.steps // (self.num_envs * self.segment_length) // 10 * 10

    def learner(self, spec: "Spec") -> "Learner":
        raise NotImplementedError

    def adam(self, gradient_steps: int, *, clip: float = 0.5, rate: Any = None) -> "Update":
        """Adam for so many updates in a life, at `rate` or one that may be learned; gradients are clipped to a norm of
        `clip`."""
        import optax

        from quickstudy.learners.gradient.updates import Scaled, clipped

        falling = optax.scale_by_schedule(optax.linear_schedule(1.0, self.final_rate, gradient_steps))
        return Scaled(
            self.rate if rate is None else rate, optax.chain(clipped(clip), optax.scale_by_adam(eps=1e-5), falling)
        )

    def build(self) -> "Experiment":
        from quickstudy.evaluate.config import EvaluationConfig
        from quickstudy.meta_optimizers.untrained import Untrained
        from quickstudy.recipes.experiment import Experiment

        tasks = self.tasks()
        life = self.life(tasks)
        evaluation = EvaluationConfig(life, num_tasks=self.test_tasks, chunk=self.test_tasks)
        return Experiment(
            self, self.learner(tasks.spec), life, Untrained(), tasks, evaluation, citations=(self.source,)
        )

    def tasks(self) -> "GymnaxTasks":
        from quickstudy.envs.gymnax import GymnaxTasks

        return GymnaxTasks.make(self.environment, lambda key, params: params)

    def life(self, tasks: "GymnaxTasks") -> "Trial":
        from quickstudy.objectives.trial import Trial

        trial_length = self.adaptations * self.segment_length
        return Trial(
            tasks.environment,
            trial_length=trial_length,
            segment_length=self.segment_length,
            num_envs=self.num_envs,
            burn_in=trial_length - trial_length // 10,
            baseline="none",
            normalise=False,
            curve_interval=trial_length // 10,
            per_episode=True,
        )


def tanh_policy(spec: "Spec", hidden: int) -> Callable[[Any], Any]:
    """Separate networks for policy and value, two hidden layers of tanh each."""
    import jax
    import jax.numpy as jnp

    from quickstudy.nn.models import MLP, CategoricalPolicy, WithValue

    def draw(key: Any) -> WithValue:
        first, second = jax.random.split(key)
        layers = lambda outputs: (spec.observation, hidden, hidden, outputs)
        policy = CategoricalPolicy(MLP(layers(spec.actions), key=first, activation=jnp.tanh))
        return WithValue(policy, MLP(layers(1), key=second, activation=jnp.tanh))

    return draw


@dataclasses.dataclass(frozen=True)
class CartPoleReinforce(Classic):
    steps: int = 1_000_000
    num_envs: int = 32
    segment_length: int = 500
    rate: float = 1e-2
    final_rate: float = 0.0

    environment = "CartPole-v1"
    name = "cartpole-reinforce"
    description = "REINFORCE on CartPole from scratch; nothing is meta-trained"
    expected = "a return of at least 475 an episode at the end"
    source = "Williams 1992, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning"

    def learner(self, spec: "Spec") -> "Learner":
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.reinforce import reinforce

        return reinforce(
            RandomInit(tanh_policy(spec, self.hidden)), self.adam(self.adaptations), discount=self.discount
        )


@dataclasses.dataclass(frozen=True)
class CartPoleA2C(Classic):
    steps: int = 1_000_000
    segment_length: int = 16
    rate: float = 3e-3
    final_rate: float = 0.0
    gae_lambda: float = 0.95

    environment = "CartPole-v1"
    name = "cartpole-a2c"
    description = "the advantage actor-critic on CartPole from scratch; nothing is meta-trained"
    expected = "a return of at least 475 an episode at the end"
    source = "Mnih et al. 2016, Asynchronous Methods for Deep Reinforcement Learning"

    def learner(self, spec: "Spec") -> "Learner":
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.actor_critic import actor_critic

        return actor_critic(
            RandomInit(tanh_policy(spec, self.hidden)),
            self.adam(self.adaptations),
            discount=self.discount,
            gae_lambda=self.gae_lambda,
        )


@dataclasses.dataclass(frozen=True)
class CartPolePPO(Classic):
    """PureJaxRL's settings."""

    steps: int = 500_000
    num_envs: int = 4
    rate: float = 2.5e-4
    final_rate: float = 0.0
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatches: int = 4

    environment = "CartPole-v1"
    name = "cartpole-ppo"
    description = "PPO on CartPole from scratch; nothing is meta-trained"
    expected = "a return of at least 475 an episode at the end"
    source = "Schulman, Wolski, Dhariwal, Radford, Klimov 2017, Proximal Policy Optimization Algorithms"

    def learner(self, spec: "Spec") -> "Learner":
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.ppo import ppo

        return ppo(
            RandomInit(tanh_policy(spec, self.hidden)),
            self.adam(self.adaptations * self.epochs * self.minibatches),
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            epochs=self.epochs,
            minibatches=self.minibatches,
        )


@dataclasses.dataclass(frozen=True)
class CartPoleDQN(Classic):
    steps: int = 500_000
    num_envs: int = 10
    segment_length: int = 1
    rate: float = 5e-4
    final_rate: float = 0.0
    gradient_steps: int = 1  # gradient steps after each step of the environment
    epsilon: float = 0.01  # probability of a random action, in the end
    capacity: int = 50_000  # transitions that are kept for replay
    target_update_interval: int = 50  # updates between two copies to the target network

    environment = "CartPole-v1"
    name = "cartpole-dqn"
    description = "DQN on CartPole from scratch; nothing is meta-trained"
    expected = "a return of at least 475 an episode at the end"
    source = "Mnih et al. 2015, Human-level control through deep reinforcement learning"

    def errors(self) -> list[str]:
        return super().errors() + self.must(
            "be at least 1", lambda x: x >= 1, "gradient_steps", "capacity", "target_update_interval"
        )

    def learner(self, spec: "Spec", **choices: Any) -> "Learner":
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.dqn import DQN
        from quickstudy.nn.models import MLP

        draw = lambda key: MLP((spec.observation, self.hidden, self.hidden, spec.actions or 0), key=key)
        rates = {"discount": self.discount, "epsilon": self.epsilon, **choices}
        return DQN(
            RandomInit(draw),
            self.adam(self.adaptations * self.gradient_steps, clip=10.0, rate=rates.pop("rate", None)),
            spec.observation,
            gradient_steps=self.gradient_steps,
            capacity=self.capacity,
            decay=self.steps // 4,
            target_update_interval=self.target_update_interval,
            **rates,
        )


@dataclasses.dataclass(frozen=True)
class CartPoleESDQN(CartPoleDQN):
    """A fiftieth of the steps, in which cartpole-dqn's own rates learn little, on poles that differ."""

    meta_steps: int = 60
    meta_batch: int = 4
    test_tasks: int = 100
    steps: int = 10_000
    capacity: int = 10_000
    rate: float = 5e-4  # where evolution begins, as `discount` and `epsilon`
    population: int = 16  # of evolution: learners tried in each meta-step
    sigma: float = 0.1  # standard deviation by which they differ, relative to the size of what differs
    learning_rate: float = 0.1  # of Adam on what evolves

    name = "cartpole-es-dqn"
    description = "DQN in short lives on CartPole with random pole and force, its rate, discount and ε evolved"
    expected = "196 an episode, as the best of a grid has; the rate, discount and ε it begins with have 44"

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be even and at least 2", lambda x: x >= 2 and x % 2 == 0, "population")
        wrong += self.must("lie between 0 and 1", lambda x: 0 < x < 1, "epsilon")
        if self.discount in (0, 1):
            wrong.append(f"discount={self.discount:g} cannot be where evolution begins: give one between 0 and 1")
        return wrong + self.must("be above 0", lambda x: x > 0, "sigma", "learning_rate")

    def tasks(self) -> "GymnaxTasks":
        from quickstudy.envs.gymnax import GymnaxTasks, random_cartpole

        return GymnaxTasks.make(self.environment, random_cartpole)

    def build(self) -> "Experiment":
        import optax

        from quickstudy.meta_optimizers.evolution import Evolution
        from quickstudy.parameters import Bounded, Positive

        experiment = super().build()
        spec = self.tasks().spec
        evolved = self.learner(
            spec, rate=Positive(self.rate), discount=Bounded(self.discount), epsilon=Bounded(self.epsilon)
        )
        falling = optax.linear_schedule(self.learning_rate, 0.0, self.meta_steps)
        grid = {
            f"rate {rate}, γ {discount}": self.learner(spec, rate=rate, discount=discount)
            for rate in (1e-3, 3e-3, 1e-2)
            for discount in (0.95, 0.99)
        }
        evaluation = dataclasses.replace(
            experiment.evaluation, baselines={"where it began": experiment.learner, **grid}
        )
        optimizer = Evolution(optax.adam(falling), population=self.population, sigma=self.sigma)
        return dataclasses.replace(experiment, learner=evolved, meta_optimizer=optimizer, evaluation=evaluation)


@dataclasses.dataclass(frozen=True)
class PendulumDDPG(Classic):
    steps: int = 40_000
    num_envs: int = 4
    segment_length: int = 1
    rate: float = 1e-3
    gradient_steps: int = 1  # gradient steps after each step of the environment
    critics: int = 1  # of whose values the least counts
    target_noise: float = 0.0  # deviation of the noise on the target's actions
    policy_delay: int = 1  # updates of the critic for one of the actor

    environment = "Pendulum-v1"
    name = "pendulum-ddpg"
    description = "DDPG on Pendulum from scratch; nothing is meta-trained"
    expected = "a return of at least -200 an episode at the end"
    source = "Lillicrap et al. 2016, Continuous Control with Deep Reinforcement Learning"

    def learner(self, spec: "Spec") -> "Learner":
        import jax

        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.ddpg import DDPG, ActorAndCritics
        from quickstudy.nn.models import MLP

        def draw(key: Any) -> ActorAndCritics:
            first, *rest = jax.random.split(key, 1 + self.critics)
            layers = lambda inputs, outputs: (inputs, self.hidden, self.hidden, outputs)
            critics = [MLP(layers(spec.observation + spec.dims, 1), key=k) for k in rest]
            return ActorAndCritics(MLP(layers(spec.observation, spec.dims), key=first), critics)

        return DDPG(
            RandomInit(draw),
            self.adam(self.adaptations * self.gradient_steps, clip=10.0),
            spec.observation,
            gradient_steps=self.gradient_steps,
            dims=spec.dims,
            max_action=2.0,
            discount=self.discount,
            target_noise=self.target_noise,
            policy_delay=self.policy_delay,
            actor_update=self.adam(self.adaptations * self.gradient_steps // self.policy_delay, clip=10.0),
        )


@dataclasses.dataclass(frozen=True)
class PendulumTD3(PendulumDDPG):
    gradient_steps: int = 2
    critics: int = 2
    target_noise: float = 0.2
    policy_delay: int = 2

    name = "pendulum-td3"
    description = "TD3 on Pendulum from scratch; nothing is meta-trained"
    source = "Fujimoto, van Hoof, Meger 2018, Addressing Function Approximation Error in Actor-Critic Methods"
