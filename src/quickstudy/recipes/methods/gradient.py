"""Few-shot learning by gradient steps: MAML's family, Reptile, learned updates and a memory of tasks.

Two cores have an hour where the papers had 60,000 meta-steps of 32 tasks with 15 queries on images, so meta-steps there
are smaller and their rate is larger.
"""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Inside, Training
from quickstudy.recipes.methods.labelled import FINN, composed
from quickstudy.recipes.outer import Evolution, Gradient
from quickstudy.recipes.problem import Composition, LabelledFamily, MethodConfig

InnerRate = Annotated[float, Above(0), "step size of adaptation, or where a learned one starts"]
InnerSteps = Annotated[int, AtLeast(0, 10_000), "gradient steps of adaptation while training"]
Slots = Annotated[int, AtLeast(1, SIZES), "slots of the memory"]
LSTMSize = Annotated[int, AtLeast(1, SIZES), "hidden size of the LSTM that looks at gradients"]
TestSteps = Annotated[
    tuple[int, ...],
    AtLeast(0, 10_000),
    "numbers of gradient steps to test after, the last of which gives the score (default: 0, as in training, thrice)",
]
NICHOL = "Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms"
BY_SUPPORT = {"queries": 5, "normalise": "support"}


@dataclasses.dataclass(frozen=True)
class Inner:
    """The adaptation."""

    inner_rate: InnerRate = 0.4
    inner_steps: InnerSteps = 1
    test_steps: TestSteps = ()
    inner_clip: Annotated[
        float,
        AtLeast(0),
        "size at which each entry of an inner gradient is cut, where inner steps are plain (0: never)",
    ] = 0.0

    @property
    def tested(self) -> tuple[int, ...]:
        return tuple(sorted({*self.test_steps} or {0, self.inner_steps, 3 * self.inner_steps}))

    def descent(self, rate: Any) -> Any:
        """Plain steps of `rate`, one for all weights or a tree of them."""
        import optax

        from quickstudy.learners.gradient.updates import Scaled

        return Scaled(rate, optax.clip(self.inner_clip)) if self.inner_clip else qs.SGD(rate)


def _start(family: LabelledFamily, zero_head: bool = False) -> Any:
    import equinox as eqx
    import jax

    from quickstudy.nn.models import Predictor, head

    start = Predictor(family.net(family.outputs))
    return eqx.tree_at(head, start, jax.tree.map(jax.numpy.zeros_like, head(start))) if zero_head else start


def _gradient(
    family: LabelledFamily,
    training: Training,
    outer: Gradient | Evolution,
    inner: Inner,
    start: Any,
    *,
    objective: Any = None,
    citations: tuple[str, ...] = (FINN,),
    **choices: Any,
) -> Composition:
    fields = {"update": inner.descent(inner.inner_rate), "steps": inner.inner_steps, **choices}
    learner = qs.Gradient(start, qs.Supervised(family.loss), **fields)
    return composed(family, training, outer, learner, objective=objective, steps=inner.tested, citations=citations)


ZeroHead = Annotated[
    bool,
    "start with a last layer of zeros, which prefers no class, and after a step that of the most similar example",
]


@dataclasses.dataclass(frozen=True)
class MAML(MethodConfig):
    inner: Inner = Inner()
    zero_head: ZeroHead = False
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "MAML", FINN, "few-shot"
    needs = ("one head",)
    suggests = BY_SUPPORT

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        return _gradient(family, training, self.outer, self.inner, _start(family, self.zero_head))


@dataclasses.dataclass(frozen=True)
class FOMAML(MethodConfig):
    inner: Inner = Inner(0.1, 4)
    zero_head: ZeroHead = False
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "first-order MAML", FINN, "few-shot"
    needs = ("one head",)
    suggests = BY_SUPPORT
    not_evolved = "evolution takes no gradient through the adaptation, so that this is es-maml"

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        start = _start(family, self.zero_head)
        return _gradient(family, training, self.outer, self.inner, start, adjoint=qs.FirstOrder())


@dataclasses.dataclass(frozen=True)
class IMAML(MethodConfig):
    inner: Inner = Inner(0.1, 8)
    strength: Annotated[float, Above(0), "how strongly adapted weights are held to the start (λ)"] = 0.5
    solver_steps: Annotated[int, AtLeast(1, 1000), "conjugate-gradient steps that solve for the meta-gradient"] = 4
    inner_optimizer: Annotated[Literal["sgd", "adam"], "how the inner minimum is looked for"] = "sgd"
    outer: Gradient | Evolution = Gradient()

    title, meets = "implicit MAML", "few-shot"
    needs = ("one head",)
    source = "Rajeswaran, Finn, Kakade, Levine 2019, Meta-Learning with Implicit Gradients, NeurIPS"
    suggests = BY_SUPPORT
    not_evolved = "evolution takes no gradient through the adaptation, so that this is es-maml"

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        import optax

        update = self.inner.descent(self.inner.inner_rate)
        if self.inner_optimizer == "adam":
            update = qs.Optax(optax.adam(self.inner.inner_rate))
        return _gradient(
            family, training, self.outer, self.inner, _start(family),
            adjoint=qs.Implicit(self.strength, self.solver_steps), update=update,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ANIL(MethodConfig):
    inner: Inner = Inner()
    outer: Gradient | Evolution = Gradient()

    title, meets = "ANIL", "few-shot"
    needs = ("one head",)
    source = "Raghu, Raghu, Bengio, Vinyals 2020, Rapid Learning or Feature Reuse?, ICLR"
    suggests = BY_SUPPORT

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.nn.models import head

        return _gradient(family, training, self.outer, self.inner, _start(family), fast=head)


@dataclasses.dataclass(frozen=True)
class CAVIA(MethodConfig):
    inner: Inner = Inner(1.0, 2)
    context_size: Annotated[int, AtLeast(1, SIZES), "numbers of the context, which alone adapts"] = 100
    outer: Gradient | Evolution = Gradient()

    title, meets = "CAVIA", "few-shot"
    needs = ("one head",)
    source = "Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, Fast Context Adaptation via Meta-Learning, ICML"
    suggests = {**BY_SUPPORT, "inner_rate": 1.0}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.nn.models import context

        if family.contextual is None:
            raise qs.Incompatible("CAVIA needs a network with a context, and this family of tasks has none")
        start = family.contextual(self.context_size)
        return _gradient(family, training, self.outer, self.inner, start, fast=context)


@dataclasses.dataclass(frozen=True)
class MetaSGD(MethodConfig):
    inner: Inner = Inner()
    outer: Gradient | Evolution = Gradient()

    title, meets = "Meta-SGD", "few-shot"
    needs = ("one head",)
    source = "Li, Zhou, Chen, Li 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning"
    suggests = {**BY_SUPPORT, "inner_clip": 0.0}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        start = _start(family)
        update = self.inner.descent(qs.per_weight(start, self.inner.inner_rate).rate)
        return _gradient(family, training, self.outer, self.inner, start, update=update)


@dataclasses.dataclass(frozen=True)
class Reptile(MethodConfig):
    inner: Inner = Inner(0.2, 5, (0, 5, 50))
    inner_batch: Annotated[int, AtLeast(1), "examples that each inner step sees; it is different ones that teach"] = 10
    # The learning rate of plain steps is how far the start moves towards where adaptation ended.
    outer: Gradient = Gradient(1.0, 0.0, "linear", 0.0, "sgd")

    title, source, meets = "Reptile", NICHOL, "few-shot"
    needs = ("one head",)
    suggests = {**BY_SUPPORT, "queries": 9, "learning_rate": 1.0, "final_rate": 0.0, "clip_norm": 0.0}
    not_evolved = (
        "its outer step is a move towards adapted weights, which has no score; es-maml evolves the same learner"
    )

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        return _gradient(
            family, training, self.outer, self.inner, _start(family),
            objective=qs.Reptile(family.objective), batch=self.inner_batch,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MetaLSTM(MethodConfig):
    inner_rate: Annotated[float, Inside(0, 1), "about what the learned input gate begins at"] = 0.05
    retain: Annotated[float, Inside(0, 1), "about what the learned forget gate begins at"] = 0.999
    inner_steps: InnerSteps = 5
    test_steps: TestSteps = ()
    lstm_size: LSTMSize = 16
    outer: Gradient | Evolution = Gradient()

    title, meets = "Meta-LSTM", "few-shot"
    needs = ("one head",)
    source = "Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning, ICLR"
    suggests = {**BY_SUPPORT, "inner_rate": 0.05, "inner_steps": 5}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.learners.gradient.learned_updates import MetaLSTM

        inner = Inner(self.inner_rate, self.inner_steps, self.test_steps)
        update = MetaLSTM(self.lstm_size, key=family.key(3), rate=self.inner_rate, keep=self.retain)
        start = _start(family)
        return _gradient(family, training, self.outer, inner, start, update=update, adjoint=qs.FirstOrder())


@dataclasses.dataclass(frozen=True)
class Pretrained(MethodConfig):
    inner: Inner = Inner(0.01, 0, (0, 1, 5, 10))
    outer: Gradient | Evolution = Gradient()

    title, source, meets = "pre-training on all tasks together", FINN, "few-shot"
    needs = ("numbers",)

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        return _gradient(family, training, self.outer, self.inner, _start(family))


@dataclasses.dataclass(frozen=True)
class LearnedOptimizer(MethodConfig):
    inner_steps: InnerSteps = 30
    test_steps: TestSteps = ()
    lstm_size: LSTMSize = 20
    adam_rate: Annotated[float, Above(0), "step size of the baseline, Adam"] = 0.03
    outer: Gradient | Evolution = Gradient(clip_norm=1.0)

    title, meets = "a learned optimiser", "few-shot"
    needs = ("one head",)
    suggests = {"final_rate": 0.05, "clip_norm": 1.0, "test_steps": ()}
    source = "Andrychowicz et al. 2016, Learning to learn by gradient descent by gradient descent, NeurIPS"

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        import optax

        from quickstudy.baselines.from_scratch import FromScratch
        from quickstudy.learners.gradient.learned_updates import LSTMOptimizer
        from quickstudy.nn.models import Predictor

        draw = lambda key: Predictor(family.net(family.outputs, key))
        loss, scratch = qs.Supervised(family.loss), qs.Optax(optax.adam(self.adam_rate))
        update = LSTMOptimizer(self.lstm_size, key=family.key(1))
        return composed(
            family, training, self.outer, FromScratch(draw, loss, update, steps=self.inner_steps),
            steps=tuple(sorted({*self.test_steps} or {0, self.inner_steps, 2 * self.inner_steps})),
            baselines={f"Adam, rate {self.adam_rate:g}": FromScratch(draw, loss, scratch)},
            citations=(FINN,),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TaskMemory(MethodConfig):
    """MAML's steps from a start that a memory of tasks chooses."""

    inner: Inner = Inner()
    slots: Slots = 8
    fast_size: Annotated[int, AtLeast(1, SIZES), "width of the first of two fast layers"] = 64
    task_features: Annotated[int, AtLeast(1, SIZES), "numbers that describe a task, as long as the slots' keys"] = 32
    sharpness: Annotated[float, Above(0), "sharpness of the selection of slots, where it starts"] = 5.0
    outer: Gradient | Evolution = Gradient()

    title, meets = "MAML with a memory of tasks", "few-shot"
    needs = "classes", "one head"
    source = FINN
    suggests = {"queries": 5}

    def build(self, family: LabelledFamily, training: Training) -> Composition:
        from quickstudy.learners.gradient.task_memory import OfInputs, empty_memory
        from quickstudy.nn.layers import Linear
        from quickstudy.nn.models import MLP, Chain, Predictor, head

        assert family.embedding is not None
        trunk = family.embedding(family.key(1))
        sizes = trunk.features, self.fast_size, family.outputs
        start = Predictor(Chain([trunk, MLP(sizes, key=family.key(2))]))
        update = self.inner.descent(self.inner.inner_rate)
        within = qs.Gradient(start, qs.Supervised(family.loss), update, steps=self.inner.inner_steps, fast=head)
        # A network of its own describes the tasks: it sees the support set alone, and half the width suffices.
        small = family.embedding(family.key(5), shrink=2)
        embed = OfInputs(Chain([small, Linear(small.features, self.task_features, key=family.key(6))]))
        learner = empty_memory(
            within, embed, self.task_features, key=family.key(7), slots=self.slots, sharpness=self.sharpness
        )
        vuorio = "Vuorio, Sun, Hu, Lim 2019, Multimodal Model-Agnostic Meta-Learning via Task-Aware Modulation, NeurIPS"
        return composed(family, training, self.outer, learner, steps=self.inner.tested, citations=(vuorio,))
