"""Planning in a tabular MDP that is known.

    finite      Q_h(s, a) = r(s, a) + Σ_s' p(s'|s, a) max_a' Q_{h+1}(s', a'),   Q_H = 0       (backward induction)
    discounted  Q(s, a) = r(s, a) + γ Σ_s' p(s'|s, a) max_a' Q(s', a')                        (value iteration)

Bellman 1957, Dynamic Programming.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, PyTree


def backward_recursion(backup: Callable, states: int, horizon: int) -> Float[Array, "horizon states actions"]:
    """Q with h steps to go, the most first, where backup(V [states]) is what an action is worth: [states, actions]."""

    def back(value: Array, _: None) -> tuple[Array, Array]:
        q = backup(value)
        return q.max(-1), q

    _, q = jax.lax.scan(back, jnp.zeros(states), None, length=horizon)
    return q[::-1]


def backward_induction(
    reward: Float[Array, "states actions"], transition: Float[Array, "states actions states"], horizon: int
) -> Float[Array, "horizon states actions"]:
    """The optimal Q at each moment of an episode of `horizon` steps."""
    return backward_recursion(lambda value: reward + transition @ value, len(reward), horizon)


def best_returns(tasks: PyTree, steps: int) -> Float[Array, "num"]:
    """What an episode of so many steps is worth in each of `tasks`, MDPs with `reward` and `transition`, where it is
    known from the start."""
    return jax.vmap(lambda task: backward_induction(task.reward, task.transition, steps)[0, 0].max())(tasks)


def value_iteration(
    reward: Float[Array, "states actions"],
    transition: Float[Array, "states actions states"],
    discount: float | Array,
    *,
    tolerance: float = 1e-5,
    sweeps: int = 10_000,
) -> Float[Array, "states actions"]:
    """The optimal discounted Q, to within `tolerance` of a sweep's change, after at most `sweeps`."""

    def unfinished(carry: tuple) -> Array:
        _, change, count = carry
        return (change > tolerance) & (count < sweeps)

    def sweep(carry: tuple) -> tuple:
        q, _, count = carry
        new = reward + discount * transition @ q.max(-1)
        return new, jnp.abs(new - q).max(), count + 1

    return jax.lax.while_loop(unfinished, sweep, (jnp.zeros_like(reward), jnp.inf, 0))[0]


def greedy(q: Float[Array, "*batch actions"]) -> Int[Array, "*batch"]:
    """The best action, the first of equals."""
    return q.argmax(-1)


def lazy_cond(
    needed: Bool[Array, ""], plan: Callable, given: PyTree, otherwise: PyTree, *, at_once: bool = False
) -> PyTree:
    """plan(*given) where it is needed, else `otherwise`, and no work when nobody needs it.

    Under `vmap` a condition alone would do the work for every task at every step. Here many tasks side by side plan
    when any of them has to: one after another, or `at_once`, which suits small plans. Then what tasks share is not
    copied for each; but `plan` must close over no arrays.
    """

    @custom_vmap
    def one(needed, given, otherwise):
        return jax.lax.cond(needed, lambda: plan(*given), lambda: otherwise)

    @one.def_vmap
    def several(size, batched, *arguments):
        full = lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))
        needed, spread, otherwise = jax.tree.map(full, arguments, tuple(batched))
        if at_once:
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched[1]))
            planned = lambda: jax.vmap(plan, axes)(*arguments[1])
        else:
            planned = lambda: jax.lax.map(lambda given: plan(*given), spread)
        new = jax.lax.cond(needed.any(), planned, lambda: otherwise)
        chosen = lambda n, o: jnp.where(needed.reshape(-1, *[1] * (n.ndim - 1)), n, o)
        return jax.tree.map(chosen, new, otherwise), jax.tree.map(lambda _: True, otherwise)

    return one(needed, given, otherwise)
