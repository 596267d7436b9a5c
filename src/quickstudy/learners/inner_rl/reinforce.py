"""REINFORCE: follow the gradient of the return.

    φ ← φ + α Σ_t (G_t − b) ∇_φ log π_φ(a_t | o_t),    G_t = Σ_{k≥t} γ^{k−t} r_k to the end of the episode

b is the mean of the segment's returns, which are brought to deviation 1. Williams 1992, "Simple Statistical
Gradient-Following Algorithms for Connectionist Reinforcement Learning".
"""

from typing import Any

from jaxtyping import PyTree

from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.inner_rl.on_policy import OnPolicy
from quickstudy.rl import losses


def reinforce(start: PyTree, update: Update, *, discount: Any = 0.99, entropy: Any = 0.0) -> OnPolicy:
    """One step a segment. `entropy` weighs the bonus for keeping on exploring. See `OnPolicy` for the rest."""
    terms, weights = (losses.reinforce, losses.entropy), (1.0, entropy)
    return OnPolicy(start, update, terms, weights, discount=discount, gae_lambda=1.0, critic=False)
