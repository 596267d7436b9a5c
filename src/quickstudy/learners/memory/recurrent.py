"""A recurrent network as a learner: its hidden state is its knowledge of the task.

    h_t = cell(h_{t-1}, [x_t, feedback of step t−1]),   output_t = heads(h_t)

With rewards and actions fed back this is RL² (Duan et al. 2016; Wang et al. 2016, "Learning to reinforcement
learn"); with labels fed back it learns from a labelled stream (Hochreiter et al. 2001; Santoro et al. 2016's
LSTM baseline). The slow weights are the learning algorithm, the hidden state is the learned agent.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import Labelled, Output, Transition
from quickstudy.data.distributions import Categorical, Gaussian
from quickstudy.learners.replay import require_single_env
from quickstudy.nn.cells import Cell
from quickstudy.nn.layers import Linear
from quickstudy.nn.measures import one_hot_labels
from quickstudy.nn.models import MLP
from quickstudy.nn.statistics import refuse
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import as_floats, in_types_of


class Feedback(eqx.Module):
    """The network's input from the step before: a vector made from one item of experience."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Length of the vector."""

    @abc.abstractmethod
    def __call__(self, item: PyTree) -> Float[Array, "size"]: ...


class OutcomeFeedback(Feedback):
    """Action (one-hot where it is a choice of `actions`, else as it is), reward, and whether the episode ended.

    observation: length of the next observation where that is fed back too, for memories that do not see it come next
    """

    actions: int | None = eqx.field(static=True)
    dims: int = eqx.field(static=True, default=0)
    observation: int = eqx.field(static=True, default=0)

    @property
    def size(self) -> int:
        return (self.dims if self.actions is None else self.actions) + 2 + self.observation

    def __call__(self, item: Transition) -> Float[Array, "size"]:
        action = item.action if self.actions is None else jax.nn.one_hot(item.action, self.actions)
        ended = (item.terminated | item.truncated).astype(float)
        next_observation = [item.next_observation] if self.observation else []
        return jnp.concatenate([action, item.reward[None], ended[None], *next_observation])


class LabelFeedback(Feedback):
    """The label: one-hot where it is one of `classes`, else the vector itself; `scale` times as large."""

    classes: int | None = eqx.field(static=True)
    dims: int = eqx.field(static=True, default=0)
    scale: float = eqx.field(static=True, default=1.0)

    @property
    def size(self) -> int:
        return self.dims if self.classes is None else self.classes

    def __call__(self, item: Labelled) -> Float[Array, "size"]:
        return self.scale * (as_floats(item.y) if self.classes is None else one_hot_labels(item.y, self.classes))


class Heads(eqx.Module):
    """From features to an `Output`: abstract, so that a learner's parts are named where it is built."""

    @abc.abstractmethod
    def __call__(self, features: Float[Array, "features"]) -> Output: ...


class ActorCritic(Heads):
    """A policy over `actions` choices (or, with `log_std`, a Gaussian of as many dimensions) and a value in units
    of `scale`: a read-out of a bounded hidden state takes long to grow to returns of 100. `hidden` is the width of a
    tanh layer in each, 0 for none."""

    actor: Linear | MLP
    critic: Linear | MLP
    log_std: Float[Array, "dims"] | None
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        features: int,
        actions: int,
        *,
        key: Key[Array, ""],
        gaussian: bool = False,
        scale: float = 1.0,
        hidden: int = 0,
    ):
        actor, critic = jax.random.split(key)
        through = lambda outputs, key: MLP((features, hidden, outputs), key=key, activation=jnp.tanh)
        make = through if hidden else lambda outputs, key: Linear(features, outputs, key=key)
        last = lambda net: net.layers[-1] if hidden else net
        # The policy starts near uniform, so that early returns inform about every action.
        small = lambda head: jax.tree.map(lambda w: 0.01 * w, head)
        self.actor = eqx.tree_at(last, make(actions, actor), replace_fn=small)
        self.critic = make(1, critic)
        self.log_std = jnp.zeros(actions) if gaussian else None
        self.scale = scale

    def __call__(self, features: Float[Array, "features"]) -> Output:
        choice = self.actor(features)
        policy = Categorical(choice) if self.log_std is None else Gaussian(choice, jnp.exp(self.log_std))
        return Output(policy=policy, value=self.scale * self.critic(features)[0])


class Prediction(Heads):
    """A linear read-out: a regression target, or the logits of classes."""

    linear: Linear

    def __init__(self, features: int, outputs: int, *, key: Key[Array, ""]):
        self.linear = Linear(features, outputs, key=key)

    def __call__(self, features: Float[Array, "features"]) -> Output:
        return Output(prediction=self.linear(features))


class RecurrentState(eqx.Module):
    hidden: PyTree
    feedback: Float[Array, "size"]  # of the step before; zeros when the task begins


class Recurrent(Learner):
    """Adapts to one item at a time; a segment of several is gone through in order and has no axis of environments.

    encode: from an observation, as an image, to the cell's input vector
    late: the feedback of a step comes with the observation of the next one, as in the papers. False: the cell gets an
        observation with zeros to predict from, and again with its feedback to remember that
    """

    cell: Cell
    heads: Heads
    feedback: Feedback
    encode: Callable = eqx.nn.Identity()
    late: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        refuse(self.encode)

    def init(self, *, key: Key[Array, ""]) -> RecurrentState:
        del key
        return RecurrentState(self.cell.initial(), jnp.zeros(self.feedback.size))

    def adapt(self, state: RecurrentState, experience: PyTree, *, key: Key[Array, ""]) -> RecurrentState:
        del key
        require_single_env(experience)

        def absorb(state, pair):
            x, item = pair
            return in_types_of(state, self._absorbed(state, x, self.feedback(item))), None

        # Encoding remembers nothing, so all items are encoded at once: one product instead of many.
        return jax.lax.scan(absorb, state, (over_axes(self.encode)(experience.x), experience))[0]

    def apply(self, state: RecurrentState, x: PyTree) -> Output:
        return self.heads(self.cell.features(self._hidden(state, self.encode(x))))

    def replay(self, state: RecurrentState, experience: PyTree, *, key: Key[Array, "segments"]) -> Output:
        """The outputs of one pass of the cell along the trial, the heads applied to all moments in one product. Equal
        to `scan_replay` where segments are single steps; within a longer one `apply` would not see its beginning.
        """
        del key
        steps = jax.tree.leaves(experience)[0].shape[1]
        if steps != 1:
            raise Incompatible(f"Recurrent adapts at every step; use segment_length=1, not {steps}")
        items = jax.tree.map(lambda x: x[:, 0], experience)
        require_single_env(items)
        x, feedback = over_axes(self.encode)(items.x), jax.vmap(self.feedback)(items)
        if self.late:
            before = jnp.concatenate([state.feedback[None], feedback[:-1]])
            features = self.cell.along(state.hidden, jnp.concatenate([x, before], 1))
        else:

            def step(state, pair):
                features = self.cell.features(self._hidden(state, pair[0]))
                return in_types_of(state, self._absorbed(state, *pair)), features

            _, features = jax.lax.scan(step, state, (x, feedback))
        return jax.vmap(jax.vmap(self.heads))(features[:, None])

    def _absorbed(self, state: RecurrentState, x: Array, feedback: Array) -> RecurrentState:
        if self.late:
            return RecurrentState(self._hidden(state, x), feedback)
        return RecurrentState(self.cell(state.hidden, jnp.concatenate([x, feedback])), state.feedback)

    def _hidden(self, state: RecurrentState, x: Float[Array, "inputs"]) -> PyTree:
        return self.cell(state.hidden, jnp.concatenate([x, state.feedback]))
