"""Proximal policy optimisation (PPO), as an inner loop.

    φ ← φ − α ∇_φ [ −min(ρ_t Â_t, clip(ρ_t, 1 ± ε) Â_t) + ½ c_v (V_φ(o_t) − R_t)² − c_h H(π_φ) ],
    ρ_t = π_φ(a_t | o_t) / π_old(a_t | o_t),     several epochs of minibatches over each segment

Schulman, Wolski, Dhariwal, Radford, Klimov 2017, "Proximal Policy Optimization Algorithms".
"""

from typing import Any

from jaxtyping import PyTree

from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.inner_rl.on_policy import OnPolicy
from quickstudy.rl import losses


def ppo(
    start: PyTree,
    update: Update,
    *,
    clip: float = 0.2,
    discount: Any = 0.99,
    gae_lambda: Any = 0.95,
    value: Any = 0.5,
    entropy: Any = 0.01,
    epochs: int = 4,
    minibatches: int = 4,
) -> OnPolicy:
    """`value` and `entropy` are c_v and c_h, `clip` is ε. See `OnPolicy` for the rest."""
    terms, weights = (losses.ppo(clip), losses.value, losses.entropy), (1.0, value, entropy)
    return OnPolicy(start, update, terms, weights, discount, gae_lambda, epochs, minibatches)
