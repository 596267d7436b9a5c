"""Optax transformations that are differentiated where a gradient is exactly 0, as under a dead ReLU or an empty pixel.

    Adam's step    u(g) = m / (√v + ε)                          a function with a derivative at g = 0, which is 1/ε
    by its parts   du = dm / (√v + ε) − m dv / (2 √v (√v + ε)²)     0 · ∞ there, which is no number

so √, its reciprocal, powers and quotients are given a derivative of 0 by what is exactly 0, wherever a transformation
has them. Values stay as they are, bit for bit, and so do derivatives everywhere else. At 0 those of Adam, RMSProp and
their kin are then exact; a clipped or normalised gradient has that of the branch that was taken.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, PyTree

primitives = jax.extend.core.primitives


def derivative_at_zero(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`f`, a function of arrays, with the same values, and finite derivatives of any order where its parts are 0."""

    def g(*args: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(args)
        flat = lambda *leaves: f(*jax.tree.unflatten(structure, leaves))
        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), _run(closed.jaxpr, closed.consts, leaves))

    return g


def _run(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """What the program gives, operation by operation, with those of `SAFE` in the place of what they stand for."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]
    for line in jaxpr.eqns:
        given = [read(atom) for atom in line.invars]
        if line.primitive is primitives.jit_p:  # of jax.numpy's own functions many are programs within the program
            inner = line.params["jaxpr"]
            found = _run(inner.jaxpr, inner.consts, given)
        elif line.primitive in SAFE:
            found = [SAFE[line.primitive](*given, **line.params)]
        else:
            found = line.primitive.bind(*given, **line.primitive.get_bind_params(line.params))
            found = found if line.primitive.multiple_results else [found]
        values.update(zip(line.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _away_from_zero(primitive: Any) -> Callable[..., Array]:
    """An operation whose last operand may be 0 without a derivative by it, nor by the others where it is."""

    def safe(*operands: Any, **params: Any) -> Array:
        *others, x = operands
        zero = x == 0
        there = primitive.bind(*map(jax.lax.stop_gradient, operands), **params)
        elsewhere = primitive.bind(*others, jnp.where(zero, jnp.ones_like(x), x), **params)
        return jnp.where(zero, there, elsewhere)

    return safe


def _power(x: Any, exponent: Any, **params: Any) -> Array:
    flipped = lambda e, x: primitives.pow_p.bind(x, e, **params)
    zero = (x == 0) & (exponent < 1)
    there = flipped(*map(jax.lax.stop_gradient, (exponent, x)))
    return jnp.where(zero, there, flipped(exponent, jnp.where(zero, jnp.ones_like(x), x)))


SAFE = {
    primitives.sqrt_p: _away_from_zero(primitives.sqrt_p),
    primitives.rsqrt_p: _away_from_zero(primitives.rsqrt_p),
    primitives.cbrt_p: _away_from_zero(primitives.cbrt_p),
    primitives.log_p: _away_from_zero(primitives.log_p),
    primitives.div_p: _away_from_zero(primitives.div_p),
    primitives.pow_p: _power,
}
