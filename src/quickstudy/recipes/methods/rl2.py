"""RL²: a recurrent agent trained over whole trials (Duan et al. 2016; Wang et al. 2016), and VariBAD.

The paper trains RL² by TRPO with a GRU of 256, γ 0.99, λ 0.3 and 250,000 steps a batch; here PPO and a GRU of 64 serve
two cores. docs/learners/recurrent.md says what breaks the plateau at long trials.

VariBAD (Zintgraf et al. 2020): RL²'s tasks and protocol, a belief in the place of a hidden state. The paper trains the
belief on trajectories of a buffer, apart from A2C's batches, for 10⁸ steps; here both are terms of one loss on the same
trials, and the policy's is PPO's.
"""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, AtLeast, Training
from quickstudy.recipes.outer import PPO, Evolution
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig, Problem

DUAN = (
    "Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, RL²: Fast Reinforcement Learning via Slow "
    "Reinforcement Learning"
)
WANG = "Wang et al. 2016, Learning to Reinforcement Learn"
SCHULMAN = "Schulman, Wolski, Dhariwal, Radford, Klimov 2017, Proximal Policy Optimization Algorithms"


@dataclasses.dataclass(frozen=True)
class Memory:
    """What remembers a trial."""

    cell: Annotated[Literal["gru", "lstm", "s5", "attention"], "kind of memory"] = "gru"
    memory_size: Annotated[int, AtLeast(1, SIZES), "size of the memory's hidden state"] = 64
    act: Annotated[Literal["sample", "mode"], "how the trained agent chooses actions in the test"] = "sample"

    def encoder(self, spec: Any, key: Any, inputs: int | None = None) -> Any:
        """The recurrent cell that reads `inputs` numbers (default: observations) beside what came of the step
        before."""
        from quickstudy.learners.memory.recurrent import OutcomeFeedback
        from quickstudy.nn.cells import GRU, LSTM
        from quickstudy.nn.linear_recurrence import LinearRecurrence

        make = {"gru": GRU, "lstm": LSTM, "s5": LinearRecurrence}[self.cell]
        seen = spec.observation if inputs is None else inputs
        return make(seen + OutcomeFeedback(spec.actions, spec.dims).size, self.memory_size, key=key)

    def learner(self, family: EnvironmentFamily, heads: Any, key: Any) -> Any:
        """What remembers a trial, with what `heads` make of `memory_size` features."""
        import equinox as eqx
        import jax

        from quickstudy.learners.memory.attention import Attention
        from quickstudy.learners.memory.recurrent import OutcomeFeedback

        spec, feedback = family.tasks.spec, OutcomeFeedback
        if self.cell == "attention":  # to which steps have no order, so each is given with what followed
            came = feedback(spec.actions, spec.dims, spec.observation)
            longest = family.unit * max(family.trial_length, family.tested)
            return Attention(
                eqx.nn.Identity(), spec.observation, heads, came, key=key, capacity=longest, width=self.memory_size,
                attention_heads=2,
            )  # fmt: skip
        if family.encode is None:
            return qs.Recurrent(self.encoder(spec, key), heads, feedback(spec.actions, spec.dims))
        see, remember = jax.random.split(key)
        encode = family.encode(see)
        cell = self.encoder(spec, remember, encode.features)
        return qs.Recurrent(cell, heads, feedback(spec.actions), encode)


def actor_critic(family: EnvironmentFamily, features: int, key: Any, scale: float, hidden: int = 0) -> Any:
    from quickstudy.learners.memory.recurrent import ActorCritic

    spec = family.tasks.spec
    choices = spec.actions or spec.dims
    return ActorCritic(features, choices, key=key, gaussian=spec.actions is None, scale=scale, hidden=hidden)


def trials(
    family: EnvironmentFamily,
    training: Training,
    memory: Memory,
    outer: PPO | Evolution,
    learner: Any,
    *,
    further: tuple = (),
    bptt_length: int = 0,
    baselines: dict[str, Any] | None = None,
    **evaluated: Any,
) -> Composition:
    """Training and testing over whole trials.

    further: (weight, loss term) pairs beside those of PPO
    evaluated: fields of the evaluation that differ
    """
    schedule = {"across_episodes": not family.episodic, "per_episode": family.episodic}
    of = lambda length, **more: outer.trial(
        family.tasks.environment, family.unit * length, further, **schedule, **more
    )  # fmt: skip
    # Tests need no advantages, and baselines have no values.
    test = dataclasses.replace(
        of(family.tested), act=memory.act, curve_interval=family.curve_interval, baseline="none", normalise=False
    )
    oracle = family.oracle_value
    length = family.tested
    fields = {"draw": family.draw, **evaluated}
    return Composition(
        learner=learner,
        objective=dataclasses.replace(of(family.trial_length), bptt_length=bptt_length or None),
        meta_optimizer=outer.meta_optimizer(training),
        evaluation=qs.EvaluationConfig(
            test,
            validation_tasks=1000,
            baselines=family.baselines() if baselines is None else baselines,
            oracle_value=None if oracle is None else lambda tasks: oracle(tasks, length),
            behaviour=family.behaviour,
            chunk=family.chunk,
            **fields,
        ),
        curriculum=tuple((steps, of(length, warm_up=True)) for steps, length in outer.stages(family.trial_length)),
        citations=(WANG, SCHULMAN),
    )


def _no_attention(memory: Memory, why: str) -> list[str]:
    return [f"cell must be gru, lstm or s5 here: {why}"] if memory.cell == "attention" else []


@dataclasses.dataclass(frozen=True)
class RL2(MethodConfig):
    memory: Memory = Memory()
    head_size: Annotated[
        int, AtLeast(0, SIZES), "width of a hidden layer in the policy's and the value's head (0: they are linear)"
    ] = 0
    bptt_length: Annotated[
        int, AtLeast(0), "steps between two updates, through which the gradient goes back (0: the whole trial)"
    ] = 0
    outer: PPO | Evolution = PPO()

    title, source, meets = "RL²", DUAN, "trial"

    def errors(self) -> list[str]:
        return _no_attention(self.memory, "unfinished trials wait in a state of fixed size") if self.bptt_length else []

    def errors_with(self, problem: Problem, training: Training) -> list[str]:
        return self.outer.errors_with(training, problem.trial_length)

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        import jax

        first, second = jax.random.split(family.key(1))
        heads = actor_critic(family, self.memory.memory_size, second, self.outer.value_scale, self.head_size)
        learner = self.memory.learner(family, heads, first)
        return trials(family, training, self.memory, self.outer, learner, bptt_length=self.bptt_length)


@dataclasses.dataclass(frozen=True)
class VariBAD(MethodConfig):
    memory: Memory = Memory()
    latent: Annotated[int, AtLeast(1, SIZES), "dimensions of the belief"] = 5
    policy_size: Annotated[int, AtLeast(1, SIZES), "width of the policy's two hidden layers"] = 32
    decoder_size: Annotated[int, AtLeast(1, SIZES), "width of the decoder's layers and features"] = 32
    reconstruction: Annotated[float, AtLeast(0), "weight of −ELBO in the loss, in nats a step"] = 1.0
    kl: Annotated[float, AtLeast(0), "weight of the KL divergence within −ELBO"] = 1.0
    transitions: Annotated[bool, "the decoder predicts transitions beside rewards"] = False
    policy_to_encoder: Annotated[bool, "let the gradient of the policy's loss reach the encoder"] = False
    outer: PPO | Evolution = PPO()

    title, meets = "VariBAD", "trial"
    needs = ("vectors",)
    source = "Zintgraf et al. 2020, VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning, ICLR"

    def errors_with(self, problem: Problem, training: Training) -> list[str]:
        return self.outer.errors_with(training, problem.trial_length)

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        import jax
        import jax.numpy as jnp

        from quickstudy.learners.inference.varibad import Decoder, Latent, VariBAD, divergence, reconstruction
        from quickstudy.nn.models import MLP, Chain

        spec, memory = family.tasks.spec, self.memory
        remember, believe, act, choose, reconstruct = jax.random.split(family.key(1), 5)
        sizes = spec.observation + 2 * self.latent, self.policy_size, self.policy_size
        learner = VariBAD(
            memory.learner(family, Latent(memory.memory_size, self.latent, key=believe), remember),
            Chain([MLP(sizes, key=act, activation=jnp.tanh), jnp.tanh]),
            actor_critic(family, self.policy_size, choose, self.outer.value_scale),
            Decoder(
                self.latent, spec.observation, spec.actions, key=reconstruct, dims=spec.dims, hidden=self.decoder_size,
                values=family.rewards, arrival=family.rewards is not None, transitions=self.transitions,
            ),
            self.policy_to_encoder,
        )  # fmt: skip
        further = (self.reconstruction, reconstruction), (self.reconstruction * self.kl, divergence)
        draw = family.draw_beliefs or family.draw
        return trials(family, training, memory, self.outer, learner, further=further, draw=draw)
