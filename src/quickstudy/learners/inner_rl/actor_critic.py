"""The advantage actor-critic (A2C).

    φ ← φ − α ∇_φ [ −Â_t log π_φ(a_t | o_t) + ½ c_v (V_φ(o_t) − R_t)² − c_h H(π_φ) ],    R_t = Â_t + V(o_t)

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", with the advantages of Schulman et al. 2016.
γ, λ, the rate, c_v and c_h are leaves: given as wrappers they are learned by meta-gradients (Xu, van Hasselt, Silver
2018, "Meta-Gradient Reinforcement Learning").
"""

from typing import Any

from jaxtyping import PyTree

from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.inner_rl.on_policy import OnPolicy
from quickstudy.rl import losses


def actor_critic(
    start: PyTree,
    update: Update,
    *,
    discount: Any = 0.99,
    gae_lambda: Any = 0.95,
    value: Any = 0.5,
    entropy: Any = 0.01,
    normalise: bool = False,
) -> OnPolicy:
    """One step a segment. `value` and `entropy` are c_v and c_h. See `OnPolicy` for the rest."""
    terms, weights = (losses.a2c, losses.value, losses.entropy), (1.0, value, entropy)
    return OnPolicy(start, update, terms, weights, discount, gae_lambda, normalise=normalise)
