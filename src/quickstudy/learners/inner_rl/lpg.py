"""A meta-learned loss in the place of the policy gradient's, which outputs what to reinforce and what to predict.

    π̂_t, ŷ_t = U_η(x_t | x_{t+1}, …, x_T)       a backward LSTM that begins anew where an episode ends
    x_t = [r_t, d_t, π(a_t | o_t), c(y(o_t)), c(y(o_{t+1}))]
    φ ← u(φ, ∇_φ mean [ −π̂_t log π_φ(a_t | o_t) + c_y KL(y_φ(o_t) ‖ ŷ_t) − c_h H(π_φ) ])

y_φ(o) is a distribution over `predictions` symbols without a fixed meaning: a learned loss may make a value of it.
U sees no observation and no action, so it serves in environments of any size.

Learned policy gradient (LPG): Oh, Hessel, Czarnecki, Xu, van Hasselt, Singh, Silver 2020, "Discovering Reinforcement
Learning Algorithms", NeurIPS. Theirs chooses an agent's rate by a bandit and regularises targets by their
entropy; here the rate and the weights are leaves, and x_t has no discount, which is the same for all.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from quickstudy.checks import require_at_least, require_whole
from quickstudy.core import Incompatible, Learner
from quickstudy.data.batches import Output, Transition
from quickstudy.data.distributions import Categorical
from quickstudy.learners.gradient.updates import Update
from quickstudy.learners.initialisation import begin, network
from quickstudy.learners.inner_rl.on_policy import Learning
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.layers import Linear, LSTMCell
from quickstudy.nn.models import MLP
from quickstudy.parallel.axes import over_axes
from quickstudy.parameters import unwrap


class LPG(Learner):
    """Experience is [time, num_envs], actions are choices.

    start: from an observation to an `Output` with a policy and, as prediction, the logits of y [predictions]; or a
        `RandomInit` of it
    update: how a gradient moves its weights
    predicting, exploring: c_y and c_h, numbers or leaves
    """

    start: PyTree
    update: Update
    meaning: MLP  # c
    cell: LSTMCell
    advice: Linear  # to π̂
    target: Linear  # to the logits of ŷ
    predicting: Any
    exploring: Any

    def __init__(
        self,
        start: PyTree,
        update: Update,
        *,
        key: Key[Array, ""],
        predictions: int = 8,
        size: int = 32,
        predicting: Any = 0.5,
        exploring: Any = 0.01,
    ):
        require_whole(1, predictions=predictions, size=size)
        require_at_least(0, predicting=predicting, exploring=exploring)
        first, second, third, fourth = jax.random.split(key, 4)
        self.start, self.update, self.predicting, self.exploring = start, update, predicting, exploring
        self.meaning = MLP((predictions, 16, 1), key=first)
        self.cell = LSTMCell(5, size, key=second)
        self.advice = Linear(size, 1, key=third)
        self.target = Linear(size, predictions, key=fourth)

    def init(self, *, key: Key[Array, ""]) -> Learning:
        weights = begin(self.start, key)
        return Learning(weights, self.update.init(weights))

    def apply(self, state: Learning, x: PyTree) -> Output:
        return Output(policy=self._network(state.weights)(x).policy)

    def adapt(self, state: Learning, experience: Transition, *, key: Key[Array, ""]) -> Learning:
        del key
        if experience.axes != 2:
            raise Incompatible("LPG learns from parallel copies: set num_envs")
        advice, targets = self.advise(state, experience)

        def loss(weights: PyTree) -> Float[Array, ""]:
            output = over_axes(self._network(weights), 2)(experience.observation)
            log_prob = over_axes(lambda policy, a: policy.log_prob(a), 2)(output.policy, experience.action)
            divergence = over_axes(lambda ours, theirs: Categorical(ours).kl(Categorical(theirs)), 2)
            parts = (
                -(advice * log_prob).mean(),
                unwrap(self.predicting) * divergence(output.prediction, targets).mean(),
                -unwrap(self.exploring) * over_axes(lambda policy: policy.entropy(), 2)(output.policy).mean(),
            )
            return jnp.stack(parts).sum()

        value, gradient = jax.value_and_grad(loss)(state.weights)
        return Learning(*self.update.step(state.weights, gradient, value, state.memory))

    replay = scan_replay

    def advise(
        self, state: Learning, t: Transition
    ) -> tuple[Float[Array, "time num_envs"], Float[Array, "time num_envs predictions"]]:
        """π̂ and the logits of ŷ for each step."""
        model = over_axes(self._network(state.weights), 2)
        output, next_output = model(t.observation), model(t.next_observation)
        taken = over_axes(lambda policy, a: jnp.exp(policy.log_prob(a)), 2)(output.policy, t.action)
        means = over_axes(lambda logits: self.meaning(jax.nn.softmax(logits))[0], 2)
        ended = (t.terminated | t.truncated).astype(float)
        next_meaning = jnp.where(t.terminated, 0.0, means(next_output.prediction))
        inputs = jnp.stack([t.reward, ended, taken, means(output.prediction), next_meaning], -1)

        def step(hidden: tuple, item: tuple) -> tuple[tuple, Array]:
            x, ended = item
            hidden = jax.tree.map(lambda h: jnp.where(ended[:, None] > 0, 0.0, h), hidden)
            hidden = jax.vmap(self.cell)(x, hidden)
            return hidden, hidden[0]

        blank = jnp.zeros((t.reward.shape[1], self.cell.size))
        _, features = jax.lax.scan(step, (blank, blank), (inputs, ended), reverse=True)
        return over_axes(self.advice, 2)(features)[..., 0], over_axes(self.target, 2)(features)

    def _network(self, weights: PyTree) -> Any:
        return network(self.start, weights, jax.random.key(0))
