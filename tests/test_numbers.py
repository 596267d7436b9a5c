"""Numbers at the edges: exact zeros under differentiation, far from 0, bytes, other float types, labels of no class,
fields out of range. The right values are worked out by hand or in float64."""

import dataclasses
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quickstudy as qs
from quickstudy.baselines.from_scratch import FromScratch
from quickstudy.baselines.logistic_regression import LogisticRegression
from quickstudy.learners.gradient.adjoints import Implicit, Unrolled
from quickstudy.learners.gradient.updates import Optax, Scaled
from quickstudy.learners.gradient.zeros import derivative_at_zero
from quickstudy.learners.initialisation import RandomInit
from quickstudy.nn import images
from quickstudy.nn.attention import attend, masked_softmax, unit
from quickstudy.nn.linear_recurrence import LinearRecurrence
from quickstudy.nn.measures import accuracy, cross_entropy
from quickstudy.nn.models import MLP, Predictor
from quickstudy.tasks.classes import from_arrays, pool_of
from registry import REGISTRY

K = jax.random.key(0)
LINE = {"a": jnp.array(0.5), "b": jnp.array(0.3)}


class Line(eqx.Module):
    """ŷ = a + b x."""

    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        return qs.Output(prediction=self.a + self.b * x)


def meta_gradient(update, steps=1, adjoint=None):
    """Of (ŷ(1) − 2)² after steps on (ŷ(0) − 1)², whose gradient by b is exactly 0."""
    learner = qs.Gradient(
        Line(jnp.array([0.5]), jnp.array([0.3])), qs.Supervised(), update, adjoint or Unrolled(), steps=steps
    )

    def loss(learner):
        state = learner.adapt(learner.init(key=K), qs.Labelled(jnp.zeros((1, 1)), jnp.ones((1, 1))), key=K)
        return ((learner.apply(state, jnp.ones(1)).prediction - 2) ** 2).sum()

    gradient = jax.grad(loss)(learner).start
    return float(gradient.a[0]), float(gradient.b[0])


# --- Exact zeros -----------------------------------------------------------------------------------------------------


def test_an_inner_adam_has_its_derivative_where_a_gradient_is_exactly_0():
    """Adam's first step is α sgn(g): a moves by +.1, b by nothing, and neither move depends on where it starts."""
    np.testing.assert_allclose(meta_gradient(Scaled(0.1)), (-2.2, -2.2), rtol=1e-4)
    np.testing.assert_allclose(meta_gradient(Optax(optax.adam(0.1, eps=1e-5))), (-2.2, -2.2), rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.scale_by_amsgrad(),
        lambda: optax.scale_by_rms(eps_in_sqrt=False),
        lambda: optax.scale_by_yogi(initial_accumulator_value=0.0),
        lambda: optax.scale_by_adan(),
        lambda: optax.clip_by_global_norm(1.0),
        lambda: optax.clip_by_block_rms(1.0),
        lambda: optax.adaptive_grad_clip(0.1),
        lambda: optax.scale_by_trust_ratio(),
        lambda: optax.lamb(0.1),
    ],
)
def test_other_inner_optimisers_have_finite_meta_gradients_at_zeros_too(make):
    assert np.isfinite(meta_gradient(Scaled(0.1, make()), steps=2)).all()
    everything = {"x": jnp.zeros(2), "y": jnp.zeros(())}  # nothing was earned: all of the gradient is 0
    update = Optax(make())
    moved = lambda g: update.step({"x": jnp.ones(2), "y": jnp.ones(())}, g, jnp.zeros(()), update.init(everything))[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jacobian(moved)(everything)))


def test_a_derivative_at_zero_changes_no_value_and_no_other_derivative():
    f = lambda x, y: {"z": jnp.sqrt(x) + jnp.log1p(x) / y + x**0.5 + jnp.linalg.norm(jnp.stack([x, y]))}
    g = derivative_at_zero(f)
    for at in ((0.3, 2.0), (1e-6, -4.0)):
        assert float(f(*at)["z"]) == float(g(*at)["z"])
        value = lambda h: lambda x, y: h(x, y)["z"]
        np.testing.assert_allclose(jax.grad(value(g), (0, 1))(*at), jax.grad(value(f), (0, 1))(*at), rtol=1e-5)
        hessian = lambda h: jax.hessian(value(h), (0, 1))(*map(jnp.array, at))
        np.testing.assert_allclose(hessian(g), hessian(f), rtol=1e-4)
    assert float(g(0.0, 3.0)["z"]) == float(f(0.0, 3.0)["z"]) == 3.0
    # m / (√v + ε) with v = m² has the derivative 1/ε at 0.
    assert float(jax.grad(derivative_at_zero(lambda m: m / (jnp.sqrt(m**2) + 0.25)))(0.0)) == 4.0


def test_a_state_that_forgets_almost_nothing_has_a_gradient():
    """1 − |λ|² is 0 in float32 for |λ| > 1 − 3e-8, and its root had no derivative."""
    cell = LinearRecurrence(1, 2, key=K, layers=1)
    slow = eqx.tree_at(lambda c: c.layers[0].decay, cell, jnp.full(2, -20.0))
    gradient = jax.grad(lambda cell: cell.along(cell.initial(), jnp.ones((3, 1))).sum())(slow)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    gain = np.abs(np.asarray(slow.layers[0].driven(jnp.array([1.0, -1.0]))))
    assert (gain > 1e-6).all()


def test_a_logit_that_rules_a_class_out_costs_nothing():
    logits = jnp.array([0.0, -jnp.inf, 0.0])
    np.testing.assert_allclose(cross_entropy(logits, jnp.array(2)), np.log(2), rtol=1e-6)
    assert np.isfinite(jax.grad(cross_entropy)(logits, jnp.array(2))).all()
    assert float(cross_entropy(logits, jnp.array(1))) == np.inf


# --- Far from 0, and bytes -------------------------------------------------------------------------------------------


def clusters(offset, dims=8, ways=5, each=20, far=3.0):
    rng = np.random.default_rng(0)
    centres = far * rng.standard_normal((ways, dims)) / np.sqrt(dims)
    x = centres[:, None] + rng.standard_normal((ways, each, dims))
    y = np.repeat(np.arange(ways), each)
    return (x.reshape(-1, dims) + offset).astype(np.float32), y


@pytest.mark.parametrize(
    "make",
    [
        lambda: qs.Prototypical(eqx.nn.Identity(), 8, 5),
        lambda: LogisticRegression(8, 5, 50),
    ],
)
def test_an_offset_of_3000_changes_no_answer(make):
    answers = []
    for offset in (0.0, 3000.0):
        x, y = map(jnp.asarray, clusters(offset))
        learner = make()
        state = learner.adapt(learner.init(key=K), qs.Labelled(x[::2], y[::2]), key=K)
        said = jax.vmap(lambda x: learner.apply(state, x).prediction)(x[1::2])
        answers.append((said.argmax(1), (said.argmax(1) == y[1::2]).mean()))
    assert answers[0][1] > 0.6
    assert (answers[0][0] == answers[1][0]).mean() > 0.98


def test_images_are_normalised_far_from_0():
    y = np.random.default_rng(0).standard_normal((5, 5, 8)).astype(np.float32)
    for how in ("layer", "group"):
        near, far = images.moments(jnp.asarray(y), how), images.moments(jnp.asarray(y + 3000), how)
        np.testing.assert_allclose(near[1], far[1], rtol=1e-3)
    gathered = lambda y: jax.vmap(lambda y: images.moments(y, "support"), axis_name=images.EXAMPLES)(y)[1][0]
    np.testing.assert_allclose(gathered(jnp.asarray(y)[None] + 3000), y.var((0, 1)), rtol=1e-3)


@pytest.mark.parametrize("kind", [jnp.uint8, jnp.int8, jnp.int32])
def test_whole_numbers_are_compared_as_floats(kind):
    keys = jnp.array([[120, 90, 3], [10, 100, 70], [99, 1, 120]], kind)
    query, known = jnp.array([100, 80, 40], kind), jnp.ones(3, bool)
    k, q = np.asarray(keys, float), np.asarray(query, float)
    cosine = k @ q / np.linalg.norm(k, axis=1) / np.linalg.norm(q)
    expected = np.exp(2 * cosine) / np.exp(2 * cosine).sum()
    np.testing.assert_allclose(attend(query, keys, jnp.array(2.0), known), expected, rtol=1e-5)

    y = jnp.arange(3)
    matching = qs.Matching(eqx.nn.Identity(), 3, capacity=3, classes=3, sharpness=2.0)
    state = matching.adapt(matching.init(key=K), qs.Labelled(keys, y), key=K)
    np.testing.assert_allclose(jnp.exp(matching.apply(state, query).prediction), expected, rtol=1e-4)

    prototypes = qs.Prototypical(eqx.nn.Identity(), 3, 3)
    state = prototypes.adapt(prototypes.init(key=K), qs.Labelled(keys, y), key=K)
    np.testing.assert_allclose(prototypes.apply(state, query).prediction, -((k - q) ** 2).sum(1), rtol=1e-6)


def test_lengths_of_very_large_and_very_small_rows_and_of_none():
    rows = jnp.array([[3e30, 4e30], [3e-3, 4e-3], [0.0, 0.0]])
    np.testing.assert_allclose(unit(rows), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-5)
    assert np.isfinite(jax.jacobian(unit)(rows)).all()
    nothing = jnp.zeros(3, bool)
    assert (masked_softmax(jnp.arange(3.0), nothing) == 0).all()
    assert np.isfinite(jax.jacobian(masked_softmax)(jnp.arange(3.0), nothing)).all()


# --- Labels and types at the door ------------------------------------------------------------------------------------


def test_one_hot_labels_and_floats_are_refused_with_the_mend():
    logits = jnp.array([10.0, 0.0, 0.0])
    np.testing.assert_allclose(cross_entropy(logits, jnp.array(0)), 9.08e-5, rtol=1e-2)
    assert float(accuracy(logits, jnp.array(0))) == 1
    for measure in (cross_entropy, accuracy):
        with pytest.raises(ValueError, match=r"it has shape \(3,\).*y.argmax\(-1\)"):
            measure(logits, jnp.array([1.0, 0.0, 0.0]))
        with pytest.raises(ValueError, match=r"these are float32.*y.astype\(int\)"):
            measure(logits, jnp.array(0.0))


LABELLED = ["prototypical", "matching", "logistic-regression", "stream of labels"]


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_of_no_class_are_never_answered(name, label):
    if name == "stream of labels":
        from quickstudy.learners.memory.recurrent import LabelFeedback, Prediction
        from quickstudy.nn.cells import GRU

        learner = qs.Recurrent(GRU(4, 4, key=K), Prediction(4, 3, key=K), LabelFeedback(3))
    else:
        learner = REGISTRY[name].make()
    x = jnp.linspace(-1, 1, 4)[:, None]
    said = lambda y: (
        learner.apply(learner.adapt(learner.init(key=K), qs.Labelled(x, jnp.array(y)), key=K), x[0]).prediction
    )
    assert np.isfinite(said([0, 1, 2, 1])).all()
    assert np.isnan(said([0, 1, 2, label])).all()
    with pytest.raises(ValueError, match="labels are whole numbers, and these are float32"):
        said([0.0, 1.0, 2.0, 1.0])


X = np.arange(80, dtype=np.float64).reshape(40, 2)
GOOD = {"y": np.arange(40) % 8, "ways": 2, "shots": 1, "queries": 2, "held_out": (0.25, 0.25)}


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (X.astype(np.int64) + 3_000_000_125, "whole numbers up to 3000000204, which 32 bits cannot hold"),
        (X.astype(np.uint64) + 2**63, "which 32 bits cannot hold"),
        (X + 1.7e9, r"2 of 2 features.*feature 0 lies around 1.7e\+09 and differs by 78 at most; take its mean"),
        (X.astype(np.int32) + 1_700_000_000, "cannot be distinguished in 32 bits"),
        (X + 1j * np.nan, "real ones, got complex128"),
        (X.astype("datetime64[s]"), "must hold numbers"),
        (X.astype(object), "must hold numbers"),
    ],
)
def test_numbers_that_would_not_survive_are_refused(x, says):
    with pytest.raises(ValueError, match=says):
        from_arrays(x, **GOOD)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint32, np.float16, np.float64, bool])
def test_numbers_that_survive_are_kept(kind):
    stored = from_arrays(X.astype(kind), **GOOD).pool.items
    np.testing.assert_array_equal(np.asarray(stored), X.astype(kind))
    offset = from_arrays(X + 3000, **GOOD).pool.items
    np.testing.assert_array_equal(np.asarray(offset), X + 3000)


def test_sparse_features_and_mixed_labels_are_refused_with_the_mend():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(ValueError, match=r"x is sparse \(csr_array\): give x.toarray\(\)"):
        from_arrays(sparse.csr_array(X), **GOOD)
    for labels in (["a", 1] * 20, np.array(["a", None] * 20, object), ["a", None] * 20):
        with pytest.raises(ValueError, match=r"labels of several kinds .* have no order: make all of them text"):
            from_arrays(X, **{**GOOD, "y": labels})


# --- Where objects are made ------------------------------------------------------------------------------------------


def test_every_way_to_other_tasks_is_checked():
    tasks = from_arrays(X, **GOOD)
    assert dataclasses.replace(tasks, ways=4).ways == 4
    with pytest.raises(ValueError, match="5-way tasks need at least 5 training classes, and there are 4"):
        dataclasses.replace(tasks, ways=5)
    with pytest.raises(ValueError, match="3-way tasks need at least 3 validation classes, and there are 2"):
        dataclasses.replace(tasks, ways=3).split()
    with pytest.raises(ValueError, match=r"class \d has 5 examples, and a task takes 6"):
        dataclasses.replace(tasks, queries=5)
    train, validation, test = tasks.parts
    for parts, says in (
        ((train, validation, train[:2]), "classes in two parts would not be held out"),
        ((train, validation, (*test, test[0])), "a class twice in one part"),
        ((train, validation, (*test, 8)), "parts names classes"),
    ):
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(tasks, parts=parts)
    twice = eqx.tree_at(lambda t: t.members, tasks, jnp.array([train[0]] * 4))
    with pytest.raises(ValueError, match="members must be the classes of one of the parts"):
        dataclasses.replace(twice, shots=2)
    few = eqx.tree_at(lambda t: t.pool.counts, tasks, jnp.full(8, 2))
    with pytest.raises(ValueError, match="has 2 examples, and a task takes 3"):
        few.split()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Implicit(0.0), "strength=0.0 must be a finite number above 0"),
        (lambda: Implicit(float("nan")), "strength=nan"),
        (lambda: Implicit(1.0, 0), "solver_steps=0 must be a whole number of at least 1"),
        (lambda: qs.PolicyGradient(discount=1.5), r"discount=1.5 must lie in \[0, 1\]"),
        (lambda: qs.PolicyGradient(gae_lambda=-1), r"gae_lambda=-1 must lie in \[0, 1\]"),
        (lambda: qs.Prototypical(eqx.nn.Identity(), 3, 0), "ways=0 must be a whole number of at least 1"),
        (lambda: LogisticRegression(1, 3, 5, penalty=-1.0), "penalty=-1.0"),
        (lambda: qs.Matching(eqx.nn.Identity(), 3, capacity=0), "capacity=0"),
        (lambda: MLP((3,), key=K), "sizes run from the input to the output"),
        (lambda: LinearRecurrence(1, 2, key=K, most=1.0), "0 < least < most < 1"),
        (lambda: dataclasses.replace(REGISTRY["q-learning"].make(), discount=1.1), "discount=1.1"),
        (lambda: dataclasses.replace(REGISTRY["dqn"].make(), batch=0), "batch=0"),
        (lambda: dataclasses.replace(REGISTRY["mml"].make(), discount=2.0), "discount=2.0"),
        (lambda: dataclasses.replace(REGISTRY["ppo"].make(), gae_lambda=-0.1), "gae_lambda=-0.1"),
        (lambda: dataclasses.replace(REGISTRY["mdp-psrl"].make(), random=2.0), "random=2.0"),
    ],
)
def test_fields_out_of_range_are_refused_by_name(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_families_of_tasks_refuse_what_cannot_be_drawn():
    from quickstudy.tasks import bandits, corners, mazes, mdps, navigation, sinusoid, structured_bandits

    for make in (
        lambda: sinusoid.Sinusoids(0),
        lambda: sinusoid.SinusoidStreams(-1),
        lambda: bandits.Bandits(0),
        lambda: structured_bandits.OpposedBandits(1.5),
        lambda: structured_bandits.InformativeBandits(0),
        lambda: navigation.Navigation(within=-1.0),
        lambda: navigation.Navigation(beyond=0.6),
        lambda: corners.Corners(0),
        lambda: mdps.TabularMDPs(states=0),
        lambda: mdps.KernelMDPs(mixing=0.0),
        lambda: mazes.GoalGrids(2),
        lambda: mazes.Mazes(wind=1.5),
        lambda: mazes.Mazes(walls=1.0),
    ):
        with pytest.raises(ValueError, match=r"must|need"):
            make()


class Features(eqx.Module):
    random: object
    weights: jax.Array

    def __call__(self, x):
        return qs.Output(prediction=jnp.tanh(x * self.random.value).sum(keepdims=True) * self.weights)


def test_what_is_drawn_and_no_weight_must_not_depend_on_the_key():
    alike = lambda key: Features(qs.Frozen(jnp.ones(3)), jax.random.normal(key, (1,)))
    apart = lambda key: Features(qs.Frozen(jax.random.normal(key, (3,))), jnp.ones(1))
    assert RandomInit(alike).draw is alike
    for make in (RandomInit, lambda draw: FromScratch(draw, qs.Supervised(), qs.SGD(0.1))):
        make(alike)
        with pytest.raises(qs.Incompatible, match="tasks would share those of one draw"):
            make(apart)


def test_a_pool_costs_what_its_examples_cost_however_unlike_its_classes_are():
    y = np.concatenate([np.zeros(20_000, int), np.repeat(np.arange(1, 201), 20)])
    pool = pool_of(np.arange(len(y), dtype=np.float32)[:, None], y)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pool)) < 3 * pool.items.nbytes
    shuffled = np.random.default_rng(0).permutation(len(y))
    pool = pool_of(shuffled.astype(np.float32)[:, None], y[shuffled])
    for c in (0, 1, 57, 200):
        its = pool.items[pool.order[pool.starts[c] + jnp.arange(pool.counts[c])], 0]
        assert sorted(np.asarray(its).astype(int)) == np.flatnonzero(y == c).tolist()


# --- Compilations ----------------------------------------------------------------------------------------------------


class Compilations(logging.Handler):
    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        if record.getMessage().startswith("Compiling"):
            self.names.append(record.getMessage()[:60])


@pytest.mark.parametrize("name", ["maml", "logistic-regression", "matching-full-context", "mdp-psrl", "rl2-gru"])
def test_a_public_call_is_compiled_once(name):
    learner, experience = REGISTRY[name].make(), REGISTRY[name].experience(2)
    segment = lambda i: jax.tree.map(lambda leaf: leaf[i], experience)
    first, second = jax.random.split(K)

    def live(i, key):
        state = learner.adapt(learner.init(key=key), segment(i), key=key)
        return learner.apply(state, jax.tree.map(lambda leaf: leaf[0], segment(i).x))

    live(0, first)
    log, handler, before = logging.getLogger("jax"), Compilations(), jax.config.jax_log_compiles
    jax.config.update("jax_log_compiles", True)
    log.addHandler(handler)
    try:
        live(0, second)
        assert handler.names == []
        jax.jit(lambda x: x + 1)(jnp.arange(17))
        assert handler.names  # so that it would have been seen
    finally:
        log.removeHandler(handler)
        jax.config.update("jax_log_compiles", before)


def test_labels_in_a_list_are_no_constants_to_compile_for():
    learner = REGISTRY["prototypical"].make()
    x = jnp.linspace(-1, 1, 2)[:, None]
    traced = []
    spy = eqx.tree_at(lambda l: l.embed, learner, lambda x: traced.append(1) or learner.embed(x))
    for labels in ([0, 1], [1, 2], [2, 0]):
        state = spy.adapt(spy.init(key=K), qs.Labelled(x, labels), key=K)
    assert len(traced) == 1 and state.count.tolist() == [1, 0, 1]


def test_a_program_of_many_inner_steps_is_no_larger_than_one_of_few():
    def program(steps, **choices):
        learner = qs.Gradient(Predictor(MLP((1, 4, 1), key=K)), qs.Supervised(), qs.SGD(0.1), steps=steps, **choices)
        return str(jax.make_jaxpr(jax.grad(lambda w: told(learner, w)))(jnp.ones(())))

    def told(learner, w):
        x = jnp.linspace(-1, 1, 4)[:, None]
        state = learner.adapt(learner.init(key=K), qs.Labelled(w * x, x), key=K)
        return learner.apply(state, x[0]).prediction.sum()

    for choices in ({}, {"adjoint": Unrolled(checkpoint=True)}):
        assert program(3, **choices).count("dot_general") == program(30, **choices).count("dot_general")


def test_a_checkpointed_step_has_the_same_gradient():
    plain, again = (meta_gradient(qs.SGD(0.1), 3, Unrolled(checkpoint=c)) for c in (False, True))
    np.testing.assert_allclose(plain, again, rtol=1e-6)


# --- Other float types -----------------------------------------------------------------------------------------------

FAMILIES = [
    "maml", "imaml", "meta-lstm", "lstm-optimizer", "prototypical", "matching-full-context", "meta-networks", "mann",
    "task-memory", "mktn", "mktn-control", "mpo", "rl2-gru", "rl2-s5", "rl2-attention", "varibad", "mml", "sarsa",
    "ppo", "lpg", "dqn", "td3",
]  # fmt: skip


def cast(tree, kind):
    return jax.tree.map(lambda x: x.astype(kind) if eqx.is_inexact_array(x) else x, tree)


def lives_and_is_improved(learner, experience):
    """Shapes and types of two meta-steps by gradients and by evolution, in a loop as the trainer has it: all operations
    are traced, none is run."""
    from quickstudy.meta_optimizers.evolution import Evolution
    from quickstudy.parameters import combine, partition

    keys = jax.random.split(K, 3)
    state = eqx.filter_eval_shape(learner.init, key=K)
    after = eqx.filter_eval_shape(learner.adapt, state, jax.tree.map(lambda x: x[0], experience), key=K)
    kinds = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert kinds(state) == kinds(after)
    learned, rest = partition(learner)
    evolution, adam = Evolution(optax.adam(0.1), population=4), optax.adam(0.1)

    def loss(learned):
        learner = combine(learned, rest)
        said = learner.replay(learner.init(key=K), experience, key=keys)
        floats = [leaf for leaf in jax.tree.leaves(said) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return jnp.stack([(leaf.astype(float) ** 2).mean() for leaf in floats]).sum()

    def meta_step(carry, _):
        learned, memory, others = carry
        moves, memory = adam.update(jax.grad(loss)(learned), memory, learned)
        drawn = evolution.candidates(combine(learned, rest), others, key=K)
        chosen = jax.tree.map(lambda leaf: leaf[0], partition(drawn)[0])
        return (optax.apply_updates(chosen, moves), memory, others), None

    begin = learned, adam.init(learned), evolution.init(learner)
    jax.eval_shape(lambda begin: jax.lax.scan(meta_step, begin, None, length=2)[0], begin)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_16_bits_are_improved(name):
    lives_and_is_improved(cast(REGISTRY[name].make(), jnp.bfloat16), REGISTRY[name].experience(3))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_32_bits_are_improved_where_64_are_allowed(name):
    with jax.enable_x64(True):
        learner, experience = REGISTRY[name].make(), REGISTRY[name].experience(3)
        lives_and_is_improved(cast(learner, jnp.float32), cast(experience, jnp.float32))
        lives_and_is_improved(cast(learner, jnp.float64), experience)


def test_images_meet_weights_of_any_type():
    image = jnp.zeros((28, 28, 1), jnp.uint8)
    for kind in (jnp.bfloat16, jnp.float32):
        for net in (images.Conv4((28, 28, 1), key=K, filters=8), images.ResNet((28, 28, 1), key=K, filters=(8,))):
            said = jax.eval_shape(lambda image: cast(net, kind)(image), image)
            assert said.dtype == kind
