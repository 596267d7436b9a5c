"""Reinforcement learning inside a task, from scratch: nothing is meta-trained, and a run is its test.

Every held-out task is met by a new agent with a new network: `test_tasks` says how many agents learn. The score is the
mean return of the episodes in the last tenth of training, exploration included. With `es-` before the method's name its
step size, discount and whatever else is a number evolve over tasks.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Between, Training
from quickstudy.recipes.outer import Evolution
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig

ALONE = {"meta_steps": 0, "test_tasks": 10, "vary": False}
Lambda = Annotated[float, Between(0, 1), "λ of the advantages (generalised advantage estimation)"]
GradientSteps = Annotated[int, AtLeast(1, 10_000), "gradient steps after each step of the environment"]


@dataclasses.dataclass(frozen=True)
class Agent:
    """What all share."""

    steps: Annotated[int, AtLeast(10, 10**10), "environment steps that an agent learns for, over all parallel copies"]
    num_envs: Annotated[int, AtLeast(1), "parallel copies of the environment"]
    segment_length: Annotated[int, AtLeast(1), "steps of each copy between two adaptations"]
    rate: Annotated[float, Above(0), "step size of the agent's updates, or where it starts to evolve"]
    final_inner_rate: Annotated[float, Between(0, 1), "fraction of that step size that is left at the end"] = 0.0
    discount: Annotated[float, Between(0, 1), "discount γ of the returns, or where it starts to evolve"] = 0.99
    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the networks' two hidden layers"] = 64

    @property
    def adaptations(self) -> int:
        """A multiple of ten, as many as fit into `steps`."""
        return self.steps // (self.num_envs * self.segment_length) // 10 * 10

    def errors(self) -> list[str]:
        if self.adaptations >= 10:
            return []
        return [
            f"steps={self.steps} must be at least 10 times num_envs x segment_length = "
            f"{self.num_envs * self.segment_length}"
        ]

    def adam(self, updates: int, *, clip: float = 0.5, rate: Any = None) -> Any:
        """Adam for so many updates, at `rate` or one that may be learned; gradients are clipped to a norm of `clip`."""
        import optax

        from quickstudy.learners.gradient.updates import Scaled, clipped

        falling = optax.scale_by_schedule(optax.linear_schedule(1.0, self.final_inner_rate, updates))
        return Scaled(
            self.rate if rate is None else rate, optax.chain(clipped(clip), optax.scale_by_adam(eps=1e-5), falling)
        )

    def trial(self, family: EnvironmentFamily) -> Any:
        """All that an agent learns in, judged by its last tenth."""
        length = self.adaptations * self.segment_length
        return qs.Trial(
            family.tasks.environment, trial_length=length, segment_length=self.segment_length, num_envs=self.num_envs,
            burn_in=length - length // 10, baseline="none", normalise=False, curve_interval=length // 10,
            per_episode=True,
        )  # fmt: skip


def tanh_policy(spec: Any, hidden: int) -> Callable[[Any], Any]:
    """Separate networks for policy and value, two hidden layers of tanh each."""
    import jax
    import jax.numpy as jnp

    from quickstudy.nn.models import MLP, CategoricalPolicy, GaussianPolicy, WithValue

    def draw(key: Any) -> WithValue:
        first, second = jax.random.split(key)
        net = lambda outputs, key: MLP((spec.observation, hidden, hidden, outputs), key=key, activation=jnp.tanh)
        policy = net(spec.actions or spec.dims, first)
        dressed = CategoricalPolicy(policy) if spec.actions else GaussianPolicy(policy, jnp.zeros(spec.dims))
        return WithValue(dressed, net(1, second))

    return draw


def _composed(
    family: EnvironmentFamily, training: Training, agent: Agent, outer: Evolution | None, make: Callable[..., Any],
    baselines: Callable[[], dict[str, Any]] = dict, **numbers: float,
) -> Composition:  # fmt: skip
    """`make`: from numbers or leaves in the place of `rate`, `discount` and the others of `numbers` to a learner."""
    from quickstudy.meta_optimizers.untrained import Untrained

    trial, plain = agent.trial(family), make()
    learner, others = plain, {}
    if outer is not None:
        bounded = {"discount": agent.discount, **numbers}
        if outside := [f"{name}={value:g}" for name, value in bounded.items() if not 0 < value < 1]:
            raise qs.ConfigError([f"evolution begins strictly between 0 and 1, not at {', '.join(outside)}"])
        leaves = {name: qs.Bounded(value) for name, value in bounded.items()}
        learner = make(rate=qs.Positive(agent.rate), **leaves)
        others = {"where it began": plain, **baselines()}
    return Composition(
        learner=learner,
        objective=trial,
        meta_optimizer=Untrained() if outer is None else outer.meta_optimizer(training),
        evaluation=qs.EvaluationConfig(trial, baselines=others, chunk=10**9),
    )


@dataclasses.dataclass(frozen=True)
class Reinforce(MethodConfig):
    agent: Agent = Agent(1_000_000, 32, 500, 1e-2)
    outer: Evolution | None = None

    title, meets, suggests = "REINFORCE", "segments", ALONE
    needs = "vectors", "episodes"
    source = "Williams 1992, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning"

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.reinforce import reinforce

        agent, start = self.agent, RandomInit(tanh_policy(family.tasks.spec, self.agent.hidden_size))
        make = lambda rate=None, discount=agent.discount: reinforce(
            start, agent.adam(agent.adaptations, rate=rate), discount=discount
        )
        return _composed(family, training, agent, self.outer, make)


@dataclasses.dataclass(frozen=True)
class A2C(MethodConfig):
    agent: Agent = Agent(1_000_000, 16, 16, 3e-3)
    gae_lambda: Lambda = 0.95
    outer: Evolution | None = None

    title, meets, suggests = "the advantage actor-critic (A2C)", "segments", ALONE
    needs = "vectors", "episodes"
    source = "Mnih et al. 2016, Asynchronous Methods for Deep Reinforcement Learning"

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.actor_critic import actor_critic

        agent, start = self.agent, RandomInit(tanh_policy(family.tasks.spec, self.agent.hidden_size))
        make = lambda rate=None, discount=agent.discount, gae_lambda=self.gae_lambda: actor_critic(
            start, agent.adam(agent.adaptations, rate=rate), discount=discount, gae_lambda=gae_lambda
        )
        return _composed(family, training, agent, self.outer, make, gae_lambda=self.gae_lambda)


@dataclasses.dataclass(frozen=True)
class PPO(MethodConfig):
    """PureJaxRL's settings."""

    agent: Agent = Agent(500_000, 4, 128, 2.5e-4)
    gae_lambda: Lambda = 0.95
    epochs: Annotated[int, AtLeast(1, 1000), "passes over each segment"] = 4
    minibatches: Annotated[int, AtLeast(1), "parts of the segment, with a gradient step each, in every pass"] = 4
    outer: Evolution | None = None

    title, meets, suggests = "PPO", "segments", ALONE
    needs = "vectors", "episodes"
    source = "Schulman, Wolski, Dhariwal, Radford, Klimov 2017, Proximal Policy Optimization Algorithms"

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.ppo import ppo

        agent, start = self.agent, RandomInit(tanh_policy(family.tasks.spec, self.agent.hidden_size))
        parts = {"epochs": self.epochs, "minibatches": self.minibatches}
        updates = agent.adaptations * self.epochs * self.minibatches
        make = lambda rate=None, discount=agent.discount, gae_lambda=self.gae_lambda: ppo(
            start, agent.adam(updates, rate=rate), discount=discount, gae_lambda=gae_lambda, **parts
        )
        return _composed(family, training, agent, self.outer, make, gae_lambda=self.gae_lambda)


@dataclasses.dataclass(frozen=True)
class DQN(MethodConfig):
    agent: Agent = Agent(500_000, 10, 1, 5e-4)
    gradient_steps: GradientSteps = 1
    epsilon: Annotated[
        float, Between(0, 1), "probability of a random action at the end, or where it starts to evolve"
    ] = 0.01
    capacity: Annotated[int, AtLeast(1, 10**8), "transitions that are kept for replay"] = 50_000
    target_update_interval: Annotated[int, AtLeast(1), "updates between two copies to the target network"] = 50
    outer: Evolution | None = None

    title, meets, suggests = "DQN", "segments", ALONE
    needs = "choices", "vectors", "episodes"
    source = "Mnih et al. 2015, Human-level control through deep reinforcement learning"

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.learners.initialisation import RandomInit
        from quickstudy.learners.inner_rl.dqn import DQN
        from quickstudy.nn.models import MLP

        agent, spec, wide = self.agent, family.tasks.spec, self.agent.hidden_size
        start = RandomInit(lambda key: MLP((spec.observation, wide, wide, spec.actions), key=key))
        make = lambda rate=None, discount=agent.discount, epsilon=self.epsilon: DQN(
            start, agent.adam(agent.adaptations * self.gradient_steps, clip=10.0, rate=rate), spec.observation,
            gradient_steps=self.gradient_steps, capacity=self.capacity, decay=agent.steps // 4,
            target_update_interval=self.target_update_interval, discount=discount, epsilon=epsilon,
        )  # fmt: skip
        grid = lambda: {
            f"rate {rate}, γ {discount}": make(rate=rate, discount=discount)
            for rate in (1e-3, 3e-3, 1e-2)
            for discount in (0.95, 0.99)
        }
        return _composed(family, training, agent, self.outer, make, grid, epsilon=self.epsilon)


def _deterministic(
    config: "DDPG | TD3", family: EnvironmentFamily, training: Training, delay: int = 1, **fields: Any
) -> Composition:
    import jax

    from quickstudy.learners.initialisation import RandomInit
    from quickstudy.learners.inner_rl.ddpg import DDPG, ActorAndCritics
    from quickstudy.nn.models import MLP

    agent, spec, wide = config.agent, family.tasks.spec, config.agent.hidden_size

    def draw(key: Any) -> ActorAndCritics:
        first, *rest = jax.random.split(key, 1 + config.critics)
        net = lambda inputs, outputs, key: MLP((inputs, wide, wide, outputs), key=key)
        critics = [net(spec.observation + spec.dims, 1, k) for k in rest]
        return ActorAndCritics(net(spec.observation, spec.dims, first), critics)

    updates = agent.adaptations * config.gradient_steps
    make = lambda rate=None, discount=agent.discount: DDPG(
        RandomInit(draw), agent.adam(updates, clip=10.0, rate=rate), spec.observation,
        actor_update=agent.adam(updates // delay, clip=10.0, rate=rate), policy_delay=delay,
        gradient_steps=config.gradient_steps, dims=spec.dims, max_action=family.max_action, discount=discount, **fields,
    )  # fmt: skip
    return _composed(family, training, agent, config.outer, make)


@dataclasses.dataclass(frozen=True)
class DDPG(MethodConfig):
    agent: Agent = Agent(40_000, 4, 1, 1e-3, 1.0)
    gradient_steps: GradientSteps = 1
    critics: Annotated[int, AtLeast(1, 100), "critics of whose values the least counts"] = 1
    outer: Evolution | None = None

    title, meets, suggests = "DDPG", "segments", ALONE
    needs = "continuous actions", "vectors", "episodes"
    source = "Lillicrap et al. 2016, Continuous Control with Deep Reinforcement Learning"

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        return _deterministic(self, family, training)


@dataclasses.dataclass(frozen=True)
class TD3(MethodConfig):
    agent: Agent = Agent(40_000, 4, 1, 1e-3, 1.0)
    gradient_steps: GradientSteps = 2
    critics: Annotated[int, AtLeast(1, 100), "critics of whose values the least counts"] = 2
    target_noise: Annotated[float, AtLeast(0), "deviation of the noise on the actions in targets"] = 0.2
    policy_delay: Annotated[int, AtLeast(1, 1000), "updates of the critics for one of the actor"] = 2
    outer: Evolution | None = None

    title, meets, suggests = "TD3", "segments", ALONE
    needs = "continuous actions", "vectors", "episodes"
    source = "Fujimoto, van Hoof, Meger 2018, Addressing Function Approximation Error in Actor-Critic Methods"

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        return _deterministic(self, family, training, delay=self.policy_delay, target_noise=self.target_noise)
