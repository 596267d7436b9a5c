"""Speed of meta-learning on images, side by side in one run: medians, ratios, CPU time and peak memory beside time.

    python benchmarks/speed_images.py maml          one second-order MAML step: conv-4 of 64 filters, 28×28, 5-way
                                                    1-shot, 15 queries, 32 tasks, batch statistics; strides, pooling
    python benchmarks/speed_images.py proto         one 20-way 1-shot prototypical episode with 5 queries, max-pooled
    python benchmarks/speed_images.py convolution   the ways to convolve; the best of each is remembered here

--steps 5 takes five inner steps. Give --torch PYTHON to use another interpreter for the PyTorch peers (a plain loop,
torch.func's vmap, and higher where it is installed). Run on a quiet machine. Images are noise: only time is measured.
"""

import argparse
import os
import sys

import speed
from speed import looped, report, slower

TASKS, WAYS, QUERIES = 32, 5, 15


def noise(ways: int, queries: int):
    """Tasks from images that are none, drawn anew for every step."""
    import numpy as np

    import quickstudy as qs

    images = np.random.default_rng(0).normal(size=(200 * (1 + queries), 28, 28, 1)).astype(np.float32)
    tasks = qs.from_arrays(images, np.repeat(np.arange(200), 1 + queries), ways=ways, shots=1, queries=queries)
    return tasks.split().train


def ours(what: str, pool: bool, steps: int) -> None:
    """Steps of the real loop, which draws its tasks, on as many of the cores as share them."""
    import equinox as eqx
    import jax
    import optax

    import quickstudy as qs
    from quickstudy.meta_optimizers.backprop import tasks_at_once
    from quickstudy.nn.images import Conv4
    from quickstudy.nn.measures import accuracy, cross_entropy
    from quickstudy.nn.models import Chain, Predictor
    from quickstudy.parallel.mesh import use_cores

    use_cores(0)
    of_embedding, of_head = jax.random.split(jax.random.key(0))
    embed = Conv4((28, 28, 1), key=of_embedding, pool=pool, normalise="transductive")
    if what in ("maml", "fomaml"):
        head = eqx.nn.Linear(embed.features, WAYS, key=of_head)
        adjoint = qs.Unrolled() if what == "maml" else qs.FirstOrder()
        start = Predictor(Chain([embed, head]))
        learner = qs.Gradient(start, qs.Supervised(cross_entropy), qs.SGD(0.4), steps=steps, adjoint=adjoint)
        tasks, num = noise(WAYS, QUERIES), TASKS
    else:
        learner = qs.Prototypical(embed, embed.features, 20)
        if what == "matching":
            learner = qs.Matching(embed, embed.features, capacity=20, classes=20)
        tasks, num = noise(20, 5), 1
    objective = qs.FewShot(cross_entropy, accuracy, "accuracy", lower_is_better=False)
    optimizer = qs.Backprop(optax.adam(1e-3), chunk=tasks_at_once(num, 2**27))
    config = qs.Training(meta_batch=num, log_every=1)
    report("quickstudy", looped(learner, objective, optimizer, tasks, config, 1), 20 if num == 1 else 9, 2)


def torch_network(pool: bool, outputs: int | None):
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)

    def block(i):
        layers = [
            nn.Conv2d(i, 64, 3, padding=1, stride=1 if pool else 2),
            nn.BatchNorm2d(64, track_running_stats=False),
        ]
        return [*layers, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]

    head = [] if outputs is None else [nn.Linear(64 if pool else 256, outputs)]
    return nn.Sequential(*block(1), *block(64), *block(64), *block(64), nn.Flatten(), *head)


def peer(which: str, pool: bool, steps: int) -> None:
    import torch
    import torch.nn.functional as F
    from torch.func import functional_call, grad, vmap

    net = torch_network(pool, WAYS)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    label = lambda each: torch.arange(WAYS).repeat_interleave(each)
    xs, xq = torch.randn(TASKS, WAYS, 1, 28, 28), torch.randn(TASKS, WAYS * QUERIES, 1, 28, 28)
    ys, yq = label(1), label(QUERIES)

    def loop():
        optimizer.zero_grad()
        for s, q in zip(xs, xq, strict=True):
            fast = dict(net.named_parameters())
            for _ in range(steps):
                loss = F.cross_entropy(functional_call(net, fast, (s,)), ys)
                gradient = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {n: w - 0.4 * g for (n, w), g in zip(fast.items(), gradient, strict=True)}
            (F.cross_entropy(functional_call(net, fast, (q,)), yq) / TASKS).backward()
        optimizer.step()

    def together():
        params = dict(net.named_parameters())

        def one(s, q):
            fast = params
            for _ in range(steps):
                g = grad(lambda p: F.cross_entropy(functional_call(net, p, (s,)), ys))(fast)
                fast = {n: w - 0.4 * g[n] for n, w in fast.items()}
            return F.cross_entropy(functional_call(net, fast, (q,)), yq)

        optimizer.zero_grad()
        vmap(one)(xs, xq).mean().backward()
        optimizer.step()

    def with_higher():
        import higher

        inner = torch.optim.SGD(net.parameters(), 0.4)
        optimizer.zero_grad()
        for s, q in zip(xs, xq, strict=True):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, step):
                for _ in range(steps):
                    step.step(F.cross_entropy(fast(s), ys))
                (F.cross_entropy(fast(q), yq) / TASKS).backward()
        optimizer.step()

    report(which, {"torch loop": loop, "torch.func vmap": together, "higher": with_higher}[which], 5, 2)


def peer_proto() -> None:
    import torch
    import torch.nn.functional as F

    net = torch_network(True, None)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x, y = torch.randn(120, 1, 28, 28), torch.arange(20).repeat_interleave(5)

    def step():
        optimizer.zero_grad()
        embedded = net(x)
        F.cross_entropy(-(torch.cdist(embedded[20:], embedded[:20]) ** 2), y).backward()
        optimizer.step()

    report("torch", step, 20, 2)


def child(python: str, *words: str) -> dict:
    return speed.child(python, __file__, "child", *words)


def table(title: str, rows: list[dict]) -> None:
    print(f"\n{title} (load {os.getloadavg()[0]:.1f})")
    rows = [row for row in rows if row]
    for row in rows:
        wall, cpu = row["wall_ms"], row["cpu_ms"]
        ratios = f"{wall / rows[0]['wall_ms']:5.2f}x wall {cpu / rows[0]['cpu_ms']:5.2f}x cpu"
        print(f"  {row['who']:32s} wall {wall:8.2f} ms  cpu {cpu:8.2f} ms  peak {row['peak_mb']:6,d} MB  {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["maml", "proto", "convolution", "child"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    if options.what == "child":
        who, *rest = options.words
        if who == "quickstudy":
            what, kind, steps = rest
            return ours(what, kind == "pool", int(steps))
        return peer_proto() if rest == [] else peer(who, rest[0] == "pool", int(rest[1]))
    if options.what == "maml":
        for kind in ("strided", "pool"):
            ours_now = lambda: child(sys.executable, "quickstudy", "maml", kind, str(options.steps))  # noqa: B023
            first, peers = ours_now(), ("torch loop", "torch.func vmap", "higher")
            rows = [child(options.torch, peer, kind, str(options.steps)) for peer in peers]
            rows = [slower(first, ours_now()), *rows]
            table(f"MAML, conv-4 64, {kind}, {options.steps} inner step(s), {TASKS} tasks: ms a meta-step", rows)
    elif options.what == "proto":
        ours_now = lambda: child(sys.executable, "quickstudy", "proto", "pool", "0")
        first, rows = ours_now(), [child(options.torch, "torch")]
        table("one 20-way episode", [slower(first, ours_now()), *rows])
    else:
        from quickstudy.nn.convolution import measure

        for size, channels, stride in ((28, 1, 1), (14, 64, 1), (7, 64, 1), (28, 1, 2), (14, 64, 2), (7, 64, 2)):
            took = measure(size=size, channels=channels, stride=stride)
            told = ", ".join(f"{how} {ms:.1f}" for how, ms in sorted(took.items(), key=lambda item: item[1]))
            print(f"{size}x{size}x{channels}, stride {stride}: ms of a task's MAML step: {told}", flush=True)


if __name__ == "__main__":
    main()
