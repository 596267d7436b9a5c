"""What is measured of how an agent behaves, over all held-out tasks, the learner's and the baselines' alike.

Each is (tasks, what was lived) -> arrays with a leading task axis, by name; NaN where a task has nothing to say.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from quickstudy.objectives.trial import RolloutBatch

POINTS = 10


def regret(tasks: Float[Array, "num arms"], lived: RolloutBatch) -> dict[str, Array]:
    """What was missed, in expectation, after each tenth of the pulls."""
    action = lived.transition.action[..., 0]
    missed = tasks.max(1)[:, None] - jnp.take_along_axis(tasks, action, 1)
    every = action.shape[1] // POINTS
    return {"regret": missed.cumsum(1)[:, every - 1 :: every]}


def pulled(tasks: Float[Array, "num arms"], lived: RolloutBatch) -> dict[str, Array]:
    """Whether each pull was of the informative arm, the last, of the target, or of another."""
    action = lived.transition.action[..., 0]
    informative, target = action == tasks.shape[1] - 1, action == tasks.argmax(1)[:, None]
    kinds = {"informative arm": informative, "target": target, "another arm": ~informative & ~target}
    return {name: kind.astype(float) for name, kind in kinds.items()}


def stays(tasks: Int[Array, "num"], lived: RolloutBatch) -> dict[str, Array]:
    """How often a choice of the two-step task is made again, by what came of it: the transition common and rewarded,
    common and not, rare and rewarded, rare and not (Daw et al. 2011, fig. 2); and how much more a model of the
    transitions explains than the reward alone, the interaction of both."""
    del tasks
    action, rewarded = lived.transition.action[..., 0], lived.transition.reward[..., 0] > 0
    common = lived.transition.next_observation[:, :, 0].argmax(-1) == action
    again = (action[:, 1:] == action[:, :-1]).astype(float)

    def share(these: Array) -> Array:
        these = these[:, :-1]
        return jnp.where(these, again, 0).sum(1) / jnp.where(these.any(1), these.sum(1), jnp.nan)

    after = [share(common & rewarded), share(common & ~rewarded), share(~common & rewarded), share(~common & ~rewarded)]
    reward = (after[0] - after[1] + after[2] - after[3]) / 2
    model = (after[0] - after[1] - after[2] + after[3]) / 2
    return {"stays": jnp.stack(after, 1), "reward effect": reward, "model effect": model}
