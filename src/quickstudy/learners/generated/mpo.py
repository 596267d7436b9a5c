"""MPO, meta-policy optimisation: a generated policy, corrected by policy gradients.

Not the maximum a posteriori policy optimisation of Abdolmaleki et al. 2018, which shares nothing with it but letters.

    h_t = cell(h_{t-1}, [o_t, what came of t−1])                     the encoder: what the trial has shown so far
    θ_t = θ_0 + U h_t + δ                                            the generator g(h) = θ_0 + U h, the correction δ
    a_t ~ π(· | o_t; θ_t)                                            the inner policy
    δ ← u(δ, ∇_δ [ −w mean Â_t log π(a_t | o_t; θ_t)
                   + λ mean KL(π(· | o_t; θ_t) ‖ π(· | o_t; g(h_t))) ])    at the end of each episode; δ = 0 at first
    w = [−mean(r_t + γ V(h_{t+1}) − V(h_t))]₊  or 1                  how far the episode fell short of what was foreseen

Outside, PPO credits the actions of the whole trial, through generation and inner steps; θ_0, U, the cell and the
critic, the inner rate, λ and the inner discount are leaves. U is 0 at first, so that all tasks begin with one policy
("bias-hyper-init" of Beck et al. 2022, Hypernetworks in Meta-Reinforcement Learning). In a share of the tasks of
training δ starts at random instead (`init_noise`), for where guidance is always right nothing is learned of
corrections.

Its relatives are what is left when a part is taken away:

    no inner steps                      the recurrent hypernetwork of Beck et al. 2023
    and only an input's bias generated  its control: one recurrent policy, given h beside the observation
    nothing generated, no pull          MAML-RL (Finn et al. 2017), exactly

`Trial(segment_length=1)` serves it, as it does RL²: then h moves at every step, and the learner itself keeps the
episode until its end. (With segment_length=episode h would stand still within an episode, and the first one would be
played blind.)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_above, require_at_least, require_between, require_whole
from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.ring import Ring
from quickstudy.learners.gradient.adjoints import Adjoint, Unrolled
from quickstudy.learners.gradient.inner_losses import OfPolicy, must_reach
from quickstudy.learners.gradient.maml import joined, split
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.memory.recurrent import OutcomeFeedback
from quickstudy.learners.replay import require_single_env
from quickstudy.nn.cells import Cell
from quickstudy.nn.layers import Linear
from quickstudy.nn.models import everything
from quickstudy.parameters import unwrap
from quickstudy.rl.planning import lazy_cond


class MPOState(eqx.Module):
    hidden: PyTree
    feedback: Float[Array, "size"]  # of the step before; zeros when the task begins
    correction: Float[Array, "generated"]  # δ
    memory: PyTree  # the update's own
    recent: Ring  # (features of h, transition) of the episode under way


class MPO(Learner):
    """Absorbs one step at a time, of one stream (no `num_envs`), whose observations are vectors.

    start: the inner policy, from an observation to an `Output`; it holds θ_0
    generator: U, or None where nothing is generated; `no_generation_yet` makes one
    episode: steps of an episode, after which δ moves. Where episodes differ in length, δ moves after so many steps
        all the same, as PPO does; returns still end where episodes do
    steps: inner steps an episode: 0 for none, or at least 2, since at δ = 0 the pull has no gradient yet
    pull: λ, a number or a leaf; None for no pull
    critic_discount: γ of the trial's critic, by whose value shortfall corrections are weighted; None: w = 1
    fast: the part of `start` that is generated and corrected, as in `Gradient`
    scale: the unit of the critic's output
    init_noise: deviation of δ when a task begins, for training: guidance is then wrong by something else in every task,
        as it is where tasks are unlike those of training, and corrections learn to mend it. 0 in tests
    init_noise_share: the share of tasks in which it is
    """

    cell: Cell
    start: eqx.Module
    generator: Float[Array, "generated features"] | None
    critic: Linear
    feedback: OutcomeFeedback
    inner_loss: OfPolicy
    update: Update
    kl_weight: Any
    inputs: int = eqx.field(static=True)  # length of an observation
    episode: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=2)
    critic_discount: float | None = eqx.field(static=True, default=None)
    adjoint: Adjoint = Unrolled()
    fast: Callable = eqx.field(static=True, default=everything)
    scale: float = eqx.field(static=True, default=1.0)
    init_noise: float = eqx.field(static=True, default=0.0)
    init_noise_share: float = eqx.field(static=True, default=1.0)

    @property
    def value_in_reward_units(self) -> bool:  # type: ignore[override]
        """Where corrections are weighed by what the values fell short of, in rewards."""
        return self.critic_discount is not None

    def __check_init__(self):
        require_whole(0, inputs=self.inputs)
        require_between(0, 1, critic_discount=self.critic_discount, init_noise_share=self.init_noise_share)
        require_at_least(0, kl_weight=self.kl_weight, init_noise=self.init_noise)
        require_above(0, scale=self.scale)
        if self.steps < 0 or (self.steps == 1 and self.kl_weight is not None):
            raise ValueError(f"steps must be 0 or, with a pull, at least 2, got {self.steps}")
        if self.episode < 2:
            raise ValueError(f"episode must be at least 2, got {self.episode}")
        if not self.adjoint.exact_path:
            raise Incompatible("a policy gradient has no minimiser; use Unrolled or FirstOrder")
        must_reach(self.inner_loss, self.adjoint)

    def init(self, *, key: Key[Array, ""]) -> MPOState:
        correction = jnp.zeros(self._generic()[0].shape)
        if self.init_noise:
            which, where = jax.random.split(key)
            far = self.init_noise * jax.random.bernoulli(which, self.init_noise_share)
            correction = far * jax.random.normal(where, correction.shape)
        hidden = self.cell.initial()
        return MPOState(
            hidden,
            jnp.zeros(self.feedback.size),
            correction,
            self.update.init(correction),
            Ring.empty((self.cell.features(hidden), self._no_transition()), self.episode),
        )

    def adapt(self, state: MPOState, experience: Transition, *, key: Key[Array, ""]) -> MPOState:
        del key
        require_single_env(experience)
        return jax.lax.scan(lambda state, item: (self._absorbed(state, item), None), state, experience)[0]

    def apply(self, state: MPOState, x: Float[Array, "inputs"]) -> Output:
        return self._output(self.cell.features(self._hidden(state, x)), state.correction, x)

    def replay(self, state: MPOState, experience: Transition, *, key: Key[Array, "segments"]) -> Output:
        """The cell runs along the trial once, δ from episode to episode, and all outputs are one product.
        Equal to `scan_replay` where segments are single steps, as those of a recurrent learner have to be.
        """
        del key
        outputs = jax.vmap(self._output)(*self.along(state, experience), experience.x[:, 0])
        return jax.tree.map(lambda x: x[:, None], outputs)

    def along(self, state: MPOState, experience: Transition) -> tuple[Float[Array, "time features"], Array]:
        """The cell's features at each step of a trial, and δ as it was then: [time, generated]."""
        length, steps = experience.reward.shape[:2]
        if steps != 1:
            raise Incompatible(f"MPO absorbs one step at a time; use segment_length=1, not {steps}")
        items = jax.tree.map(lambda x: x[:, 0], experience)
        require_single_env(items)

        def step(carry, item):
            hidden = self.cell(carry[0], jnp.concatenate([item.x, carry[1]]))
            return (hidden, self.feedback(item)), self.cell.features(hidden)

        _, features = jax.lax.scan(step, (state.hidden, state.feedback), items)

        # Whole episodes one below another, the one under way first. One more than begins in a trial that starts with an
        # episode: where its correction is never used, the first one stands in for it, which is finite if the trial is.
        known = state.recent.count % self.episode
        episodes = -(-(length + self.episode - 1) // self.episode)
        is_used = jnp.arange(1, episodes) * self.episode < known + length

        def laid(kept, new):
            room = jnp.zeros((episodes * self.episode, *new.shape[1:]), kept.dtype).at[: self.episode].set(kept)
            room = jax.lax.dynamic_update_slice_in_dim(room, new.astype(kept.dtype), known, 0)
            room = room.reshape(episodes, self.episode, *new.shape[1:])[:-1]
            return jnp.where(is_used.reshape(-1, *[1] * new.ndim), room, room[:1])

        def move(moved, episode):
            recent, is_used = episode
            correction, memory = jax.tree.map(lambda x, at_first: jnp.where(is_used, x, at_first), moved, start)
            return self._moved(correction, memory, recent), moved[0]

        start = state.correction, state.memory
        recent = jax.tree.map(laid, state.recent.items, (features, items))
        (final, _), before = jax.lax.scan(move, start, (recent, is_used))
        each = jnp.repeat(jnp.concatenate([before, final[None]]), self.episode, 0)
        return features, jax.lax.dynamic_slice_in_dim(each, known, length)

    def generated(self, features: Float[Array, "features"]) -> Float[Array, "generated"]:
        """g(h): the parameters of the inner policy before any correction, in one row."""
        start, _ = self._generic()
        return start if self.generator is None else start + features @ self.generator.T

    def _generic(self) -> tuple[Float[Array, "generated"], Callable]:
        """θ_0 in one row, and the inner policy of any such row."""
        weights, rest = split(self.start, self.fast)
        row, unravel = ravel_pytree(weights)
        return row, lambda row: joined(unravel(row), rest)

    def _inner(self, row: Float[Array, "generated"], x: Float[Array, "inputs"]) -> Output:
        return self._generic()[1](row)(x)

    def _value(self, features: Float[Array, "features"]) -> Float[Array, ""]:
        return self.scale * self.critic(features)[0]

    def _output(self, features: Array, correction: Array, x: Array) -> Output:
        return Output(
            policy=self._inner(self.generated(features) + correction, x).policy,
            value=self._value(features),
        )

    def _absorbed(self, state: MPOState, item: Transition) -> MPOState:
        hidden = self._hidden(state, item.x)
        new = (self.cell.features(hidden), item)
        recent = state.recent.push(jax.tree.map(lambda x: x[None], new))
        arrays, rest = eqx.partition(self, eqx.is_array)
        correction, memory = lazy_cond(
            recent.count % self.episode == 0,
            lambda arrays, *moved: eqx.combine(arrays, rest)._moved(*moved),
            (arrays, state.correction, state.memory, recent.items),
            (state.correction, state.memory),
            at_once=True,
        )
        return MPOState(hidden, self.feedback(item), correction, memory, recent)

    def _moved(self, correction: Array, memory: PyTree, recent: tuple[Array, Transition]) -> tuple[Array, PyTree]:
        """δ and the update's memory after an episode."""
        if self.steps == 0:
            return correction, memory
        features, t = recent
        generated = jax.vmap(self.generated)(features)
        outputs = lambda correction: jax.vmap(self._inner)(generated + correction, t.observation)
        as_copies = lambda tree: jax.tree.map(lambda x: x[:, None], tree)
        weight = 1.0
        if self.critic_discount is not None:
            weight = value_shortfall(t.reward, jax.vmap(self._value)(features), self.critic_discount)

        def loss(correction):
            acting = outputs(correction)
            surrogate = weight * self.inner_loss.of_outputs(as_copies(acting), as_copies(t))
            if self.kl_weight is None:
                return surrogate
            as_generated = outputs(jnp.zeros_like(correction)).policy
            apart = jax.vmap(lambda policy, other: policy.kl(other))(acting.policy, as_generated)
            return surrogate + unwrap(self.kl_weight) * apart.mean()

        return self.adjoint.solve(loss, correction, memory, update=self.update, steps=self.steps)

    def _hidden(self, state: MPOState, x: Float[Array, "inputs"]) -> PyTree:
        return self.cell(state.hidden, jnp.concatenate([x, state.feedback]))

    def _no_transition(self) -> Transition:
        no, never = jnp.zeros(self.inputs), jnp.zeros((), bool)
        action = jnp.zeros(self.feedback.dims) if self.feedback.actions is None else jnp.zeros((), jnp.int32)
        return Transition(no, action, jnp.zeros(()), never, never, never, no)


def no_generation_yet(
    start: eqx.Module, features: int, fast: Callable = everything
) -> Float[Array, "generated features"]:
    """The generator's U for these features and this part of `start`: zeros, so that at first all tasks get θ_0."""
    row, _ = ravel_pytree(split(start, fast)[0])
    return jnp.zeros((len(row), features))


def value_shortfall(reward: Float[Array, "time"], value: Float[Array, "time"], discount: float) -> Float[Array, ""]:
    """How far an episode fell short of what the trial's critic foresaw, [−mean TD error]₊, without a gradient. The
    successor of the last step is not known."""
    error = reward[:-1] + discount * value[1:] - value[:-1]
    return jax.lax.stop_gradient(jax.nn.relu(-error.mean()))
