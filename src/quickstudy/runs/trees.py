"""Arrays of a tree by their paths: what a checkpoint holds of a state."""

import hashlib
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from quickstudy.runs.errors import refused
from quickstudy.runs.files import canonical


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Every array of a tree by its path; keys as their raw data. On a CPU they are not copied."""
    return {name: np.asarray(leaf) for name, leaf in _named(tree).items()}


def _named(tree: PyTree) -> dict[str, Any]:
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array | np.ndarray):
            out[jax.tree_util.keystr(path)] = leaf
    return out


def digest(tree: PyTree) -> str:
    """SHA-256 over the names, types, shapes and bytes of every array of a tree."""
    total = hashlib.sha256()
    for name, array in sorted(named_arrays(tree).items()):
        total.update(canonical([name, str(array.dtype), list(array.shape)]))
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def check_names(template: PyTree, specs: dict[str, tuple[np.dtype, tuple[int, ...]]], where: str) -> None:
    """Raises CheckpointRefused where arrays of these types and shapes are not those of `template`."""
    expected = {name: (np.dtype(leaf.dtype), tuple(leaf.shape)) for name, leaf in _named(template).items()}
    wrong = [f"{name} is missing" for name in expected.keys() - specs.keys()]
    wrong += [f"{name} is unknown" for name in specs.keys() - expected.keys()]
    described = lambda spec: f"{spec[0]}{list(spec[1])}"
    wrong += [
        f"{name} is {described(specs[name])}, not {described(expected[name])}"
        for name in expected.keys() & specs.keys() if specs[name] != expected[name]
    ]  # fmt: skip
    if wrong:
        raise refused(where, f"is of another model: {'; '.join(sorted(wrong)[:5])}", "")


def restore(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """`template` with every array replaced by the one of the same path."""

    def replace(path, leaf):
        name = jax.tree_util.keystr(path)
        if name not in arrays:
            return leaf
        array = jax.numpy.asarray(arrays[name])
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(array)
        return array

    return jax.tree_util.tree_map_with_path(replace, template)
