"""What two devices share must come to what one does alone. Run by test_devices.py, where JAX is started with two."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from per_task import BLANK, per_task
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
    if kind == "unfinished trials":  # they wait on the device that rolls them out, over the checkpoint at step 2
        tasks = Bandits(3)
        trial = Trial(tasks.environment, trial_length=6, terms=TERMS, bptt_length=2)
        optimizer = Backprop(optax.adam(1e-2), epochs=2, minibatches=2)
        return train(recurrent(), trial, optimizer, tasks, config=config, out=out, listener=quiet, **more)
    optimizer = Evolution(optax.adam(1e-2), population=4) if kind == "evolution" else Backprop(optax.adam(1e-2))
    return train(gradient(), FewShot(), optimizer, Sinusoids(), config=config, out=out, listener=quiet, **more)


def test_the_gradient_is_that_of_all_tasks(key):
    learner, objective = gradient(), FewShot()
    batch, _ = objective.collect(
        learner, BLANK, Sinusoids().batch(jax.random.split(key, 4)), keys=jax.random.split(key, 4)
    )
    of = lambda batch: tuple(mean_gradient(objective, learner, batch)[i] for i in (0, 2))
    losses_apart, apart = shared(of, (P(DEVICES),), (P(DEVICES), P()))(batch)
    losses_whole, whole = of(batch)
    np.testing.assert_allclose(losses_apart, losses_whole, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (apart, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_task_that_diverges_on_one_device_is_left_out_on_both(key):
    learner, objective = gradient(), FewShot()
    tasks = Sinusoids().batch(jax.random.split(key, 4))
    batch, _ = objective.collect(learner, BLANK, tasks, keys=per_task(tasks, key))
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
    live = lambda arms: trial.collect(learner, BLANK, arms, keys=per_task(arms, key))[0].advantage
    arms = tasks.batch(jax.random.split(key, 4))
    both = np.asarray(shared(live, (P(DEVICES),), P(DEVICES))(arms))
    np.testing.assert_allclose([both.mean(), both.std()], [0, 1], atol=1e-3)
    assert abs(both[:2].mean()) > 1e-3  # each half alone is not


@pytest.mark.parametrize("kind", ["backprop", "evolution", "unfinished trials"])
def test_interrupted_is_never_interrupted(tmp_path, kind):
    whole = start(kind, tmp_path / "run")
    assert whole.about["config"]["devices"] == 2
    resumed = start(kind, tmp_path / "run", resume=2)
    assert resumed.digests == whole.digests
    single = start(kind, config=Training(**{**vars(CONFIG), "devices": 1}))
    for one, two in zip(*(jax.tree.leaves(partition(r.learner)[0]) for r in (single, whole)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)  # nothing but the order of sums differs


def test_each_device_draws_tasks_of_its_own_and_together_those_of_one_device():
    tasks = Sinusoids()
    loop = Loop(gradient(), Backprop(optax.sgd(0.0)), tasks, [(6, FewShot())], CONFIG)
    sample = lambda key: loop._step(FewShot()).sample(tasks, key, jnp.uint32(0))
    drawn, keys, improving = shared(sample, (P(),), (P(DEVICES), P(DEVICES), P()))(jax.random.key(0))
    alone = sample(jax.random.key(0))
    assert len(np.unique(drawn.support.y[:, 0, 0])) == CONFIG.meta_batch
    np.testing.assert_array_equal(drawn.support.x, alone[0].support.x)
    for a, b in zip((keys, improving), alone[1:], strict=True):
        np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


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


def test_as_many_devices_as_divide_the_groups_of_tasks():
    assert [choose(0, 4), choose(0, 5), choose(1, 4)] == [2, 1, 1]
    with pytest.raises(ConfigError, match="devices=3, but JAX has 2; on a CPU set jax_num_cpu_devices"):
        choose(3, 6)
    with pytest.raises(ConfigError, match="devices=2 do not divide the 5 groups of tasks in a meta-step; use 1"):
        choose(2, 5)


def test_a_shared_program_gives_back_whole_arrays_on_the_first_device():
    double = lambda mine, at: (mine * 2, mine.sum()[None] + at)
    program = ShardedProgram(double, 2, (tasks_along(1), P()), (tasks_along(1), tasks_along(0)), (np.ones((3, 4)), 0.0))
    doubled, sums = program(jnp.arange(12.0).reshape(3, 4), 1.0)
    assert doubled.devices() == sums.devices() == {jax.local_devices()[0]}
    np.testing.assert_array_equal(doubled, 2 * np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(sums, [28, 40])


def test_what_devices_cannot_share_is_refused():
    class Counting(FewShot):
        def init(self, learner, tasks, *, keys):
            return jnp.zeros(())

    class OnHost(FewShot):
        on_device = False

    config = Training(**{**vars(CONFIG), "devices": 2})
    with pytest.raises(Incompatible, match="leading axis of tasks"):
        train(gradient(), Counting(), Backprop(optax.sgd(0.1)), Sinusoids(), config=config, listener=quiet)
    with pytest.raises(ConfigError, match="runs on the host"):
        train(gradient(), OnHost(), Backprop(optax.sgd(0.1)), Sinusoids(), config=config, listener=quiet)


def test_a_chunk_need_not_divide_a_devices_tasks(key):
    learner, objective = gradient(), FewShot()
    batch, _ = objective.collect(
        learner, BLANK, Sinusoids().batch(jax.random.split(key, 6)), keys=jax.random.split(key, 6)
    )
    whole, in_parts = (mean_gradient(objective, learner, batch, chunk=chunk)[2] for chunk in (None, 4))
    for a, b in zip(*map(jax.tree.leaves, (whole, in_parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
