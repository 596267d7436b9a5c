"""What two devices share must come to what one does alone. Run by test_devices.py, where JAX is started with two."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from quickstudy.config import ConfigError, Training
from quickstudy.core import Incompatible
from quickstudy.display.events import quiet
from quickstudy.meta_optimizers.backprop import Backprop, mean_gradient
from quickstudy.meta_optimizers.evolution import Evolution
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.trial import Trial
from quickstudy.parallel.mesh import choose
from quickstudy.parallel.program import ShardedProgram, tasks_along
from quickstudy.parallel.reduce import DEVICES
from quickstudy.parameters import combine, partition
from quickstudy.rl import losses
from quickstudy.runs import RunFolder
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.sinusoid import Sinusoids
from quickstudy.train.loop import Loop
from quickstudy.train.run import train
from registry import gradient, recurrent

CONFIG = Training(meta_steps=6, meta_batch=4, log_every=2, save_every=2, validate_every=-1)
MESH = jax.sharding.Mesh(np.asarray(jax.devices()), (DEVICES,))
TERMS = ((1.0, losses.ppo()), (0.5, losses.value))


def shared(f, arguments, results):
    return jax.jit(jax.shard_map(f, mesh=MESH, in_specs=arguments, out_specs=results, check_vma=False))


def start(kind, out=None, **more):
    config = more.pop("config", CONFIG)
    if kind == "lifetimes":  # unfinished lives wait on the device that lives them, over the checkpoint at step 2
        tasks = Bandits(3)
        trial = Trial(tasks.environment, trial_length=6, terms=TERMS, bptt_length=2)
        optimizer = Backprop(optax.adam(1e-2), epochs=2, minibatches=2)
        return train(recurrent(), trial, optimizer, tasks, config=config, out=out, listener=quiet, **more)
    optimizer = Evolution(optax.adam(1e-2), population=4) if kind == "evolution" else Backprop(optax.adam(1e-2))
    return train(gradient(), FewShot(), optimizer, Sinusoids(), config=config, out=out, listener=quiet, **more)


def test_the_gradient_is_that_of_all_tasks(key):
    learner, objective = gradient(), FewShot()
    batch, _ = objective.collect(learner, (), Sinusoids().sample(4, key=key), key=key)
    of = lambda batch: tuple(mean_gradient(objective, learner, batch)[i] for i in (0, 2))
    losses_apart, apart = shared(of, (P(DEVICES),), (P(DEVICES), P()))(batch)
    losses_whole, whole = of(batch)
    np.testing.assert_allclose(losses_apart, losses_whole, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (apart, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_task_that_diverges_on_one_device_is_left_out_on_both(key):
    learner, objective = gradient(), FewShot()
    tasks = Sinusoids().sample(4, key=key)
    batch, _ = objective.collect(learner, (), tasks, key=key)
    batch = jax.tree.map(lambda x: x.at[3].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x, batch)
    of = lambda batch: tuple(mean_gradient(objective, learner, batch)[i] for i in (2, 3))
    apart, diverged = shared(of, (P(DEVICES),), (P(), P(DEVICES)))(batch)
    whole, _ = of(batch)
    assert diverged.tolist() == [False, False, False, True]
    for a, b in zip(*map(jax.tree.leaves, (apart, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_advantages_are_normalised_over_the_tasks_of_both(key):
    tasks, learner = Bandits(3), recurrent()
    trial = Trial(tasks.environment, trial_length=6, terms=TERMS)
    live = lambda arms: trial.collect(learner, (), arms, key=key)[0].advantage
    arms = tasks.sample(4, key=key)
    both = np.asarray(shared(live, (P(DEVICES),), P(DEVICES))(arms))
    np.testing.assert_allclose([both.mean(), both.std()], [0, 1], atol=1e-3)
    assert abs(both[:2].mean()) > 1e-3  # each half alone is not


@pytest.mark.parametrize("kind", ["backprop", "evolution", "lifetimes"])
def test_interrupted_is_never_interrupted(tmp_path, kind):
    whole = start(kind, tmp_path / "run")
    assert whole.about["config"]["devices"] == 2
    resumed = start(kind, tmp_path / "run", resume=2)
    assert resumed.digests == whole.digests
    single = start(kind, config=Training(**{**vars(CONFIG), "devices": 1}))
    assert single.digests["learner"] != whole.digests["learner"]  # each device draws tasks of its own
    shapes = lambda result: jax.tree.map(jnp.shape, partition(result.learner)[0])
    assert shapes(single) == shapes(whole)


def test_each_device_draws_tasks_of_its_own():
    tasks = Sinusoids()
    loop = Loop(gradient(), Backprop(optax.sgd(0.0)), tasks, [(6, FewShot())], CONFIG)
    drawn, living, improving = shared(
        lambda key: tuple(k.reshape(-1) if i else k for i, k in enumerate(loop._sample(tasks, key, jnp.uint32(0)))),
        (P(),), (P(DEVICES), P(DEVICES), P()),
    )(jax.random.key(0))  # fmt: skip
    assert len(np.unique(drawn.support.y[:, 0, 0])) == CONFIG.meta_batch
    assert len(np.unique(jax.random.key_data(living), axis=0)) == 2
    assert improving.shape == (1,)


def test_a_mean_over_a_devices_own_tasks_is_found_out():
    class Forgetful(Backprop):
        def update(self, objective, learner, memory, batch, *, key):
            learned, rest = partition(learner)
            mean = lambda learned: objective.loss(combine(learned, rest), batch)[0].mean()
            loss, own = jax.value_and_grad(mean)(learned)
            moved = jax.tree.map(lambda w, g: w - 0.1 * g, learned, own)
            of_tasks = jnp.broadcast_to(loss, CONFIG.meta_batch // 2)
            return combine(moved, rest), memory, {"loss": of_tasks, "diverged": jnp.isnan(of_tasks)}

    with pytest.raises(Incompatible, match="sum_over_devices"):
        train(gradient(), FewShot(), Forgetful(optax.sgd(0.1)), Sinusoids(), config=CONFIG, listener=quiet)


def test_as_many_devices_as_divide_the_minibatches():
    assert [choose(0, 4, 1), choose(0, 5, 1), choose(0, 6, 3), choose(0, 6, 2), choose(1, 4, 1)] == [2, 1, 2, 1, 1]
    with pytest.raises(ConfigError, match="devices=3, but JAX has 2; on a CPU set jax_num_cpu_devices"):
        choose(3, 6, 1)
    with pytest.raises(ConfigError, match="devices=2 do not divide 5 tasks; use 1"):
        choose(2, 5, 1)


def test_a_shared_program_gives_back_whole_arrays_on_the_first_device():
    double = lambda mine, at: (mine * 2, mine.sum()[None] + at)
    program = ShardedProgram(double, 2, (tasks_along(1), P()), (tasks_along(1), tasks_along(0)), (np.ones((3, 4)), 0.0))
    doubled, sums = program(jnp.arange(12.0).reshape(3, 4), 1.0)
    assert doubled.devices() == sums.devices() == {jax.local_devices()[0]}
    np.testing.assert_array_equal(doubled, 2 * np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(sums, [28, 40])


def test_what_devices_cannot_share_is_refused():
    class Counting(FewShot):
        def init(self, learner, tasks, *, key):
            return jnp.zeros(())

    class OnHost(FewShot):
        on_device = False

    config = Training(**{**vars(CONFIG), "devices": 2})
    with pytest.raises(Incompatible, match="leading axis of tasks"):
        train(gradient(), Counting(), Backprop(optax.sgd(0.1)), Sinusoids(), config=config, listener=quiet)
    with pytest.raises(ConfigError, match="lives on the host"):
        train(gradient(), OnHost(), Backprop(optax.sgd(0.1)), Sinusoids(), config=config, listener=quiet)


def test_a_run_from_before_there_were_devices_had_one(tmp_path):
    start("backprop", tmp_path / "run", config=Training(**{**vars(CONFIG), "devices": 1}))
    about = RunFolder(tmp_path / "run").read_json("run.json")
    del about["config"]["devices"]
    RunFolder(tmp_path / "run").write_json("run.json", about)
    assert start("backprop", tmp_path / "run", resume=2).about["config"]["devices"] == 1


def test_a_chunk_need_not_divide_a_devices_tasks(key):
    learner, objective = gradient(), FewShot()
    batch, _ = objective.collect(learner, (), Sinusoids().sample(6, key=key), key=key)
    whole, in_parts = (mean_gradient(objective, learner, batch, chunk=chunk)[2] for chunk in (None, 4))
    for a, b in zip(*map(jax.tree.leaves, (whole, in_parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
