"""Speed, side by side in one run: medians, ratios, CPU time beside wall time.

    python benchmarks/speed.py sinusoid    sinusoid MAML against bare torch.func and, where it is installed, higher
    python benchmarks/speed.py navigation  environment steps a second, and the share of the matrix-product peak
    python benchmarks/speed.py bandit      the same for RL² on bandits
    python benchmarks/speed.py startup     seconds from start to the first update, cold and with a warm cache
    python benchmarks/speed.py scaling     what twice the tasks cost

Give --torch PYTHON to use another interpreter for the PyTorch peers. Run on a quiet machine.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

HERE = Path(__file__).parent
WARMUP, ROUNDS = 5, 20


def clock(step, rounds: int = ROUNDS, warmup: int = WARMUP) -> dict[str, float]:
    """Medians of wall and CPU milliseconds of one call."""
    for _ in range(warmup):
        step()
    wall, cpu = [], []
    for _ in range(rounds):
        a, b = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - a)
        cpu.append(time.process_time() - b)
    return {"wall_ms": 1e3 * statistics.median(wall), "cpu_ms": 1e3 * statistics.median(cpu)}


def report(who: str, step, rounds: int = ROUNDS, warmup: int = WARMUP, each: int = 1) -> None:
    """The cost of one of `each` meta-steps that a call takes, and the process's peak of memory, as a line of JSON."""
    cost = {name: ms / each for name, ms in clock(step, rounds, warmup).items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"who": who, **cost, "peak_mb": round(peak)}))


def child(python: str, script: str, *words: str) -> dict:
    """What a process of its own says of what it measured; nothing where it failed."""
    done = subprocess.run([python, script, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {words}: not measured ({done.stderr.strip().splitlines()[-1] if done.stderr else 'failed'})")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def slower(first: dict, again: dict) -> dict:
    """Ours, measured before the peers and after them: the machine may have changed meanwhile."""
    if not (first and again):
        raise SystemExit("ours could not be measured")
    return max(first, again, key=lambda row: row["wall_ms"])


def ours_or_peer(python: str, what: str) -> dict:
    return child(python, __file__, "--child", what)


def fused(experiment, config, steps: int):
    """`steps` meta-steps of the real loop as one call."""
    e = experiment
    return looped(e.learner, e.objective, e.meta_optimizer, e.tasks, config, steps)


def looped(learner, objective, meta_optimizer, tasks, config, steps: int):
    """The same of parts; config.log_every has to be `steps`."""
    from quickstudy.train.loop import Loop

    loop = Loop(learner, meta_optimizer, tasks, [(10**9, objective)], config)
    state = [loop.begin(), 0]
    program = loop.program(0, state[0])

    def call():
        state[0], _ = program(state[0], state[1], state[1] + steps)
        state[1] += steps

    return call


def ours_sinusoid() -> None:
    import quickstudy

    experiment = quickstudy.recipe("sinusoid-maml", shots=10, queries=10, log_every=500)
    report("quickstudy", fused(experiment, experiment.recipe.training, 500), 10, 2, 500)


def peer_sinusoid(which: str) -> None:
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.func import functional_call, grad, vmap

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def batch(tasks=25, points=20):
        amplitude, phase = torch.rand(tasks, 1, 1) * 4.9 + 0.1, torch.rand(tasks, 1, 1) * torch.pi
        x = torch.rand(tasks, points, 1) * 10 - 5
        y = amplitude * torch.sin(x - phase)
        return x[:, :10], y[:, :10], x[:, 10:], y[:, 10:]

    def functional():
        params = dict(net.named_parameters())
        loss = lambda p, x, y: F.mse_loss(functional_call(net, p, (x,)), y)

        def one(xs, ys, xq, yq):
            g = grad(loss)(params, xs, ys)
            return loss({k: v - 0.01 * g[k] for k, v in params.items()}, xq, yq)

        optimizer.zero_grad()
        vmap(one)(*batch()).mean().backward()
        optimizer.step()

    def with_higher():
        import higher

        inner = torch.optim.SGD(net.parameters(), 0.01)
        optimizer.zero_grad()
        for xs, ys, xq, yq in zip(*batch(), strict=True):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, step):
                step.step(F.mse_loss(fast(xs), ys))
                (F.mse_loss(fast(xq), yq) / 25).backward()
        optimizer.step()

    step = {"torch.func vmap": functional, "higher": with_higher}[which]
    report(which, step)


def sinusoid(torch_python: str) -> None:
    first = ours_or_peer(sys.executable, "ours")
    peers = [row for peer in ("torch.func vmap", "higher") if (row := ours_or_peer(torch_python, peer))]
    rows = [slower(first, ours_or_peer(sys.executable, "ours")), *peers]
    print(
        f"\nsinusoid MAML, 10-shot, MLP 40-40, 25 tasks, one inner step: ms a meta-step (load {os.getloadavg()[0]:.1f})"
    )
    for row in rows:
        wall, cpu = row["wall_ms"], row["cpu_ms"]
        print(f"  {row['who']:18s} wall {wall:8.3f}  cpu {cpu:8.3f}  {wall / rows[0]['wall_ms']:6.1f}x")


def against_peak(what: str, seconds: float, cpu_ms: float, steps: int, flops: float) -> None:
    """Says what a meta-step of so many environment steps and operations in products cost."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    peak = 2 * 2048**3 / (clock(lambda: product(a).block_until_ready())["wall_ms"] / 1e3)
    print(f"{what}: {seconds * 1e3:.0f} ms a meta-step, cpu {cpu_ms:.0f} ms")
    print(f"  {steps / seconds:,.0f} environment steps a second")
    print(f"  {flops / 1e9:.2f} GFLOP of products a meta-step = {flops / seconds / 1e9:.1f} GFLOP/s")
    print(f"  machine's peak {peak / 1e9:.0f} GFLOP/s (2048³), so {100 * flops / seconds / peak:.1f} % of it")


def navigation() -> None:

    import jax
    import jax.numpy as jnp

    import quickstudy

    experiment = quickstudy.recipe("navigation-maml", log_every=5)
    recipe = types.SimpleNamespace(**experiment.recipe.values())
    cost = clock(fused(experiment, experiment.recipe.training, 5), 5, 1)
    seconds = cost["wall_ms"] / 1e3 / 5
    episodes = 1 + recipe.adaptations
    steps = recipe.meta_batch * recipe.trajectories * 100 * episodes
    # Products a step of one trajectory, 2 operations a multiply-add. Collecting is one forward pass; an inner step is
    # a forward and a backward pass, in collecting and again in the replay; the replay's outer derivative goes back
    # through the judged forward passes (3 in all) and through the inner gradients (twice their 3).
    h = recipe.hidden_size
    forward = 2 * (2 * h + h * h + h * 2)
    inner = 3 * forward * recipe.adaptations
    each = episodes * forward + inner + 3 * recipe.adaptations * forward + 3 * inner
    flops = recipe.meta_batch * recipe.trajectories * 100 * each
    small, w = jnp.ones((2000, h)), jnp.ones((h, h))
    narrow_product = jax.jit(lambda a, w: a @ w)
    narrow = 2 * 2000 * h * h / (clock(lambda: narrow_product(small, w).block_until_ready(), 200)["wall_ms"] / 1e3)
    against_peak(f"navigation MAML, {recipe.adaptations} adaptations", seconds, cost["cpu_ms"] / 5, steps, flops)
    print(f"  one product of a task's hidden layer, 2000x{h}x{h}, reaches {narrow / 1e9:.0f} GFLOP/s alone")


def bandit() -> None:
    import quickstudy

    experiment = quickstudy.recipe("bandit-rl2", log_every=5, curriculum=())
    recipe = types.SimpleNamespace(**experiment.recipe.values())
    cost = clock(fused(experiment, experiment.recipe.training, 5), 5, 1)
    seconds, steps = cost["wall_ms"] / 1e3 / 5, recipe.meta_batch * recipe.pulls
    # The cell sees the action before, its reward and whether an episode ended; heads say an action and a value.
    # Collecting is one forward pass, each epoch another and one back through it, which costs twice as much.
    feedback, h = recipe.arms + 2, recipe.memory_size
    forward = 2 * (3 * h * (feedback + h) + h * (recipe.arms + 1))
    against_peak("RL² on bandits", seconds, cost["cpu_ms"] / 5, steps, steps * forward * (1 + 3 * recipe.epochs))


def startup() -> None:
    names = ("sinusoid-maml", "navigation-maml", "bandit-rl2", "mdp-rl2", "navigation-es-maml")
    print("seconds from the command to the first line of metrics: cold cache, warm cache")
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            times = []
            for _ in range(2):
                environment = {**os.environ, "QUICKSTUDY_CACHE": cache}
                words = [
                    "train",
                    name,
                    "--json",
                    "--log-every",
                    "1",
                    "--validate-every",
                    "-1",
                    "--out",
                    f"{cache}/run{len(times)}",
                ]
                code = f"from quickstudy.cli.main import main; main({words!r})"
                began = time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
                )
                for line in process.stdout or ():
                    if json.loads(line).get("event") == "metrics":
                        break
                times.append(time.perf_counter() - began)
                process.kill()
                process.wait()
        print(f"  {name:20s} {times[0]:6.1f} {times[1]:6.1f}", flush=True)


def scaling() -> None:
    import quickstudy

    print("milliseconds a meta-step when the tasks double")
    for name, sizes, steps in (
        ("sinusoid-maml", (25, 50, 100, 200), 200),
        ("navigation-maml", (10, 20, 40), 3),
        ("bandit-rl2", (512, 1024, 2048), 5),
    ):
        times = []
        for size in sizes:
            experiment = quickstudy.recipe(name, meta_batch=size, log_every=steps, devices=1)
            times.append(clock(fused(experiment, experiment.recipe.training, steps), 5, 1)["wall_ms"] / steps)
        ratios = " ".join(f"{b / a:.2f}x" for a, b in itertools.pairwise(times))
        print(f"  {name:18s} tasks {sizes}: {', '.join(f'{t:.2f}' for t in times)}   {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["sinusoid", "navigation", "bandit", "startup", "scaling"])
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child and options.child != "ours":
        return peer_sinusoid(options.child)
    from quickstudy.parallel.mesh import use_cores
    from quickstudy.recipes import recipe_of

    # As the command line has it: a core for sinusoids beside their peers, all of them for the rest.
    use_cores(0, recipe_of("sinusoid-maml").training.cores if options.child else 0)
    if options.child:
        return ours_sinusoid()
    if options.what is None:
        parser.error("say what to measure")
    sinusoid(options.torch) if options.what == "sinusoid" else globals()[options.what]()


if __name__ == "__main__":
    main()
