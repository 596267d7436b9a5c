"""What is kept of a few held-out tasks so that the report can draw them: small arrays, one function a family.

Each is (learner, protocol, task, what was lived) -> arrays by name.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import NDArray

from quickstudy.core import Learner, over_axes
from quickstudy.data import Episode
from quickstudy.evaluate import Protocol, with_steps
from quickstudy.objectives.few_shot import Judged, adapted
from quickstudy.objectives.trial import Lived
from quickstudy.tasks.sinusoid import RANGE


def navigation(learner: Learner, protocol: Protocol, task: PyTree, lived: Lived) -> dict[str, NDArray]:
    """goal [2] and paths [adaptations, time, copies, 2], of at most five copies."""
    return {"goal": np.asarray(task), "paths": np.asarray(lived.transition.next_observation[:, :, :5])}


def bandit(learner: Learner, protocol: Protocol, task: PyTree, lived: Lived) -> dict[str, NDArray]:
    """probabilities [arms], actions [pulls], rewards [pulls]."""
    t = lived.transition
    return {
        "probabilities": np.asarray(task),
        "actions": np.asarray(t.action).reshape(-1),
        "rewards": np.asarray(t.reward).reshape(-1),
    }


def sinusoid(learner: Learner, protocol: Protocol, task: PyTree, lived: Judged) -> dict[str, NDArray]:
    """The support points, the query points as the truth, and the fit on a grid after each number of steps."""
    grid = jnp.linspace(*RANGE, 200)[:, None]
    fits = []
    for steps in protocol.steps or ():
        rebuilt = with_steps(learner, steps)
        _, state = adapted(rebuilt, lived.episode, lived.key)
        fits.append(jax.vmap(lambda x: rebuilt.apply(state, x).prediction[0])(grid))  # noqa: B023
    return {
        "x": np.asarray(task.support.x[:, 0]),
        "y": np.asarray(task.support.y[:, 0]),
        "query_x": np.asarray(task.query.x[:, 0]),
        "query_y": np.asarray(task.query.y[:, 0]),
        "grid": np.asarray(grid[:, 0]),
        "fits": np.asarray(jnp.stack(fits)),
        "steps": np.asarray(protocol.steps),
    }


SHOWN = 4  # queries of each class


def images(learner: Learner, protocol: Protocol, task: Episode, lived: Judged) -> dict[str, NDArray]:
    """support [ways, height, width], the first example of each class; query [ways, SHOWN, height, width]; and said
    [ways, SHOWN], the class each of them was taken for."""
    _, state = adapted(with_steps(learner, max(protocol.steps)) if protocol.steps else learner, task, lived.key)
    said = over_axes(lambda x: learner.apply(state, x).prediction.argmax())(task.query.x)
    ways = int(task.support.y.max()) + 1
    by_class = lambda x: np.asarray(x).reshape(ways, -1, *x.shape[1:])
    queries = by_class(task.query.x[..., 0])[:, :SHOWN]
    return {
        "support": by_class(task.support.x[..., 0])[:, 0].astype(np.float32),
        "query": queries.astype(np.float32),
        "said": by_class(said)[:, : queries.shape[1]],
    }
