"""The loop: bit-exact resume, nothing that changes the bits, divergence, refusals."""

import dataclasses
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quickstudy.baselines import bandits
from quickstudy.config import ConfigError, Training
from quickstudy.core import Incompatible, TaskDistribution, split_by_stream
from quickstudy.display.events import quiet
from quickstudy.learners.gradient.updates import SGD
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.meta_optimizers.evolution import Evolution
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.online import Online
from quickstudy.objectives.trial import Trial
from quickstudy.parallel.keys import Stream, stream, task_keys
from quickstudy.rl import losses
from quickstudy.runs import METRICS, CheckpointRefused, FolderInUse, RunFolder
from quickstudy.runs.load import load
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.sinusoid import Sinusoids
from quickstudy.train.checks import TrainingFailed, check_kinds
from quickstudy.train.interrupts import Interrupted
from quickstudy.train.loop import RUN_STREAM
from quickstudy.train.run import train
from registry import K, gradient, recurrent

CONFIG = Training(meta_steps=12, meta_batch=4, log_every=2, save_every=4, validate_every=-1)
TERMS = ((1.0, losses.ppo()), (0.5, losses.value))


def run(out=None, config=CONFIG, optimizer=None, **more):
    optimizer = optimizer or Backprop(optax.adam(1e-2))
    return train(gradient(), FewShot(), optimizer, Sinusoids(), config=config, out=out, **{"listener": quiet, **more})


def log(path):
    return (path / METRICS).read_bytes()


@pytest.mark.parametrize("kind", ["backprop", "evolution", "unfinished trials"])
def test_interrupted_is_never_interrupted(tmp_path, kind):
    def start(out, **more):
        if (
            kind == "unfinished trials"
        ):  # bptt_length 2 of trial_length 6: the objective's memory crosses the checkpoint at step 4
            tasks = Bandits(3)
            trial = Trial(tasks.environment, trial_length=6, terms=TERMS, bptt_length=2)
            optimizer = Backprop(optax.adam(1e-2), epochs=2, minibatches=2)
            return train(recurrent(), trial, optimizer, tasks, config=CONFIG, out=out, listener=quiet, **more)
        return run(out, optimizer=Evolution(optax.adam(1e-2), population=4) if kind == "evolution" else None, **more)

    whole = start(tmp_path / "whole")
    again = start(tmp_path / "again")
    assert again.digests == whole.digests
    resumed = start(tmp_path / "again", resume=4)
    assert resumed.digests == whole.digests
    assert log(tmp_path / "again") == log(tmp_path / "whole")


def test_logging_saving_and_validating_never_change_the_bits(tmp_path):
    plain = run().digests["learner"]
    seldom = ({"log_every": every, "save_every": every} for every in (5, 12))
    for changes in ({"log_every": 1}, *seldom, {"save_every": 3}, {"validate_every": 4}):
        changed = run(tmp_path / str(changes), dataclasses.replace(CONFIG, **changes))
        assert changed.digests["learner"] == plain, changes


def test_another_seed_is_another_run():
    assert run().digests["learner"] != run(config=dataclasses.replace(CONFIG, seed=1)).digests["learner"]


def test_the_callers_learner_is_left_alone():
    learner = gradient()
    before = jax.tree.map(np.array, eqx.filter(learner, eqx.is_array))
    result = train(learner, FewShot(), Backprop(optax.sgd(0.1)), Sinusoids(), config=CONFIG, listener=quiet)
    after, trained = (jax.tree.leaves(eqx.filter(of, eqx.is_array)) for of in (learner, result.learner))
    for old, own, new in zip(jax.tree.leaves(before), after, trained, strict=True):
        np.testing.assert_array_equal(old, own)
        assert (old != new).any()


class OneTask(TaskDistribution):
    """Always the same sinusoid."""

    def sample(self, *, key):
        return Sinusoids().sample(key=jax.random.key(3))

    def split(self):
        return split_by_stream(self)


def test_one_task_is_no_distribution_and_is_refused():
    def said(tasks):
        events = []
        train(gradient(), FewShot(), Backprop(optax.sgd(0.1)), tasks, config=CONFIG, listener=events.append)
        return [event["text"] for event in events if event["event"] == "warning"]

    assert said(Sinusoids()) == []
    assert len(said(OneTask())) == 1 and "one and the same" in said(OneTask())[0]


def test_a_curriculum_changes_the_objective_and_survives_a_resume(tmp_path):
    tasks = Bandits(3)
    trial = lambda trial_length: Trial(tasks.environment, trial_length=trial_length, terms=TERMS)
    start = lambda out, **more: train(
        recurrent(), trial(4), Backprop(optax.adam(1e-2)), tasks,
        config=CONFIG, curriculum=[(3, trial(2)), (2, trial(3))], out=out, listener=quiet, **more,
    )  # fmt: skip
    whole = start(tmp_path / "a")
    assert [line["step"] for line in RunFolder(tmp_path / "a").lines(METRICS)] == [2, 3, 4, 5, 6, 8, 10, 12]
    assert start(tmp_path / "a", resume=4).digests == whole.digests
    with pytest.raises(ConfigError, match="curriculum"):
        train(recurrent(), trial(4), Backprop(optax.adam(1e-2)), tasks, config=CONFIG, curriculum=[(12, trial(2))])


class Poisoned(TaskDistribution):
    """Sinusoids of which a share has a label that is not a number."""

    share: float = eqx.field(static=True)

    def poisoned(self, key):
        return jax.random.uniform(key) < self.share

    def sample(self, *, key):
        task = Sinusoids().sample(key=key)
        bad = jnp.where(self.poisoned(key), jnp.nan, 0.0)
        return eqx.tree_at(lambda t: t.support.y, task, task.support.y.at[0].add(bad))

    def split(self):
        return split_by_stream(self)


def drawn_keys(step, num=CONFIG.meta_batch):
    """The keys that draw the tasks of a meta-step."""
    run = jax.random.fold_in(jax.random.key(CONFIG.seed), RUN_STREAM)
    return stream(task_keys(jax.random.fold_in(run, step), jnp.arange(num)), Stream.DRAW)


def test_diverged_tasks_are_counted_named_and_left_out(tmp_path):
    tasks = Poisoned(0.3)
    result = train(
        gradient(), FewShot(), Backprop(optax.adam(1e-2)), tasks,
        config=dataclasses.replace(CONFIG, max_diverged=1.0), out=tmp_path, listener=quiet,
    )  # fmt: skip
    lines = RunFolder(tmp_path).lines(METRICS)
    ill = np.array([[bool(tasks.poisoned(key)) for key in drawn_keys(step)] for step in range(12)])
    assert 0 < ill.sum() < ill.size
    assert [line["diverged"] for line in lines] == ill.reshape(6, 2, -1).sum((1, 2)).tolist()
    named = [where for line in lines for where in line.get("diverged_tasks", [])]
    assert named == np.argwhere(ill).tolist()
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(eqx.filter(result.learner, eqx.is_array)))


def _derivative_of_none(prediction, y):
    """Squared error, whose derivative is not a number where the label is negative."""
    bad = jnp.where(y[0] < 0, 0.0, 1.0)
    return (prediction[0] - y[0]) ** 2 + 0 * jnp.sqrt(bad * prediction[0] ** 2)


@pytest.mark.parametrize("on_device", [True, False])
def test_a_step_whose_gradient_is_not_finite_is_taken_again_carefully(on_device):
    """Whatever the chunk: the same tasks are left out, and the learner is the same but for the order of sums."""

    class OnHost(FewShot):
        on_device = False

    objective = (FewShot if on_device else OnHost)(of_loss=_derivative_of_none)

    def run(chunk):
        events = []
        optimizer = Backprop(optax.sgd(1e-3), chunk=chunk)
        config = dataclasses.replace(CONFIG, max_diverged=1.0)
        result = train(gradient(), objective, optimizer, Sinusoids(2, 1), config=config, listener=events.append)
        return result, [(e["diverged"], e.get("diverged_tasks")) for e in events if e["event"] == "metrics"]

    (together, named), (alone, named_alone) = run(None), run(1)
    assert named == named_alone
    assert 0 < sum(diverged for diverged, _ in named) < 48
    for a, b in zip(jax.tree.leaves(together.learner), jax.tree.leaves(alone.learner), strict=True):
        if isinstance(a, jax.Array):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_too_many_diverged_tasks_end_the_run_and_keep_the_last_good_one(tmp_path):
    config = dataclasses.replace(CONFIG, max_diverged=0.2)
    with pytest.raises(TrainingFailed, match=r"\d of 8 tasks diverged.*\[\d, \d\].*max_diverged"):
        train(gradient(), FewShot(), Backprop(optax.adam(1e-2)), Poisoned(0.7), config=config, listener=quiet)
    with pytest.raises(TrainingFailed, match="checkpoint of step 4"):
        explode = Backprop(
            optax.chain(optax.sgd(1.0), optax.scale_by_schedule(lambda i: jnp.where(i < 5, 1e-3, jnp.inf)))
        )
        train(gradient(), FewShot(), explode, Sinusoids(), config=CONFIG, out=tmp_path, listener=quiet)
    learner = load(tmp_path, like=gradient()).learner
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(eqx.filter(learner, eqx.is_array)))


def test_a_signal_saves_and_says_where(tmp_path):
    def interrupt(event):
        if event["event"] == "metrics" and event["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 6"):
        run(tmp_path, listener=lambda e: interrupt(e))
    assert RunFolder(tmp_path).steps()[-1] in (6, 8)
    whole = run(None)
    step = RunFolder(tmp_path).newest()
    assert run(tmp_path, resume=step).digests == whole.digests


def test_a_value_loss_that_drowns_the_policy_is_said_once():
    class Rich(Bandits):
        @property
        def environment(self):
            plain = Bandits(3).environment
            return type(plain)(pay=lambda worth, key: 1000.0 * plain.pay(worth, key))

    def warnings(tasks, **changes):
        events = []
        trial = Trial(tasks.environment, trial_length=4, terms=TERMS, **changes)
        train(recurrent(), trial, Backprop(optax.adam(1e-3)), tasks, config=CONFIG, listener=events.append)
        return [event["text"] for event in events if "drown" in event.get("text", "")]

    assert len(warnings(Rich(3), normalise_values=False)) == 1
    assert warnings(Rich(3)) == [] == warnings(Bandits(3), normalise_values=False)


def test_what_train_refuses():
    with pytest.raises(ConfigError, match="meta_steps"):
        run(config=Training(meta_steps=-1, meta_batch=0))
    with pytest.raises((ConfigError, TypeError)):
        train(gradient(), FewShot(), Backprop(optax.sgd(0.1)), Sinusoids().split().test, config=CONFIG)


def test_a_folder_is_one_runs(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        run(tmp_path)
    with RunFolder(tmp_path).locked(), pytest.raises(FolderInUse, match=str(os.getpid())):
        run(tmp_path, resume=4)


def test_save_load_adapt_on_ones_own_data(tmp_path):
    result = run(config=dataclasses.replace(CONFIG, meta_steps=2))
    result.save(tmp_path / "mine")
    learner = load(tmp_path / "mine", like=gradient()).learner
    support = jax.tree.map(lambda x: x[0], Sinusoids().batch(jax.random.split(K, 1))).support
    state = learner.adapt(learner.init(key=K), support, key=K)
    ours = result.learner.adapt(result.learner.init(key=K), support, key=K)
    np.testing.assert_array_equal(
        learner.apply(state, support.x[0]).prediction, result.learner.apply(ours, support.x[0]).prediction
    )
    with pytest.raises(CheckpointRefused, match="of another model"):
        load(tmp_path / "mine", like=gradient(SGD(jnp.asarray(0.1))))


def test_parts_in_the_wrong_places_are_named():
    with pytest.raises(ConfigError, match=r"MetaOptimizer for its meta-optimizer.*goes into Backprop"):
        check_kinds(gradient(), FewShot(), optax.adam(1e-3), Sinusoids())
    with pytest.raises(ConfigError, match="Learner for its learner, got FewShot"):
        check_kinds(FewShot(), gradient(), Backprop(optax.adam(1e-3)), Sinusoids())


def test_tasks_that_an_objective_cannot_take_are_named():
    optimizer, config = Backprop(optax.adam(1e-3)), Training(meta_steps=1)
    with pytest.raises(Incompatible, match=r"FewShot takes .* \(FewShotTask\), got .*Trial environments"):
        train(gradient(), FewShot(), optimizer, Bandits(2), config=config, listener=quiet)
    with pytest.raises(Incompatible, match="Online takes labelled streams"):
        train(gradient(), Online(), optimizer, Sinusoids(), config=config, listener=quiet)


def test_what_has_nothing_to_learn_is_not_trained():
    optimizer, trial = Backprop(optax.adam(1e-3)), Trial(Bandits(2).environment, 4)
    with pytest.raises(ConfigError, match="no meta-parameters, so nothing is trained: use meta_steps=0"):
        train(bandits.thompson(2), trial, optimizer, Bandits(2), config=Training(meta_steps=3), listener=quiet)


def test_a_validation_that_finds_nothing_finite_is_reported_and_training_goes_on(tmp_path):
    said = []
    wild = gradient(SGD(1e30))
    config = dataclasses.replace(CONFIG, meta_steps=4, validate_every=2, max_diverged=1.0)
    train(wild, FewShot(), Backprop(optax.adam(1e-3)), Sinusoids(), config=config, out=tmp_path, listener=said.append)
    assert any("validation at step 2" in event.get("text", "") for event in said)
    assert RunFolder(tmp_path).steps()[-1] == 4


def test_a_folder_with_checkpoints_of_something_else_is_left_alone(tmp_path):
    theirs = tmp_path / "checkpoints" / "00005000"
    theirs.mkdir(parents=True)
    (theirs / "weights.pt").write_text("precious")
    with pytest.raises(ConfigError, match="no run of ours made"):
        run(tmp_path)
    assert (theirs / "weights.pt").exists()


def test_a_learner_is_not_saved_over_a_run_without_meta_steps(tmp_path):
    config = dataclasses.replace(CONFIG, meta_steps=0)
    run(tmp_path / "run", config)
    with pytest.raises(ConfigError, match="holds a run"):
        run(None, config).save(tmp_path / "run")


def test_saves_and_validations_more_often_than_lines_are_refused_and_set_the_lines_by_default():
    wrong = Training(meta_steps=100, log_every=50, save_every=10).errors()
    assert wrong and "save_every=10 is less than log_every=50" in wrong[0]
    assert Training(meta_steps=10_000, save_every=10).log_interval == 10
    assert Training(meta_steps=10_000).log_interval == 50
