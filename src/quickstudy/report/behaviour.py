"""What is measured of how an agent behaves, over all held-out tasks, the learner's and the baselines' alike.

Each is a Drawing of arrays(tasks, rollouts), with a leading task axis; NaN where a task has nothing to say.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from quickstudy.data.batches import RolloutBatch
from quickstudy.evaluate.config import Drawing

POINTS = 10


def _regret(tasks: Float[Array, "num arms"], rollouts: RolloutBatch) -> dict[str, Array]:
    """What was missed, in expectation, after each tenth of the pulls."""
    action = rollouts.transition.action[..., 0]
    missed = tasks.max(1)[:, None] - jnp.take_along_axis(tasks, action, 1)
    every = action.shape[1] // POINTS
    return {"regret": missed.cumsum(1)[:, every - 1 :: every]}


def _pulled(tasks: Float[Array, "num arms"], rollouts: RolloutBatch) -> dict[str, Array]:
    """Whether each pull was of the informative arm, the last, of the target, or of another."""
    action = rollouts.transition.action[..., 0]
    informative, target = action == tasks.shape[1] - 1, action == tasks.argmax(1)[:, None]
    kinds = {"informative arm": informative, "target": target, "another arm": ~informative & ~target}
    return {name: kind.astype(float) for name, kind in kinds.items()}


def _stays(tasks: Int[Array, "num"], rollouts: RolloutBatch) -> dict[str, Array]:
    """How often a choice of the two-step task is made again, by what came of it: the transition common and rewarded,
    common and not, rare and rewarded, rare and not (Daw et al. 2011, fig. 2); and how much more a model of the
    transitions explains than the reward alone, the interaction of both."""
    del tasks
    action, rewarded = rollouts.transition.action[..., 0], rollouts.transition.reward[..., 0] > 0
    common = rollouts.transition.next_observation[:, :, 0].argmax(-1) == action
    again = (action[:, 1:] == action[:, :-1]).astype(float)

    def share(these: Array) -> Array:
        these = these[:, :-1]
        return jnp.where(these, again, 0).sum(1) / jnp.where(these.any(1), these.sum(1), jnp.nan)

    after = [share(common & rewarded), share(common & ~rewarded), share(~common & rewarded), share(~common & ~rewarded)]
    reward = (after[0] - after[1] + after[2] - after[3]) / 2
    model = (after[0] - after[1] - after[2] + after[3]) / 2
    return {"stays": jnp.stack(after, 1), "reward effect": reward, "model effect": model}


regret, pulled, stays = Drawing("regret", _regret), Drawing("pulls", _pulled), Drawing("stays", _stays)
