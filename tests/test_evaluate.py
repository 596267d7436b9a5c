"""The meta-test: what is left out when something diverges, and that whole trials are rolled out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.baselines import bandits
from quickstudy.core import Splits, TaskDistribution, split_by_stream
from quickstudy.data.batches import Labelled
from quickstudy.evaluate.config import Drawing, EvaluationConfig
from quickstudy.evaluate.run import evaluate
from quickstudy.evaluate.signature import signatures
from quickstudy.learners.gradient.updates import SGD
from quickstudy.learners.metric.prototypical import Prototypical
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.online import Online
from quickstudy.objectives.trial import Trial
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.sinusoid import Sinusoids
from registry import gradient


def test_a_task_in_which_a_baseline_diverges_is_left_out_of_its_figures_and_noted():
    held_out = Sinusoids(5, 5).split().test
    # Adapting blows up where labels are large: in some tasks, not in all.
    wild = gradient(SGD(0.5), steps=60)
    alone = evaluate(wild, FewShot(), held_out, evaluation=EvaluationConfig(FewShot(), num_tasks=60))
    assert 0 < len(alone.diverged) < 60
    evaluation = EvaluationConfig(
        FewShot(), num_tasks=60, baselines={"wild": wild, "hopeless": gradient(SGD(1e9), steps=9)}
    )
    result = evaluate(gradient(), FewShot(), held_out, evaluation=evaluation)
    assert result.diverged == [] and np.isfinite(result.score)
    baseline = result.baselines["wild"]
    assert baseline["difference"]["n"] == 60 - len(alone.diverged)
    assert baseline["score"] == alone.score and baseline["curve"][-1]["mean"] == pytest.approx(baseline["score"])
    assert f"wild was not finite in {len(alone.diverged)} tasks" in result.note
    assert "hopeless" not in result.baselines and "hopeless was not finite in 60 tasks" in result.note


class Unbalanced(TaskDistribution):
    """Streams of 6 examples whose classes come up as chance has it."""

    def sample(self, *, key):
        y = jax.random.randint(key, (6,), 0, 2)
        return Labelled(jax.nn.one_hot(y, 2), y)

    def split(self) -> Splits:
        return split_by_stream(self)


def test_a_class_that_comes_up_too_seldom_costs_its_task_a_point_and_not_the_score():
    baseline = Prototypical(lambda x: x, 2, 2)
    hit = lambda prediction, y: (prediction.argmax() == y).astype(float)
    objective = Online(hit, hit, "accuracy", lower_is_better=False, instances=5)
    result = evaluate(
        baseline, objective, Unbalanced().split().test, evaluation=EvaluationConfig(objective, num_tasks=40)
    )
    assert np.isnan(result.curves).any() and result.diverged == [] and np.isfinite(result.values).all()
    assert all(np.isfinite(point["mean"]) for point in result.curve)


def test_a_trial_in_parts_is_tested_as_a_whole():
    tasks = Bandits(3)
    whole = Trial(tasks.environment, trial_length=12, baseline="none", normalise=False)
    in_windows = Trial(tasks.environment, trial_length=12, bptt_length=2, baseline="none", normalise=False)
    score = lambda trial: (
        evaluate(bandits.thompson(3), trial, tasks.split().test, evaluation=EvaluationConfig(trial, num_tasks=50)).score
    )
    assert score(in_windows) == score(whole) > 3


def test_one_task_can_be_drawn():
    draw = Drawing("wind", lambda learner, config, task, rollout: {"wind": jnp.zeros(1)})
    evaluation = EvaluationConfig(FewShot(), num_tasks=1, draw=draw)
    result = evaluate(gradient(), FewShot(), Sinusoids(5, 5).split().test, evaluation=evaluation)
    assert result.n == 1 and result.drawn["tasks/task"].tolist() == [0] * 5
    assert result.summary()["drawings"] == {"tasks": "wind"}


def test_signatures_tell_tasks_apart_and_know_them_again():
    held_out = Sinusoids(5, 5).split()
    ten, twenty = (signatures(held_out.test.tasks(num)) for num in (10, 20))
    np.testing.assert_allclose(ten, twenty[:10], rtol=1e-5)
    assert np.ptp(twenty) > 0.1 and len(set(np.round(twenty, 5))) == 20
    assert not np.isclose(ten, signatures(held_out.validation.tasks(10)), rtol=1e-3).any()
    goals = signatures(
        {"goal": jnp.arange(6), "key": jax.random.split(jax.random.key(0), 6), "nothing": jnp.zeros((6, 0))}
    )
    assert len(set(goals)) == 6
