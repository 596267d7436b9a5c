"""Loss terms of policies and values: (outputs, lived) -> one number for one task.

`outputs` is what the learner says now along the life, `lived` what was collected: both [segments, steps,
...]. Terms add up with weights, and every one is a mean over the steps that count. With ρ = π(a)/π_old(a):

    reinforce   −A log π(a)             Williams 1992
    a2c         −A log π(a)             the same, named for the advantages a critic gives; Mnih et al. 2016
    ppo         −min(ρA, clip(ρ)A)      Schulman et al. 2017
    dice        −A (□ℓ_t − □ℓ_{t−1})    Foerster et al. 2018, with advantages as in Farquhar et al. 2019;
                                        ℓ_t = Σ_{t'≤t} log π(a_t') within the episode, □ℓ = exp(ℓ − ⊥ℓ)
    e_maml      −w Σ log π(a_t) over the steps before those that count, w the trial's worth beside that of other
                tasks; Stadie et al. 2018: explore so that adapting pays
    value       ½ (V − R)²
    q_value     ½ (Q(a) − R)²
    entropy     −H(π)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quickstudy.data.batches import Output
from quickstudy.parallel.axes import over_axes

LossTerm = Callable[[Output, Any], Float[Array, ""]]


def log_probs(outputs: Output, lived: Any) -> Float[Array, "..."]:
    """log π(a) of the actions that were taken, under the policy of `outputs`."""
    each = over_axes(lambda policy, a: policy.log_prob(a), lived.log_prob.ndim)
    return each(outputs.policy, lived.transition.action)


def mean(per_step: Float[Array, "..."], lived: Any) -> Float[Array, ""]:
    """Mean over the steps that count (after the burn-in)."""
    counts = jnp.broadcast_to(lived.counts, per_step.shape)
    return jnp.where(counts, per_step, 0.0).sum() / jnp.maximum(counts.sum(), 1)


def reinforce(outputs: Output, lived: Any) -> Float[Array, ""]:
    """−A log π(a): the policy gradient."""
    return -mean(lived.advantage * log_probs(outputs, lived), lived)


a2c = reinforce


def ppo(clip: float = 0.2) -> LossTerm:
    """The clipped surrogate. `clip` bounds how far the probability ratio is rewarded for moving from 1."""

    def term(outputs: Output, lived: Any) -> Float[Array, ""]:
        ratio = jnp.exp(log_probs(outputs, lived) - lived.log_prob)
        clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
        return -mean(jnp.minimum(ratio * lived.advantage, clipped * lived.advantage), lived)

    return term


def magic_box(log_prob: Float[Array, "..."]) -> Float[Array, "..."]:
    """exp(ℓ − stop_gradient(ℓ)): 1 in value, the score function in every derivative."""
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))


def dice_weights(log_prob: Float[Array, "time *rest"], ended: Bool[Array, "time *rest"]) -> Float[Array, "time *rest"]:
    """□ℓ_t − □ℓ_{t−1}: 0 in value; times the advantages, its derivatives of any order are the return's."""

    def step(before, at):
        log_prob, ended = at
        so_far = before + log_prob
        return jnp.where(ended, 0.0, so_far), magic_box(so_far) - magic_box(before)

    return jax.lax.scan(step, jnp.zeros_like(log_prob[0]), (log_prob, ended))[1]


def dice(outputs: Output, lived: Any) -> Float[Array, ""]:
    """The infinitely differentiable surrogate, for inner steps that are differentiated through."""
    log_prob, t = log_probs(outputs, lived), lived.transition
    as_time = lambda x: x.reshape(-1, *x.shape[2:])  # segments and steps are one time axis
    weights = dice_weights(as_time(log_prob), as_time(t.terminated | t.truncated | t.last))
    return -mean(lived.advantage * weights.reshape(log_prob.shape), lived)


def e_maml(outputs: Output, lived: Any) -> Float[Array, ""]:
    """−w Σ log π(a) over the burn-in, per step that counts, as in the other terms."""
    before = jnp.where(lived.counts, 0.0, log_probs(outputs, lived))
    counted = jnp.broadcast_to(lived.counts, before.shape).sum()
    return -lived.worth * before.sum() / jnp.maximum(counted, 1)


def value(outputs: Output, lived: Any) -> Float[Array, ""]:
    """½ (V − R)², R the λ-returns fixed when the batch was collected."""
    return mean(0.5 * (outputs.value - lived.target) ** 2, lived)


def q_value(outputs: Output, lived: Any) -> Float[Array, ""]:
    """½ (Q(a) − R)² of the actions that were taken; the prediction is Q, a number for each action."""
    of_taken = lambda q, a: q @ jax.nn.one_hot(a, q.shape[-1])
    q = over_axes(of_taken, lived.log_prob.ndim)(outputs.prediction, lived.transition.action)
    return mean(0.5 * (q - lived.target) ** 2, lived)


def entropy(outputs: Output, lived: Any) -> Float[Array, ""]:
    """−H(π): a positive weight keeps the policy exploring."""
    return -mean(over_axes(lambda policy: policy.entropy(), lived.log_prob.ndim)(outputs.policy), lived)
