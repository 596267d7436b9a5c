"""Checks that a learner fits the tasks, before anything is compiled, and errors in plain words.

Adapting to one task is traced with shapes alone, part by part. An error names the part that failed, what it was given
and the mend, and not by a product of matrices deep inside. A pair that was found to fit is not checked again.
"""

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import FewShotTask, Labelled, Output, Transition
from quickstudy.data.distributions import Policy

PACKAGE = str(Path(__file__).parent.parent)


def require_adapts(learner: Learner, task: FewShotTask) -> None:
    """Raises Incompatible where the learner cannot absorb the support set of a task, or be asked about its queries."""
    _once(_adapts, learner, task)


def require_follows(learner: Learner, stream: Labelled) -> None:
    """Raises Incompatible where the learner cannot predict along a labelled stream, one example after another."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), stream)
    _once(_adapts, learner, FewShotTask(one, one))


def require_acts(learner: Learner, environment: Any, task: PyTree, *, steps: int, num_envs: int | None) -> None:
    """Raises Incompatible where the environment does not keep its interface (see envs.spec), or the learner cannot act
    in it, or cannot adapt to segments of so many steps, and parallel copies."""
    _once(_acts, learner, task, environment, steps, num_envs)


_FITTING: dict[Any, None] = {}


def _once(check: Callable, learner: Learner, task: PyTree, *others: Any) -> None:
    arrays, rest = eqx.partition((learner, task), eqx.is_array)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)
    leaves, structure = jax.tree.flatten((shapes, rest))
    asked: Any = (check, others, structure, tuple(leaves))
    try:
        known = asked in _FITTING
    except TypeError:  # something in it has no hash, so it is asked each time
        known, asked = False, None
    if known:
        return
    check(*eqx.combine(shapes, rest), *others)
    if asked is not None:
        if len(_FITTING) >= 256:
            del _FITTING[next(iter(_FITTING))]
        _FITTING[asked] = None


def _begin(learner: Learner, key: Any) -> PyTree:
    return learner.init(key=key)


def _adapt(learner: Learner, state: PyTree, experience: PyTree, key: Any) -> PyTree:
    return learner.adapt(state, experience, key=key)


def _apply(learner: Learner, state: PyTree, x: PyTree) -> PyTree:
    return learner.apply(state, x)


def _draw(policy: Policy, key: Any) -> PyTree:
    return policy.sample(key=key)


def _adapts(learner: Learner, task: FewShotTask) -> None:
    name, support, key = type(learner).__name__, task.support, _key()
    if not jax.tree.leaves(support)[0].shape[0] or not jax.tree.leaves(task.query)[0].shape[0]:
        raise Incompatible("a task needs at least one example to adapt on and one to be asked about")
    one, x = _without_first(support), _without_first(task.query).x
    mend = "Give its network the size of the inputs, and as many outputs as the labels need"
    state = _through(f"{name} cannot begin a task", _begin, learner, key)
    examples = f"labelled examples, each with x {_shape(one.x)} and y {_shape(one.y)}"
    state = _through(f"{name} cannot adapt to {examples}", _adapt, learner, state, support, key, mend=mend)
    output = _through(f"{name} cannot be asked about an input {_shape(x)}", _apply, learner, state, x, mend=mend)
    if not isinstance(output, Output) or output.prediction is None:
        acts = isinstance(output, Output) and output.policy is not None
        raise Incompatible(
            f"{name} must return an Output with a prediction, got {output!r}"
            + ("; learners with a policy take Trial" if acts else "")
        )


def _acts(learner: Learner, task: PyTree, environment: Any, steps: int, num_envs: int | None) -> None:
    name, world, key = type(learner).__name__, type(environment).__name__, _key()
    begun = _through(f"{world} cannot be reset for such a task", environment.reset, key, task)
    if not isinstance(begun, tuple) or len(begun) != 2:
        raise Incompatible(f"{world}.reset must return (observation, state), got {_count(begun)}")
    observation, inside = begun
    state = _through(f"{name} cannot begin a task", _begin, learner, key)
    mend = "Give its network the size of an observation"
    seen = f"an observation of {world}, {_shape(observation)}"
    output = _through(f"{name} cannot act on {seen}", _apply, learner, state, observation, mend=mend)
    if not isinstance(output, Output) or output.policy is None:
        raise Incompatible(f"Trial acts with a policy, and {name} returns none")
    action = _through(f"{name}'s policy cannot be drawn from", _draw, output.policy, key)
    mend = "Give the policy as many choices, or dimensions, as there are actions"
    fault = f"{world}.step cannot take {name}'s action, {_shape(action)}"
    stepped = _through(fault, environment.step, key, inside, action, task, mend=mend)
    require_step(world, stepped, observation, inside)
    lead = (steps,) if num_envs is None else (steps, num_envs)

    def segment(learner, state, observation, action, key):
        along = lambda leaf: jnp.broadcast_to(leaf, (*lead, *leaf.shape))
        observation, action = jax.tree.map(along, (observation, action))
        never = jnp.zeros(lead, bool)
        experience = Transition(observation, action, jnp.zeros(lead), never, never, never, observation)
        return learner.adapt(state, experience, key=key)

    _through(f"{name} cannot adapt to a segment of {world}", segment, learner, state, observation, action, key)


def require_step(world: str, stepped: Any, observation: PyTree, inside: PyTree) -> tuple:
    """(reward, terminated, truncated) of what a step returned, as shapes. Raises Incompatible where it is not what a
    step has to return, after a reset returned `observation` and `inside`."""
    wanted = "(observation, state, reward, terminated, truncated, info)"
    if not isinstance(stepped, tuple) or len(stepped) != 6:
        old = isinstance(stepped, tuple) and len(stepped) == 5
        mend = (
            ": of `done` make terminated and truncated, and give what was seen before a reset as "
            'info["final_observation"]'
        )
        raise Incompatible(f"{world}.step must return {wanted}, got {_count(stepped)}{mend if old else ''}")
    seen, then, reward, terminated, truncated, info = stepped
    if jnp.shape(reward) != () or not (jnp.issubdtype(reward.dtype, jnp.number) or reward.dtype == bool):
        raise Incompatible(f"{world}.step must return one number as reward, got {_shape(reward)}: take one, or a sum")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if jnp.shape(flag) != () or flag.dtype != bool:
            raise Incompatible(
                f"{world}.step must return one truth value as {name}, got {_shape(flag)}: give {name} > 0, without axes"
            )
    if not isinstance(info, dict) or "final_observation" not in info:
        raise Incompatible(
            f'{world}.step must return what was seen before any reset as info["final_observation"], and it is missing: '
            "envs.device.auto_reset completes a step so"
        )
    for what, new, old in (
        ("the observation", seen, observation),
        ('info["final_observation"]', info["final_observation"], observation),
        ("the state", then, inside),
    ):
        if _shape(new) != _shape(old):
            raise Incompatible(f"{world}.step changes {what} from {_shape(old)}, as reset gave it, to {_shape(new)}")
    return reward, terminated, truncated


def _through(fault: str, f: Callable, *args: Any, mend: str = "", **kwargs: Any) -> Any:
    try:
        return eqx.filter_eval_shape(f, *args, **kwargs)
    except Incompatible:
        raise
    except Exception as error:
        own = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)
        if own and isinstance(error, ValueError):  # its message is one of ours
            raise
        raise Incompatible(f"{fault}: {_reason(error, mend)}") from error


def _reason(error: Exception, mend: str) -> str:
    """What is wrong, and the mend, of an error that JAX or Python has raised in words of its own."""
    if isinstance(error, AttributeError) and isinstance(error.obj, Labelled):
        return f"it asks for `{error.name}`, so it learns from environments, not labelled examples; take Trial"
    if isinstance(error, AttributeError) and isinstance(error.obj, Transition):
        return f"it asks for `{error.name}`, so it learns from labelled examples, not steps; take FewShot or Online"
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
    if sizes := re.search(r"dot_general .*got \((\d+),\) and \((\d+),\)", first):
        first = f"a layer made for {sizes[2]} numbers is given {sizes[1]}"
    return f"{first}. {mend}" if mend else first


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _without_first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def _count(returned: Any) -> str:
    return f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__


def _shape(tree: PyTree) -> str:
    """Of one array "(3,) float32", of several their places too."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    one = lambda leaf: f"{tuple(leaf.shape)} {leaf.dtype}"
    if len(leaves) == 1 and not leaves[0][0]:
        return one(leaves[0][1])
    return "{" + ", ".join(f"{jax.tree_util.keystr(path).lstrip('.')}: {one(leaf)}" for path, leaf in leaves) + "}"
