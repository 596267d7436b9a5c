"""What is drawn does not depend on layout: run with four devices by test_devices.py."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from quickstudy.config import Training
from quickstudy.data.batches import Labelled
from quickstudy.display.events import quiet
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.evaluate.run import evaluate
from quickstudy.learners.memory.recurrent import ActorCritic, OutcomeFeedback, Recurrent
from quickstudy.learners.metric.prototypical import Prototypical
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.meta_optimizers.evolution import Evolution
from quickstudy.nn.cells import GRU
from quickstudy.nn.measures import accuracy, cross_entropy
from quickstudy.nn.models import MLP
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.trial import Trial
from quickstudy.rl import losses
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.classes import from_arrays
from quickstudy.tasks.sinusoid import Sinusoids
from quickstudy.train.run import train
from registry import gradient

TERMS = ((1.0, losses.ppo()), (0.5, losses.value))
K = jax.random.split(jax.random.key(5), 4)
CONFIG = Training(meta_steps=1, meta_batch=16, log_every=1, validate_every=-1)


def classes():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(40), 20)
    return from_arrays(y[:, None] + rng.normal(size=(800, 3)), y, ways=3, shots=2, queries=4)


def recurrent():
    feedback = OutcomeFeedback(3)
    return Recurrent(GRU(feedback.size, 8, key=K[0]), ActorCritic(8, 3, key=K[1]), feedback)


def bandit():
    return Trial(Bandits(3).environment, trial_length=6, terms=TERMS)


FEW_SHOT = FewShot(of_loss=cross_entropy, of_score=accuracy, metric="accuracy", lower_is_better=False)
PARTS = {
    "gradient": lambda: (gradient(), FewShot(), Backprop(optax.adam(1e-2)), Sinusoids()),
    "recurrent": lambda: (recurrent(), bandit(), Backprop(optax.adam(1e-2), epochs=2, minibatches=2), Bandits(3)),
    "evolution": lambda: (recurrent(), bandit(), Evolution(optax.adam(1e-2), population=4), Bandits(3)),
    "few-shot": lambda: (Prototypical(MLP((3, 8, 4), key=K[2]), 4, 3), FEW_SHOT, Backprop(optax.adam(1e-2)), classes()),
}


def first_losses(kind, devices):
    """Of each task in the first meta-step."""
    learner, objective, meta_optimizer, tasks = PARTS[kind]()
    from quickstudy.train.loop import Loop

    config = dataclasses.replace(CONFIG, devices=devices)
    loop = Loop(learner, meta_optimizer, tasks.split().train, [(1, objective)], config)
    progress = loop.begin()
    _, metrics = loop.program(0, progress)(progress, 0, 1)
    return metrics["loss"][0]


@pytest.mark.parametrize("kind", PARTS)
def test_losses_of_the_first_meta_step_do_not_depend_on_the_number_of_devices(kind):
    one, two, four = (first_losses(kind, devices) for devices in (1, 2, 4))
    assert one.shape == (16,) and len(np.unique(one)) > 3
    np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(four, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", PARTS)
def test_held_out_scores_do_not_depend_on_the_chunk(kind):
    learner, objective, _, tasks = PARTS[kind]()
    test = tasks.split().test
    of = lambda chunk: evaluate(
        learner, objective, test, evaluation=EvaluationConfig(objective, num_tasks=20, chunk=chunk)
    )  # fmt: skip
    one, seven, whole = (of(chunk) for chunk in (1, 7, 20))
    for other in (one, seven):
        np.testing.assert_allclose(other.values, whole.values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(other.curves, whole.curves, rtol=1e-6, atol=1e-6)


def test_the_first_held_out_tasks_are_the_same_for_any_number():
    test = Sinusoids().split().test
    few, many = test.tasks(3), test.tasks(50)
    np.testing.assert_array_equal(few.support.x, many.support.x[:3])
    np.testing.assert_array_equal(test.tasks(jax.numpy.array([7, 2])).support.x, many.support.x[np.array([7, 2])])
    assert isinstance(few.support, Labelled)


def test_a_run_that_goes_on_with_other_devices_draws_the_same(tmp_path):
    parts = PARTS["gradient"]()
    config = dataclasses.replace(CONFIG, meta_steps=6, save_every=2, devices=1)
    alone = train(*parts, config=config, out=tmp_path / "run", listener=quiet)
    more = train(
        *parts, config=dataclasses.replace(config, devices=4), out=tmp_path / "run", resume=2, listener=quiet
    )  # fmt: skip
    for a, b in zip(jax.tree.leaves(alone.learner), jax.tree.leaves(more.learner), strict=True):
        if isinstance(a, jax.Array):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
