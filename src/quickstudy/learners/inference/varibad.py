"""VariBAD: a recurrent belief over tasks, trained to reconstruct the whole trial, and a policy that acts on it.

    q(m | τ_:t) = N(μ_t, σ_t²),  μ_t, log σ_t² = encoder(o_0, a_0, r_1, …, o_t)      the belief after the trial so far
    a_t ~ π(· | o_t, μ_t, log σ_t²)                                                 acting on the whole belief
    ELBO_t = E_{m ~ q(m | τ_:t)} Σ_t' log p(r_t'+1 | o_t', a_t', o_t'+1, m)         t' over past and future alike
             − KL(q(m | τ_:t) ‖ q(m | τ_:t−1)),  q(m | τ_:−1) = N(0, I)

and, where transitions are decoded too, + Σ_t' log p(o_t'+1 | o_t', a_t', m). Zintgraf, Shiarlis, Igl, Schulze, Gal,
Hofmann, Whiteson 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning", ICLR.

−ELBO is the sum of two loss terms, `reconstruction` and `divergence`, beside those of the policy: nats per step of the
trial, the mean over all moments t that it is decoded from. What decodes is bilinear, features of m times features of
the step: a trial of T steps, decoded from each of T moments, costs T passes of either network and a product of
matrices, so that no moment has to be left out.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.core import Incompatible, Learner, State
from quickstudy.data.batches import Output, RolloutBatch, Transition
from quickstudy.data.distributions import Categorical, Gaussian
from quickstudy.learners.memory.recurrent import Heads
from quickstudy.nn.layers import Linear
from quickstudy.nn.models import MLP
from quickstudy.parameters import Positive, unwrap


class Latent(Heads):
    """From features to the prediction q(m): a Gaussian of `latent` dimensions, near N(0, I) at first."""

    linear: Linear

    def __init__(self, features: int, latent: int, *, key: Key[Array, ""]):
        self.linear = jax.tree.map(lambda w: 0.1 * w, Linear(features, 2 * latent, key=key))

    def __call__(self, features: Float[Array, "features"]) -> Output:
        mean, log_variance = jnp.split(self.linear(features), 2)
        return Output(prediction=Gaussian(mean, jnp.exp(0.5 * log_variance)))


class Bilinear(eqx.Module):
    """`outputs` numbers of a step in a task, W(m) ψ(step): with one-hot steps and a linear ψ, one head a step."""

    task: MLP
    step: MLP
    outputs: int = eqx.field(static=True)

    def __init__(
        self, latent: int, inputs: int, outputs: int, *, key: Key[Array, ""], hidden: int = 32, linear: bool = False
    ):
        """`linear`: ψ has no hidden layer."""
        first, second = jax.random.split(key)
        self.task = MLP((latent, hidden, hidden, outputs * hidden), key=first)
        self.step = MLP((inputs, hidden) if linear else (inputs, hidden, hidden), key=second)
        self.outputs = outputs

    def of_task(self, m: Float[Array, "latent"]) -> Float[Array, "outputs hidden"]:
        return self.task(m).reshape(self.outputs, -1)

    def of_step(self, step: Float[Array, "inputs"]) -> Float[Array, "hidden"]:
        return self.step(step)


class Decoder(eqx.Module):
    """Decodes m and a step: the reward and, with `transitions`, the next observation, a vector.

    actions: how many there are to choose from; None: an action is a vector of `dims` numbers
    values: what a reward may be, where that is one of few; None: any number, a Gaussian of learned deviation
    arrival: the reward depends on the observation that follows alone, and linearly in its features
    """

    reward: Bilinear
    transition: Bilinear | None
    reward_noise: Positive | None  # the deviation
    transition_noise: Positive | None  # of each number of the observation
    actions: int | None = eqx.field(static=True)
    values: tuple[float, ...] | None = eqx.field(static=True)
    arrival: bool = eqx.field(static=True)

    def __init__(
        self,
        latent: int,
        observation: int,
        actions: int | None,
        *,
        key: Key[Array, ""],
        dims: int = 0,
        hidden: int = 32,
        values: tuple[float, ...] | None = None,
        arrival: bool = False,
        transitions: bool = False,
    ):
        first, second = jax.random.split(key)
        before = observation + (dims if actions is None else actions)
        seen = observation if arrival else before + observation
        rewards = 1 if values is None else len(values)
        self.reward = Bilinear(latent, seen, rewards, key=first, hidden=hidden, linear=arrival)
        self.transition = Bilinear(latent, before, observation, key=second, hidden=hidden) if transitions else None
        self.reward_noise = Positive(jnp.ones(1)) if values is None else None
        self.transition_noise = Positive(jnp.ones(observation)) if transitions else None
        self.actions, self.values, self.arrival = actions, values, arrival

    def of_task(self, m: Float[Array, "latent"]) -> tuple[Array, Array | None]:
        """What is to be known of a task, apart from any step."""
        return self.reward.of_task(m), self.transition and self.transition.of_task(m)

    def of_step(self, t: Transition) -> tuple[Array, Array | None]:
        """What is to be known of a step, apart from any task; the reward is not looked at."""
        action = t.action if self.actions is None else jax.nn.one_hot(t.action, self.actions)
        before = jnp.concatenate([t.observation, action])
        seen = t.next_observation if self.arrival else jnp.concatenate([before, t.next_observation])
        return self.reward.of_step(seen), self.transition and self.transition.of_step(before)

    def rewards(self, task: tuple, step: tuple) -> Categorical | Gaussian:
        """The distribution of the reward, over `values` or all numbers, given the features of m and of the step."""
        output = task[0] @ step[0]
        return Categorical(output) if self.values is not None else Gaussian(output, unwrap(self.reward_noise))

    def log_prob(self, task: tuple, step: tuple, t: Transition) -> Float[Array, ""]:
        """log p(r | s, a, s', m), and log p(s' | s, a, m) with it where that is decoded."""
        paid = t.reward[None] if self.values is None else jnp.abs(jnp.asarray(self.values) - t.reward).argmin()
        output = self.rewards(task, step).log_prob(paid)
        if self.transition is None:
            return output
        return output + Gaussian(task[1] @ step[1], unwrap(self.transition_noise)).log_prob(t.next_observation)


class VariBAD(Learner):
    """Absorbs what its encoder absorbs: any memory that predicts a `Gaussian`, as `Recurrent` with `Latent` heads.

    body: from the observation, the mean and the log-variance of the belief to features, of which `heads` make the
        policy and the value
    through: let the policy's loss reach the encoder too. In the paper, and unless asked for, the belief is learned by
        reconstruction alone
    """

    encoder: Learner
    body: Callable
    heads: Heads
    decoder: Decoder
    through: bool = eqx.field(static=True, default=False)

    def init(self, *, key: Key[Array, ""]) -> State:
        return self.encoder.init(key=key)

    def adapt(self, state: State, experience: Transition, *, key: Key[Array, ""]) -> State:
        return self.encoder.adapt(state, experience, key=key)

    def apply(self, state: State, x: Float[Array, "observation"]) -> Output:
        return self._output(self.encoder.apply(state, x).prediction, x)

    def replay(self, state: State, experience: Transition, *, key: Key[Array, "segments"]) -> Output:
        """The encoder replays, then the policy is applied to all moments at once."""
        latent = self.encoder.replay(state, experience, key=key).prediction
        return jax.vmap(jax.vmap(self._output))(latent, experience.x)

    def _output(self, latent: Gaussian, x: Float[Array, "observation"]) -> Output:
        belief = latent if self.through else jax.lax.stop_gradient(latent)
        output = self.heads(self.body(jnp.concatenate([x, belief.mean, 2 * jnp.log(belief.std)])))
        return Output(output.policy, output.value, latent)


def reconstruction(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """−log p of all steps of the trial, decoded from one m drawn at each moment: the mean over moments and steps."""
    latent, t = _moments(outputs.prediction), _moments(batch.transition)
    decoder = _decoder(learner)
    keys = jax.random.split(batch.loss_key, len(t.reward))
    m = jax.vmap(lambda latent, key: latent.sample(key=key))(latent, keys)
    tasks, steps = jax.vmap(decoder.of_task)(m), jax.vmap(decoder.of_step)(t)
    log_prob = jax.vmap(lambda task: jax.vmap(lambda step, t: decoder.log_prob(task, step, t))(steps, t))(tasks)
    return -log_prob.mean()


def _decoder(learner: Any) -> Decoder:
    if not isinstance(learner, VariBAD):
        raise Incompatible(f"reconstruction needs the decoder of VariBAD, and {type(learner).__name__} has none")
    return learner.decoder


def divergence(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """KL(belief ‖ the one before it), N(0, I) before the first: the mean over moments, per step of the trial.

    A part of a trial that begins within it does not know what was believed before: its first moment costs nothing.
    """
    latent = _moments(outputs.prediction)
    at = lambda part: jax.tree.map(lambda x: x[part], latent)
    before, now, first = at(slice(-1)), at(slice(1, None)), at(0)
    begun = jnp.where(batch.is_first, first.kl(Gaussian(jnp.zeros_like(first.mean), jnp.ones_like(first.std))), 0.0)
    moments = len(latent.mean)
    return (begun + jax.vmap(lambda now, before: now.kl(before))(now, before).sum()) / moments**2


def _moments(tree: PyTree) -> PyTree:
    """[segments, steps, ...] as [moments, ...]."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)
