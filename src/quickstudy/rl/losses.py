"""Loss terms of policies and values: term(learner, outputs, batch) -> the loss of one task.

`outputs` is what the learner says now along the trial, `batch` the `RolloutBatch` that was collected, both of one task:
[segments, steps, ...]. A term may call the learner for what is not in its outputs. Terms add up with weights, and every
one is a mean over the steps that count. With ρ = π(a)/π_old(a):

    reinforce   −A log π(a)             Williams 1992
    a2c         −A log π(a)             the same, named for the advantages a critic gives; Mnih et al. 2016
    ppo         −min(ρA, clip(ρ)A)      Schulman et al. 2017
    dice        −A (□ℓ_t − □ℓ_{t−1})    Foerster et al. 2018, with advantages as in Farquhar et al. 2019;
                                        ℓ_t = Σ_{t'≤t} log π(a_t') within the episode, □ℓ = exp(ℓ − ⊥ℓ)
    e_maml      −G Σ log π(a_t) over the steps before those that count, G the trial's return, standardised over tasks;
                Stadie et al. 2018: explore so that adapting pays
    value       ½ (V − R)²
    q_value     ½ (Q(a) − R)²
    entropy     −H(π)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from quickstudy.core import Incompatible, State
from quickstudy.data.batches import Output, RolloutBatch
from quickstudy.parallel.axes import over_axes

LossTerm = Callable[[Any, Output, RolloutBatch], Float[Array, ""]]


def names(terms: tuple[tuple[float, LossTerm], ...]) -> list[str]:
    """What to call each of (weight, term) pairs in metrics: the function's name, with a number from the second on."""
    names = [getattr(term, "__name__", type(term).__name__.lower()) for _, term in terms]
    return [name if name not in names[:i] else f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def start_of(learner: Any, batch: RolloutBatch) -> State:
    """The state in which one task's batch begins."""
    state = learner.init(key=batch.key)
    if not jax.tree.leaves(batch.start):
        return state
    return jax.tree.map(lambda new, old: jnp.where(batch.is_first, new, old), state, batch.start)


def log_probs(outputs: Output, batch: RolloutBatch) -> Float[Array, "..."]:
    """log π(a) of the actions that were taken, under the policy of `outputs`."""
    each = over_axes(lambda policy, a: policy.log_prob(a), batch.log_prob.ndim)
    return each(outputs.policy, batch.transition.action)


def mean(per_step: Float[Array, "..."], batch: RolloutBatch) -> Float[Array, ""]:
    """Mean over the steps that count (after the burn-in)."""
    mask = jnp.broadcast_to(batch.mask, per_step.shape)
    return jnp.where(mask, per_step, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def reinforce(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """−A log π(a): the policy gradient."""
    return -mean(batch.advantage * log_probs(outputs, batch), batch)


a2c = reinforce


def ppo(clip: float = 0.2) -> LossTerm:
    """The clipped surrogate. `clip` bounds how far the probability ratio is rewarded for moving from 1."""

    def term(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
        ratio = jnp.exp(log_probs(outputs, batch) - batch.log_prob)
        clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
        return -mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage), batch)

    term.__name__ = "ppo"
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


def dice(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """The infinitely differentiable surrogate, for inner steps that are differentiated through."""
    log_prob, t = log_probs(outputs, batch), batch.transition
    as_time = lambda x: x.reshape(-1, *x.shape[2:])  # segments and steps are one time axis
    weights = dice_weights(as_time(log_prob), as_time(t.terminated | t.truncated | t.last))
    return -mean(batch.advantage * weights.reshape(log_prob.shape), batch)


def e_maml(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """−G Σ log π(a) over the burn-in, per step that counts, as in the other terms."""
    before = jnp.where(batch.mask, 0.0, log_probs(outputs, batch))
    counted = jnp.broadcast_to(batch.mask, before.shape).sum()
    return -batch.standardised_return * before.sum() / jnp.maximum(counted, 1)


def value(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """½ (V − R)², R the λ-returns fixed when the batch was collected."""
    if outputs.value is None:
        raise Incompatible(f"losses.value regresses a value, and {type(learner).__name__} returns none")
    return mean(0.5 * (outputs.value - batch.value_target) ** 2, batch)


def q_value(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """½ (Q(a) − R)² of the actions that were taken; the prediction is Q, a number for each action."""
    of_taken = lambda q, a: q @ jax.nn.one_hot(a, q.shape[-1])
    q = over_axes(of_taken, batch.log_prob.ndim)(outputs.prediction, batch.transition.action)
    return mean(0.5 * (q - batch.value_target) ** 2, batch)


def entropy(learner: Any, outputs: Output, batch: RolloutBatch) -> Float[Array, ""]:
    """−H(π): a positive weight keeps the policy exploring."""
    return -mean(over_axes(lambda policy: policy.entropy(), batch.log_prob.ndim)(outputs.policy), batch)
