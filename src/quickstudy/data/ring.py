"""A memory of fixed size that forgets the oldest: replay buffers, and the examples that memory learners keep."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from quickstudy.checks import require_whole
from quickstudy.parameters import in_types_of


class Ring(eqx.Module):
    """The newest items: leaves of `items` are [capacity, ...]."""

    items: PyTree
    count: Int[Array, ""]  # ever pushed

    @staticmethod
    def empty(item: PyTree, capacity: int) -> "Ring":
        """For items like `item`. Raises ValueError for a capacity below 1."""
        require_whole(1, capacity=capacity)
        return Ring(
            jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), item),
            jnp.zeros((), int),
        )

    @property
    def capacity(self) -> int:
        return len(jax.tree.leaves(self.items)[0])

    @property
    def known(self) -> Bool[Array, "capacity"]:
        """Which slots hold an item."""
        return jnp.arange(self.capacity) < self.count

    @property
    def number(self) -> Int[Array, "capacity"]:
        """Which item each slot holds, counted from 0; below 0: none."""
        last = self.count - 1
        return last - (last - jnp.arange(self.capacity)) % self.capacity

    def push(self, items: PyTree) -> "Ring":
        """With several items more: leaves have a leading axis. Raises ValueError when they do not fit at once."""
        num = len(jax.tree.leaves(items)[0])
        if num > self.capacity:
            raise ValueError(f"{num} examples at once do not fit into a memory of capacity={self.capacity}")
        at = (self.count + jnp.arange(num)) % self.capacity
        items = in_types_of(self.items, items)
        return Ring(jax.tree.map(lambda kept, new: kept.at[at].set(new), self.items, items), self.count + num)

    def sample(self, num: int, *, key: Key[Array, ""]) -> PyTree:
        """`num` of the items, uniformly and with repetition; zeros as long as there are none."""
        below = jnp.clip(self.count, 1, self.capacity)
        at = jax.random.randint(key, (num,), 0, below)
        return jax.tree.map(lambda kept: kept[at], self.items)
