"""What is recorded of a few held-out tasks so that the report can draw them: small arrays, one function a family.

Each is a Drawing of arrays(learner, config, task, rollout); `generated_policies` of many tasks together.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree
from numpy.typing import NDArray

from quickstudy.core import Learner
from quickstudy.data.batches import FewShotTask, RolloutBatch, Transition
from quickstudy.data.distributions import Categorical, Gaussian
from quickstudy.evaluate.config import Drawing, EvaluationConfig
from quickstudy.learners.generated.mktn import MKTN
from quickstudy.learners.inference.meta_models import seen_in
from quickstudy.learners.inference.mml import MML
from quickstudy.learners.inference.varibad import Decoder, VariBAD
from quickstudy.objectives.few_shot import Judged, adapted
from quickstudy.parallel.axes import over_axes
from quickstudy.tasks.mazes import MOVES
from quickstudy.tasks.sinusoid import RANGE


def _navigation(learner: Learner, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
    """goal [2] and paths [adaptations, time, copies, 2], of at most five copies."""
    return {"goal": np.asarray(task), "paths": np.asarray(rollout.transition.next_observation[:, :, :5])}


def _walks(learner: Learner, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
    """goal [2] and paths [episodes, time, 1, 2] of one stream."""
    paths = rollout.transition.next_observation.reshape(-1, _episode(rollout.transition.truncated), 1, 2)
    return {"goal": np.asarray(task), "paths": np.asarray(paths)}


def generated_policies(parameter: Callable) -> Drawing:
    """Of MPO, at the end of each episode of many tasks: generated [tasks, episodes, 2], the parameters g(h) on their
    first two principal components; correction [tasks, episodes], |δ|; and parameter [tasks, 2], the true one, as
    `parameter` reads it off the tasks."""

    def arrays(learner: Any, config: EvaluationConfig, tasks: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
        steps = _episode(rollout.transition.truncated[0])

        def ends(key, transition):
            features, corrections = learner.along(learner.init(key=key), transition)
            last = slice(steps - 1, None, steps)
            return jax.vmap(learner.generated)(features[last]), corrections[last]

        rows, corrections = (
            np.asarray(x, np.float64) for x in jax.jit(jax.vmap(ends))(rollout.key, rollout.transition)
        )
        sound = np.isfinite(rows).all((1, 2)) & np.isfinite(corrections).all((1, 2))
        rows, corrections = rows[sound], corrections[sound]
        apart = rows - rows.mean((0, 1))
        _, _, directions = np.linalg.svd(apart.reshape(-1, apart.shape[-1]), full_matrices=False)
        return {
            "generated": apart @ directions[:2].T,
            "correction": np.linalg.norm(corrections, axis=-1),
            "parameter": np.asarray(parameter(tasks))[sound],
        }

    return Drawing("generated policies", arrays)


def _episode(truncated: Array) -> int:
    """Steps of an episode, where all are as long as the first."""
    return 1 + int(truncated.reshape(-1).argmax())


def _bandit(learner: Learner, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
    """probabilities [arms], actions [pulls], rewards [pulls]."""
    t = rollout.transition
    return {
        "probabilities": np.asarray(task),
        "actions": np.asarray(t.action).reshape(-1),
        "rewards": np.asarray(t.reward).reshape(-1),
    }


def _grid(learner: Learner, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
    """visited [episodes, 1 + steps], the cells of each episode from its start; wall [cells] and goal."""
    steps = _episode(rollout.transition.truncated)
    cells = np.asarray(rollout.transition.next_observation.argmax(-1)).reshape(-1, steps)
    start = np.full((len(cells), 1), int(task.start))
    return {
        "visited": np.concatenate([start, cells], 1),
        "wall": np.asarray(task.wall).reshape(-1),
        "goal": np.asarray(task.goal),
    }


MOMENTS = (0, 4, 8, 12, 15, 45)  # steps of a trial before which its belief is drawn


def _grid_beliefs(
    learner: Learner, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch
) -> dict[str, NDArray]:
    """Of a VariBAD agent: what `grid` keeps; believed [moments, cells], how probable it holds a goal in each cell; and
    moments [moments], the steps before."""
    assert isinstance(learner, VariBAD)
    moments = np.array([t for t in MOMENTS if t < len(rollout.keys)])

    def at_moments(key, transition, keys):
        outputs = learner.replay(learner.init(key=key), transition, key=keys).prediction
        beliefs = jax.tree.map(lambda x: x[moments, 0], outputs)
        each = jax.random.split(keys[-1], len(moments))
        return jax.vmap(lambda belief, key: goals(learner.decoder, belief, task.wall.size, key=key))(beliefs, each)

    believed = jax.jit(at_moments)(rollout.key, rollout.transition, rollout.keys)
    return {**_grid(learner, config, task, rollout), "believed": np.asarray(believed), "moments": moments}


def goals(
    decoder: Decoder, belief: Gaussian, cells: int, *, key: Key[Array, ""], draws: int = 100
) -> Float[Array, "cells"]:
    """The probability that staying in a cell pays the most that a reward may be, over draws of the latent."""
    assert decoder.values is not None
    never, cell = jnp.zeros(cells, bool), jnp.eye(cells)
    stay = jnp.full(cells, MOVES.index((0, 0)))
    steps = jax.vmap(decoder.of_step)(Transition(cell, stay, jnp.zeros(cells), never, never, never, cell))
    best = decoder.values.index(max(decoder.values))

    def probable(key, step):
        predicted = decoder.rewards(decoder.of_task(belief.sample(key=key)), step)
        assert isinstance(predicted, Categorical)
        return jax.nn.softmax(predicted.logits)[best]

    keys = jax.random.split(key, draws)
    return jax.vmap(lambda step: jax.vmap(lambda key: probable(key, step))(keys).mean())(steps)


def models(tables: Callable[[PyTree], tuple], episodes: tuple[int, ...] = (0, 1, 5), shown: int = 150) -> Drawing:
    """Of an MML agent in a task of which `tables` gives the mean rewards and the transitions: real [shown],
    predicted and deviation [episodes, shown], and episodes [episodes]. Shown are the transitions that are the most
    probable, in the task or to begin with."""

    def arrays(learner: MML, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
        t = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout.transition)
        ended = (t.terminated | t.truncated).astype(int)
        before = ended.cumsum() - ended
        until = lambda n: jax.tree.map(lambda x: x[: (before < n).sum()], t)
        beliefs = [learner.model(seen_in(learner.model, until(n))) for n in episodes]
        real = np.asarray(tables(task)[1]).reshape(-1)
        predicted = np.stack([np.asarray(belief.transition).reshape(-1) for belief in beliefs])
        deviation = np.stack([np.asarray(belief.transition_deviation).reshape(-1) for belief in beliefs])
        most = np.argsort(-np.maximum(real, predicted[0]), kind="stable")[:shown]
        return {
            "real": real[most],
            "predicted": predicted[:, most],
            "deviation": deviation[:, most],
            "episodes": np.asarray(episodes),
        }

    return Drawing("models", arrays)


def _transfer(learner: Learner, config: EvaluationConfig, task: PyTree, rollout: RolloutBatch) -> dict[str, NDArray]:
    """Of an MKTN agent: knowledge and inner [time], the parts K and φᵀf of the values of the actions it took, and
    ended [time], whether the episode ended by itself."""
    assert isinstance(learner, MKTN)
    t = rollout.transition
    q = learner.replay(learner.init(key=rollout.key), t, key=rollout.keys).prediction
    k = over_axes(lambda x: learner.known(x).knowledge, t.axes)(t.observation)
    taken = jax.nn.one_hot(t.action, q.shape[-1])
    along_trial = lambda x: np.asarray((taken * x).sum(-1)).reshape(-1)
    return {
        "knowledge": along_trial(k),
        "inner": along_trial(q - k),
        "ended": np.asarray(t.terminated).reshape(-1),
    }


_adapted = eqx.filter_jit(adapted)  # step by step each operation would be compiled apart


def _sinusoid(learner: Learner, config: EvaluationConfig, task: PyTree, rollout: Judged) -> dict[str, NDArray]:
    """The support points x, y, the query points, and on a grid the truth and the fit after each number of steps.

    The truth A sin(x − φ) = a sin x + b cos x is linear in a and b, and the points are without noise."""
    grid = jnp.linspace(*RANGE, 200)[:, None]
    fits = []
    for steps in config.steps or ():
        rebuilt = learner.with_inner_steps(steps)
        state = _adapted(rebuilt, rollout.episode, rollout.key)
        fits.append(jax.vmap(lambda x: rebuilt.apply(state, x).prediction[0])(grid))  # noqa: B023
    x = np.concatenate([task.support.x[:, 0], task.query.x[:, 0]])
    y = np.concatenate([task.support.y[:, 0], task.query.y[:, 0]])
    return {
        "x": np.asarray(task.support.x[:, 0]),
        "y": np.asarray(task.support.y[:, 0]),
        "query_x": np.asarray(task.query.x[:, 0]),
        "query_y": np.asarray(task.query.y[:, 0]),
        "grid": np.asarray(grid[:, 0]),
        "truth": _waves(grid) @ np.linalg.lstsq(_waves(x), y, rcond=None)[0],
        "fits": np.asarray(jnp.stack(fits)),
        "steps": np.asarray(config.steps),
    }


def _waves(x: Any) -> NDArray:
    x = np.asarray(x, np.float64).reshape(-1)
    return np.stack([np.sin(x), np.cos(x)], 1)


SHOWN = 4  # queries of each class


def _images(learner: Learner, config: EvaluationConfig, task: FewShotTask, rollout: Judged) -> dict[str, NDArray]:
    """support [ways, height, width], the first example of each class; query [ways, SHOWN, height, width]; and
    predicted [ways, SHOWN], the class each of them was taken for."""
    state = _adapted(learner.with_inner_steps(max(config.steps)) if config.steps else learner, task, rollout.key)
    predicted = over_axes(lambda x: learner.apply(state, x).prediction.argmax())(task.query.x)
    ways = int(task.support.y.max()) + 1
    by_class = lambda x: np.asarray(x).reshape(ways, -1, *x.shape[1:])
    queries = by_class(task.query.x[..., 0])[:, :SHOWN]
    return {
        "support": by_class(task.support.x[..., 0])[:, 0].astype(np.float32),
        "query": queries.astype(np.float32),
        "predicted": by_class(predicted)[:, : queries.shape[1]],
    }


navigation, walks = Drawing("paths", _navigation), Drawing("paths", _walks)
bandit = Drawing("arms", _bandit)
grid, grid_beliefs = Drawing("grid", _grid), Drawing("belief", _grid_beliefs)
transfer = Drawing("knowledge", _transfer)
sinusoid, images = Drawing("fits", _sinusoid), Drawing("characters", _images)
