"""Reinforcement learning beside the trainers that others publish: the same numbers, side by side in one run.

    python benchmarks/speed_rl.py xland --peer xland-minigrid/training --python PYTHON
        RL² on XLand-MiniGrid (extra `xland`), against train_meta_task.py of github.com/dunnolab/xland-minigrid
    python benchmarks/speed_rl.py ppo --peer purejaxrl/purejaxrl --python PYTHON
        PPO on CartPole (extra `envs`), against ppo.py of github.com/luchris429/purejaxrl

`--peer` is the folder of their script in a clone that you made; `--python` an interpreter that has what it imports:
jax, flax, optax, distrax, and xminigrid with pyrallis and orbax-checkpoint, or gymnax. What stands in their way without
being part of what is measured is replaced in memory: wandb, brax and navix; the download of rulesets, by those that
ours draws; defaults of dataclasses that newer Pythons refuse; and gymnax's step, which now tells two kinds of end
apart. Their XLand trainer evaluates in every step of its outer loop: here one episode in one room, the least it does.

Each compiles once, without a cache, in a process of its own on one core (`--core`); then they run in turns, so that
what else the machine does meets both. CPU time stands beside wall time, and is what to compare on a machine that others
use.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

# As their train_meta_task.py has it, where a core can: it runs 8,192 rooms in 16 minibatches, trials of 4,096 steps.
XLAND = {"rooms": 256, "trial_length": 64, "bptt_length": 32, "minibatches": 4, "epochs": 1, "head_size": 64}
PPO = {"num_envs": 4, "segment": 128, "epochs": 4, "minibatches": 4, "updates": 400}
STEPS = PPO["updates"] * PPO["num_envs"] * PPO["segment"]


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> dict[str, float]:
    return {"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]}


def in_turns(compiled: dict[str, float], run: Callable[[], object]) -> None:
    """Says what compiling took; then runs, and says what that took, for each line that comes in."""
    run()
    print(json.dumps(compiled), flush=True)
    for _ in sys.stdin:
        began = clocks()
        run()
        print(json.dumps(since(began)), flush=True)


def source_of(path: Path, *changes: tuple[str, str]) -> types.ModuleType:
    """A module of theirs, with these changes (pattern, replacement); each must be met."""
    text = path.read_text()
    for pattern, replacement in changes:
        text, met = re.subn(pattern, replacement, text, flags=re.M)
        if not met:
            raise SystemExit(f"{path} is not the version this was written for: {pattern!r} is not in it")
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def ours_xland(folder: Path, peer: Path) -> None:
    del peer
    import numpy as np

    import quickstudy
    from quickstudy.train.loop import Loop

    n = XLAND
    windows = n["trial_length"] // n["bptt_length"]
    experiment = quickstudy.recipe(
        "xland-rl2", meta_batch=n["rooms"], trial_length=n["trial_length"], bptt_length=n["bptt_length"],
        minibatches=n["minibatches"],
        epochs=n["epochs"], head_size=n["head_size"], memory_size=64, log_every=windows,
    )  # fmt: skip
    rulesets = experiment.tasks.split().train.rulesets
    np.savez(folder / "rulesets.npz", goals=rulesets.goal, rules=rulesets.rules, init_tiles=rulesets.init_tiles)
    parts = experiment.learner, experiment.meta_optimizer, experiment.tasks.split().train
    loop = Loop(*parts, [(10**9, experiment.objective)], experiment.recipe.training)
    began = clocks()
    progress = loop.begin()
    program = loop.program(0, progress)
    compiled, state = since(began), [progress, 0]

    def run():
        progress, at = state
        state[:] = program(progress, at, at + windows)[0], at + windows  # metrics are on the host, so all is done

    in_turns(compiled, run)


def peer_xland(folder: Path, peer: Path) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import xminigrid
    from flax.jax_utils import replicate
    from xminigrid.benchmarks import Benchmark

    rulesets = {name: jnp.asarray(x) for name, x in np.load(folder / "rulesets.npz").items()}
    benchmark = Benchmark(**rulesets, num_rules=jnp.zeros((len(rulesets["goals"]), 1), jnp.uint8))
    xminigrid.load_benchmark = lambda name: benchmark
    sys.modules["wandb"] = types.ModuleType("wandb")
    sys.path.insert(0, str(peer))
    fresh = r"\1struct.field(default_factory=lambda: \2)"
    source_of(peer / "utils.py", (r"^(    \w+: jax.Array = )(jnp.asarray\([\d.]+\))$", fresh))
    theirs = source_of(peer / "train_meta_task.py", (r"^import orbax$", "import orbax.checkpoint"))

    n = XLAND
    config = theirs.TrainConfig(
        num_envs=n["rooms"], num_steps_per_env=n["trial_length"], num_steps_per_update=n["bptt_length"],
        num_minibatches=n["minibatches"], update_epochs=n["epochs"], total_timesteps=n["rooms"] * n["trial_length"],
        rnn_hidden_dim=64, head_hidden_dim=n["head_size"], eval_num_envs=1, eval_num_episodes=1,
    )  # fmt: skip
    began = clocks()
    rng, environment, settings, benchmark, hidden, state = theirs.make_states(config)
    arguments = jax.random.split(rng, 1), replicate(state), replicate(hidden)
    train = theirs.make_train(environment, settings, benchmark, config).lower(*arguments).compile()
    in_turns(since(began), lambda: jax.block_until_ready(train(*arguments)))


def ours_ppo(folder: Path, peer: Path) -> None:
    del folder, peer
    import equinox as eqx
    import jax

    import quickstudy
    from quickstudy.core import ObjectiveMemory

    n = PPO
    experiment = quickstudy.recipe(
        "cartpole-ppo", steps=STEPS, num_envs=n["num_envs"], segment_length=n["segment"], epochs=n["epochs"],
        minibatches=n["minibatches"],
    )  # fmt: skip
    key, trial = jax.random.key(0), experiment.objective
    task = experiment.tasks.batch(jax.random.split(key, 1))

    def rollout(learner, task):
        batch, _ = trial.collect(learner, ObjectiveMemory(), task, keys=jax.random.split(key, 1))
        return trial.score(batch), trial.curve(batch)

    began = clocks()
    program = eqx.filter_jit(rollout).lower(experiment.learner, task).compile()
    in_turns(since(began), lambda: jax.block_until_ready(program(experiment.learner, task)))


def peer_ppo(folder: Path, peer: Path) -> None:
    del folder
    import jax

    told = (
        r"^        obs, state, reward, done, info = self\._env\.step\(key, state, action, params\)\n(?=        obs = )",
        "        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)\n"
        "        done = terminated | truncated\n",
    )
    source_of(peer / "wrappers.py", (r"^(from brax|import navix).*$", ""), told)
    theirs = source_of(peer / "ppo.py")
    n = PPO
    config = {  # those of the file, but for what is printed
        "LR": 2.5e-4, "NUM_ENVS": n["num_envs"], "NUM_STEPS": n["segment"], "TOTAL_TIMESTEPS": STEPS,
        "UPDATE_EPOCHS": n["epochs"], "NUM_MINIBATCHES": n["minibatches"], "GAMMA": 0.99, "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5, "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1", "ANNEAL_LR": True, "DEBUG": False,
    }  # fmt: skip
    key = jax.random.PRNGKey(30)
    began = clocks()
    train = jax.jit(theirs.make_train(config)).lower(key).compile()
    in_turns(since(began), lambda: jax.block_until_ready(train(key)))


def begin(
    python: str, who: str, folder: Path, options: argparse.Namespace
) -> tuple[subprocess.Popen, dict[str, float]]:
    """The process, ready to run, and what compiling took."""
    words = [python, __file__, options.what, "--peer", options.peer, "--child", who, "--folder", str(folder)]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    pin = lambda: os.sched_setaffinity(0, {options.core})
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=pin
    )
    return process, answer(process)


def answer(process: subprocess.Popen) -> dict[str, float]:
    for line in process.stdout or ():
        if line.startswith("{"):  # theirs prints more
            return json.loads(line)
    raise SystemExit(f"{' '.join(process.args)} ended with {process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["xland", "ppo"])
    parser.add_argument("--peer", required=True, help="folder of their script")
    parser.add_argument("--python", default=sys.executable, help="interpreter for it")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", choices=["ours", "peer"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.child:
        return globals()[f"{options.child}_{options.what}"](options.folder, Path(options.peer).resolve())

    numbers, pythons = (XLAND if options.what == "xland" else PPO), {"ours": sys.executable, "peer": options.python}
    with tempfile.TemporaryDirectory() as folder:
        begun = {who: begin(python, who, Path(folder), options) for who, python in pythons.items()}
        took = {who: [] for who in begun}
        for _ in range(options.rounds):
            for who, (process, _) in begun.items():
                print(file=process.stdin, flush=True)
                took[who].append(answer(process))
        for process, _ in begun.values():
            process.communicate()
    steps = numbers["rooms"] * numbers["trial_length"] if options.what == "xland" else STEPS
    print(f"{options.what}: {numbers}; core {options.core}, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds")
    for kind in ("wall", "cpu"):
        ours, theirs = ([run[kind] for run in took[who]] for who in ("ours", "peer"))
        a, b = (steps / statistics.median(x) for x in (ours, theirs))
        ratios = sorted(y / x for x, y in zip(ours, theirs, strict=True))
        (c, d) = (compiled[kind] for _, compiled in begun.values())
        print(
            f"  {kind:4s} {a:8,.0f} steps a second against {b:8,.0f}: {statistics.median(ratios):.2f}x, from "
            f"{ratios[0]:.2f}x to {ratios[-1]:.2f}x; compile {c:.1f} s against {d:.1f}, {c / d:.2f} of it"
        )


if __name__ == "__main__":
    main()
