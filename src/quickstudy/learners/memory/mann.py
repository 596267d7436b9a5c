"""Memory-augmented networks: a recurrent controller with a memory, whose least used slots it overwrites (Santoro,
Bartunov, Botvinick, Wierstra, Lillicrap 2016, "Meta-Learning with Memory-Augmented Neural Networks", ICML).

    w^r_t = softmax_i( τ cos(k_t, M_{t−1}(i)) ),    r_t = Σ_i w^r_t(i) M_{t−1}(i)
    w^w_t = σ(α_t) w^r_{t−1} + (1 − σ(α_t)) w^lu_{t−1}                write where was read last, or where least is used
    M_t(i) = M_{t−1}(i) [w^lu_{t−1}(i) = 0] + w^w_t(i) k_t            the least used slots are emptied before
    w^u_t = γ w^u_{t−1} + w^r_t + w^w_t                               usage; w^lu_t is 1 at its n smallest, else 0

k_t, α_t come from the controller's h_t, and [h_t, r_t] is what the heads of the network read. MANN is no learner of
its own: it is `Recurrent(LRUAMemory(...), Prediction(...), LabelFeedback(classes))`.

With n heads each has its own k, α, w^r and r, and takes one of the n least used slots: w^lu is the sum of what they
take. Four things are not the paper's. k_t comes from h_t alone there; here from the controller's input, too, so
that the same image has about the same key before anything is learned: without that, thousands of streams went by at
the level of guessing. Its τ is 1, which spreads a read over the whole of a large memory; here it is
learned, one a head. Its reads are of M_t; there a head finds what it has just written, k_t itself at a cosine of 1, so
here it reads first. Its k_t has any length; here √width, so that reads are of size 1 from the first meta-step.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from quickstudy.nn.attention import unit
from quickstudy.nn.cells import LSTM, Cell, scan_along
from quickstudy.nn.layers import Linear
from quickstudy.parameters import Positive

EMPTY = 1e-6  # the first value of every number of a memory
FAINT = 1e-3  # a slot of a smaller norm counts as empty: a cosine alone would take the faintest trace for a match


class Memory(eqx.Module):
    slots: Float[Array, "slots width"]  # M
    reading: Float[Array, "heads slots"]  # w^r
    usage: Float[Array, "slots"]  # w^u
    read: Float[Array, "heads width"]  # r


class Controlled(eqx.Module):
    """The hidden state: the controller's h and c, and the memory."""

    controller: tuple[Float[Array, "size"], Float[Array, "size"]]
    memory: Memory


def empty(slots: int, width: int, heads: int) -> Memory:
    """A memory without content."""
    return Memory(
        jnp.full((slots, width), EMPTY), jnp.zeros((heads, slots)), jnp.zeros(slots), jnp.zeros((heads, width))
    )


def least_used(usage: Float[Array, "slots"], heads: int) -> Float[Array, "heads slots"]:
    """The slot that each head may take, one-hot: the n-th least used for the n-th head, of equals the first."""
    # A choice has no derivative; without this the usage would be differentiated for nothing.
    _, chosen = jax.lax.top_k(-jax.lax.stop_gradient(usage), heads)
    return jax.nn.one_hot(chosen, len(usage))


def read_weights(
    keys: Float[Array, "heads width"], slots: Float[Array, "slots width"], sharpness: Float[Array, "heads"]
) -> Float[Array, "heads slots"]:
    similar = unit(keys, FAINT) @ unit(slots, FAINT).T
    return jax.nn.softmax(sharpness[:, None] * similar, -1)


def access(
    memory: Memory,
    keys: Float[Array, "heads width"],
    again: Float[Array, "heads"],
    *,
    sharpness: Float[Array, "heads"],
    decay: float,
) -> Memory:
    """The memory after one step, which reads and then writes. `again` is σ(α), the share that a head writes where it
    read before."""
    reading = read_weights(keys, memory.slots, sharpness)
    read = reading @ memory.slots
    taken = least_used(memory.usage, len(keys))
    writing = again[:, None] * memory.reading + (1 - again[:, None]) * taken
    slots = memory.slots * (1 - taken.sum(0))[:, None] + writing.T @ keys
    usage = decay * memory.usage + reading.sum(0) + writing.sum(0)
    return Memory(slots, reading, usage, read)


class LRUAMemory(Cell):
    """An LSTM of `size` units with a memory of `slots` × `width` numbers and as many reads a step as `heads`.

    decay: γ, the share of a slot's usage that is left after a step
    sharpness: the initial value of τ

    The paper has 200 units, 128 slots of 40 numbers and 4 heads.
    """

    controller: LSTM
    keys: Linear
    again: Linear
    sharpness: Positive
    slots: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    decay: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        size: int,
        *,
        key: Key[Array, ""],
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.99,
        sharpness: float = 10.0,
    ):
        if not 1 <= heads <= slots:
            raise ValueError(f"heads={heads} must lie in [1, {slots}]: each takes a slot of its own a step")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        controller, keys, again = jax.random.split(key, 3)
        self.controller = LSTM(inputs + heads * width, size, key=controller)
        self.keys = Linear(size + inputs + heads * width, heads * width, use_bias=False, key=keys)
        self.again = Linear(size, heads, key=again)
        self.sharpness = Positive(jnp.full(heads, sharpness))
        self.slots, self.width, self.heads, self.decay = slots, width, heads, decay

    @property
    def size(self) -> int:
        """Length of `features`."""
        return self.controller.cell.size + self.heads * self.width

    def initial(self) -> Controlled:
        return Controlled(self.controller.initial(), empty(self.slots, self.width, self.heads))

    def __call__(self, hidden: Controlled, x: Float[Array, "inputs"]) -> Controlled:
        inputs = jnp.concatenate([x, hidden.memory.read.reshape(-1)])
        controller = self.controller(hidden.controller, inputs)
        h = self.controller.features(controller)
        memory = access(
            hidden.memory,
            self.width**0.5 * unit(self.keys(jnp.concatenate([h, inputs])).reshape(self.heads, self.width), FAINT),
            jax.nn.sigmoid(self.again(h)),
            sharpness=self.sharpness.value,
            decay=self.decay,
        )
        return Controlled(controller, memory)

    def features(self, hidden: Controlled) -> Float[Array, "size"]:
        return jnp.concatenate([self.controller.features(hidden.controller), hidden.memory.read.reshape(-1)])

    along = scan_along
