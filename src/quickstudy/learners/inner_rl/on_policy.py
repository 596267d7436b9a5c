"""What the policy-gradient learners share: advantages from their own critic, then steps down a sum of loss terms.

    φ ← u(φ, ∇_φ Σ_i w_i ℓ_i(φ; segment, Â)),     Â by GAE from the critic as it was when the segment began

The terms are those of `quickstudy.rl.losses`, the very ones that train RL² in the outer loop.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from quickstudy.checks import require_between, require_whole
from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import Output, RolloutBatch, Transition
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.initialisation import begin, network
from quickstudy.learners.replay import scan_replay
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import unwrap
from quickstudy.rl.advantages import Ends, gae, gae_of_fit
from quickstudy.rl.losses import LossTerm
from quickstudy.rl.standardise import standardise


class Learning(eqx.Module):
    weights: PyTree
    memory: PyTree  # the update's own


def shuffled(num: int, *, key: Key[Array, ""]) -> Int[Array, "num"]:
    """0 to num - 1 in random order. Few are sorted in half the time of `jax.random.permutation`: as random numbers that
    carry the index in their lowest bits, of which enough are left to be random by."""
    if num > 2**12:
        return jax.random.permutation(key, num)
    bits = num.bit_length()
    carrying = jax.random.bits(key, (num,)) >> bits << bits | jnp.arange(num, dtype=jnp.uint32)
    return (jnp.sort(carrying) & (2**bits - 1)).astype(int)


class OnPolicy(Learner):
    """Learns from each segment once, then forgets it. Experience is [time] or [time, num_envs].

    start: from an observation to an `Output` with a policy and, unless `critic` is off, a value; or `RandomInit`
    update: how a gradient moves the weights
    terms: loss terms, `weights` how much each counts; a weight is a number, or a leaf that can be meta-learned
    discount, gae_lambda: γ and λ, numbers or leaves
    epochs, minibatches: passes over a segment, each in so many parts
    normalise: advantages of a segment to mean 0 and deviation 1
    critic: False takes the plain returns of each segment in place of advantages
    """

    start: PyTree
    update: Update
    terms: tuple[LossTerm, ...] = eqx.field(static=True)
    weights: tuple[Any, ...]
    discount: Any = 0.99
    gae_lambda: Any = 0.95
    epochs: int = eqx.field(static=True, default=1)
    minibatches: int = eqx.field(static=True, default=1)
    normalise: bool = eqx.field(static=True, default=True)
    critic: bool = eqx.field(static=True, default=True)

    value_in_reward_units = True  # inside a task it learns from its own values

    def __check_init__(self):
        require_between(0, 1, discount=self.discount, gae_lambda=self.gae_lambda)
        require_whole(1, epochs=self.epochs, minibatches=self.minibatches)
        if len(self.terms) != len(self.weights):
            raise ValueError(f"{len(self.terms)} terms need as many weights, got {len(self.weights)}")

    def init(self, *, key: Key[Array, ""]) -> Learning:
        weights = begin(self.start, key)
        return Learning(weights, self.update.init(weights))

    def apply(self, state: Learning, x: PyTree) -> Output:
        return self._network(state.weights)(x)

    def adapt(self, state: Learning, experience: Transition, *, key: Key[Array, ""]) -> Learning:
        steps = jax.tree.map(lambda x: x.reshape(-1, *x.shape[experience.axes :]), self.batch(state, experience))
        num = len(steps.advantage)
        if num % self.minibatches:
            raise Incompatible(f"{self.minibatches} minibatches must divide a segment of {num} steps")

        def improve(state: Learning, part: RolloutBatch) -> tuple[Learning, None]:
            loss, gradient = jax.value_and_grad(self._loss)(state.weights, part)
            return Learning(*self.update.step(state.weights, gradient, loss, state.memory)), None

        def epoch(state: Learning, key: Key[Array, ""]) -> tuple[Learning, None]:
            if self.minibatches == 1:
                return improve(state, steps)
            order = shuffled(num, key=key)
            parts = jax.tree.map(lambda x: x[order].reshape(self.minibatches, -1, *x.shape[1:]), steps)
            return jax.lax.scan(improve, state, parts)[0], None

        return jax.lax.scan(epoch, state, jax.random.split(key, self.epochs))[0]

    replay = scan_replay

    def batch(self, state: Learning, t: Transition) -> RolloutBatch:
        """The segment as loss terms read it, [time] or [time, num_envs]. Gradients reach γ and λ alone."""
        model = over_axes(self._network(jax.lax.stop_gradient(state.weights)), t.axes)
        output = model(t.observation)
        log_prob = over_axes(lambda policy, a: policy.log_prob(a), t.axes)(output.policy, t.action)
        # The end of the trial is the end of what is collected, not of what the policy is worth.
        ends = Ends.of(t).of_episodes()
        lengths = {"discount": unwrap(self.discount), "gae_lambda": unwrap(self.gae_lambda)}
        if self.critic:
            if output.value is None:
                raise Incompatible("the network returns no value: give it one, or critic=False")
            value = output.value
            advantage = gae(t.reward, value, model(t.next_observation).value, *ends, **lengths)
        else:
            value = jnp.zeros_like(t.reward)
            advantage = gae_of_fit(t.reward, value, ends, **lengths)
        target = advantage + value
        if self.normalise:
            advantage = standardise(advantage)
        return RolloutBatch(t, log_prob, advantage, target, jnp.ones_like(t.last))

    def _loss(self, weights: PyTree, batch: RolloutBatch) -> Float[Array, ""]:
        outputs = jax.vmap(self._network(weights))(batch.transition.observation)
        parts = [w * term(self, outputs, batch) for w, term in zip(unwrap(self.weights), self.terms, strict=True)]
        return jnp.stack(parts).sum()

    def _network(self, weights: PyTree) -> Any:
        return network(self.start, weights, jax.random.key(0))
