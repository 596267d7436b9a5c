"""Planning in a tabular MDP that is known.

    finite      Q_h(s, a) = r(s, a) + Σ_s' p(s'|s, a) max_a' Q_{h+1}(s', a'),   Q_H = 0       (backward induction)
    discounted  Q(s, a) = r(s, a) + γ Σ_s' p(s'|s, a) max_a' Q(s', a')                        (value iteration)

Rows of p may add up to less than 1: what is missing is the probability that the episode terminates, in an absorbing end
that is worth 0.

Bellman 1957, Dynamic Programming; Howard 1960, Dynamic Programming and Markov Processes (policy iteration).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, PyTree

from quickstudy.parallel.axes import anybody
from quickstudy.parallel.platform import on_accelerator

ROUNDS = 32  # of policy iteration on accelerators; a handful is enough for every MDP met so far
NEVER_ENDS = 1e-6  # the least 1 − γ: what never terminates is worth at most a million times a step's reward


def backward_recursion(backup: Callable, states: int, horizon: int) -> Float[Array, "horizon states actions"]:
    """Q at each moment of an episode, the first moment first. backup(V [states]) gives the Q [states, actions] of one
    step before values V."""

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
    """The optimal return of an episode of `steps` steps from state 0 in each of `tasks`, which are MDPs with `reward`
    and `transition`, for whoever knows the task."""
    return jax.vmap(lambda task: backward_induction(task.reward, task.transition, steps)[0, 0].max())(tasks)


def value_iteration(
    reward: Float[Array, "states actions"],
    transition: Float[Array, "states actions states"],
    discount: float | Array,
    *,
    tolerance: float = 1e-5,
) -> Float[Array, "states actions"]:
    """The optimal discounted Q, to within `tolerance` or the rounding of its numbers, whatever γ in [0, 1] is; see
    `optimal_values`."""
    return optimal_values(reward, transition, 1 - discount, tolerance=tolerance)


def optimal_values(
    reward: Float[Array, "states actions"],
    transition: Float[Array, "states actions states"],
    shortfall: float | Array,
    *,
    tolerance: float = 1e-5,
) -> Float[Array, "states actions"]:
    """The optimal discounted Q. It takes `shortfall`, 1 − γ, because that has more digits than γ near 1.

    Sweeps alone would take log(tolerance)/log(γ) turns. So as many of them as there are states only find a good policy;
    then its values V are solved for exactly, and it is improved, until V rises by less than `tolerance` · (1 − γ), by
    which its error is less than `tolerance`. On accelerators there are always `ROUNDS` such rounds; where V still rises
    in the last one, the result is NaN. Where γ is 1, episodes last a million steps at most.
    """
    shortfall = jnp.maximum(shortfall, NEVER_ENDS)
    states = jnp.arange(len(reward))
    backup = lambda value: reward + (1 - shortfall) * transition @ value
    least_rise = lambda value: jnp.maximum(tolerance * shortfall, 4 * jnp.finfo(value.dtype).eps * jnp.abs(value))

    def improved(value: Array, q: Array) -> tuple[Array, Array]:
        """The values of the policy that is greedy in Q, or `value` where that is better; and whether any has risen."""
        policy = greedy(q)
        onward = transition[states, policy]
        new = jnp.linalg.solve(jnp.eye(len(reward)) - onward + shortfall * onward, reward[states, policy])
        rises = (new > value + least_rise(new)).any()
        return jnp.where(value > new, value, new), rises

    def round_(carry: tuple) -> tuple:
        value, _ = carry
        return improved(value, backup(value))

    swept, _ = jax.lax.scan(lambda value, _: (backup(value).max(-1), None), reward.max(-1), None, length=len(reward))
    first, _ = improved(jnp.full_like(swept, -jnp.inf), backup(swept))
    carry = first, jnp.ones((), bool)
    if on_accelerator():
        (value, rises), _ = jax.lax.scan(lambda carry, _: (round_(carry), None), carry, None, length=ROUNDS)
        value = jnp.where(rises, jnp.nan, value)
    else:
        value, _ = jax.lax.while_loop(lambda carry: carry[1], round_, carry)
    return backup(value)


def greedy(q: Float[Array, "*batch actions"]) -> Int[Array, "*batch"]:
    """The best action, the first of equals."""
    return q.argmax(-1)


def planned_action(
    policy: Int[Array, "episode states"], time: Int[Array, ""], state: Int[Array, ""], actions: int
) -> Float[Array, "actions"]:
    """The action that a plan has for this moment of an episode and this state, one-hot. NaN after the plan's end, so
    that a task whose episodes are longer than was planned for counts as diverged instead of being acted in blindly."""
    action = jax.nn.one_hot(policy[time, state], actions)
    return jnp.where(time < len(policy), action, jnp.nan)


def lazy_cond(
    needed: Bool[Array, ""], plan: Callable, arguments: PyTree, otherwise: PyTree, *, at_once: bool = False
) -> PyTree:
    """plan(*arguments) where it is needed, else `otherwise`, and no work when no example needs it.

    A plain condition under `vmap` does the work for every example at every step. Here the examples of all the `vmap`s
    around (tasks, and candidates of a population) plan when any of them has to: those that have to one after another,
    or all `at_once`, which suits small plans and accelerators. `plan` must close over no arrays.
    """
    choose = lambda: jax.tree.map(lambda new, old: jnp.where(needed, new, old), plan(*arguments), otherwise)
    if at_once or on_accelerator():
        return jax.lax.cond(anybody(needed), choose, lambda: otherwise)
    return _in_turn(plan)(needed, arguments, otherwise)


def _in_turn(plan: Callable) -> Callable:
    """(needed, arguments, otherwise) -> `lazy_cond`'s result, for examples that plan one after another. Each `vmap` is
    a loop around the condition, so that the predicate is one example's own."""

    @custom_vmap
    def one(needed, arguments, otherwise):
        return jax.lax.cond(needed, lambda: plan(*arguments), lambda: otherwise)

    @one.def_vmap
    def several(size, batched, *arguments):
        full = lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))
        needed, arguments, otherwise = jax.tree.map(full, arguments, tuple(batched))
        loop = lambda: jax.lax.map(lambda example: one(*example), (needed, arguments, otherwise))
        return jax.lax.cond(anybody(needed.any()), loop, lambda: otherwise), jax.tree.map(lambda _: True, otherwise)

    return one
