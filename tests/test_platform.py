"""Programs for accelerators, built and looked at on a CPU: loops of fixed length, and lowering for CUDA."""

import jax
import jax.numpy as jnp
import pytest

from quickstudy.nn.convolution import choose
from quickstudy.parallel.platform import on_accelerator, program_for, program_platform
from quickstudy.parameters import combine, partition
from quickstudy.rl.planning import value_iteration
from quickstudy.tasks.mazes import Mazes, distances
from registry import REGISTRY

# What may turn an unknown number of times on an accelerator, and why.
UNKNOWN_TURNS = {"logistic-regression": "the line search of optax's L-BFGS"}


def program(name):
    """(f, arguments): initialisation, a replay and an adaptation of a learner, differentiated where it can be."""
    row = REGISTRY[name]
    learner, experience = row.make(), row.experience(2)
    learned, rest = partition(learner)

    def run(learned, experience):
        learner = combine(learned, rest)
        first, second, third = jax.random.split(jax.random.key(0), 3)
        state = learner.init(key=first)
        outputs = learner.replay(state, experience, key=jax.random.split(second, 2))
        return outputs, learner.adapt(state, jax.tree.map(lambda x: x[0], experience), key=third)

    def loss(learned, experience):
        leaves = jax.tree.leaves(run(learned, experience)[0])
        return sum((x**2).sum() for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))

    differentiable = learner.differentiable and jax.tree.leaves(learned)
    return (jax.grad(loss) if differentiable else run), (learned, experience)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def loops(f, *arguments):
    """Loops whose number of turns is not known when the program is built."""
    return [e for e in equations(jax.make_jaxpr(f)(*arguments).jaxpr) if e.primitive.name == "while"]


@pytest.mark.parametrize("name", REGISTRY)
def test_loops_of_learners_have_a_fixed_length_on_accelerators(name):
    f, arguments = program(name)
    with program_for("gpu"):
        assert bool(loops(f, *arguments)) == (name in UNKNOWN_TURNS)


@pytest.mark.parametrize("name", ["maml", "imaml", "rl2-attention", "mdp-psrl", "r-max", "mml", "mpo"])
def test_programs_lower_for_cuda_without_a_device(name):
    f, arguments = program(name)
    with program_for("gpu"):
        exported = jax.export.export(jax.jit(f), platforms=("cuda",))(*arguments)
    assert exported.platforms == ("cuda",)


def test_distances_are_the_same_on_accelerators():
    wall = Mazes(5, walls=0.4)._walls(jax.random.key(1))
    with program_for("gpu"):
        there = jax.jit(distances)(wall, jnp.zeros((), int))
        assert not loops(distances, wall, jnp.zeros((), int))
    assert (there == distances(wall, jnp.zeros((), int))).all()


def test_the_platform_is_an_argument_and_no_trace_is_reused_on_another():
    plan = jax.jit(lambda reward: value_iteration(reward, jnp.ones((2, 2, 2)) / 2, 0.9))
    reward = jnp.ones((2, 2))
    assert program_platform() == jax.default_backend()
    for _ in range(2):
        assert loops(plan, reward) and not on_accelerator() and choose(1, 64, 14) == "winograd"
        with program_for("gpu"):
            assert not loops(plan, reward) and on_accelerator() and choose(1, 64, 14) == "xla"
            with program_for("cpu"):
                assert loops(plan, reward)
