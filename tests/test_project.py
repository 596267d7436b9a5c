"""What the project promises of itself: layers, documentation, recipes, no hosts."""

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import quickstudy
import registry
import small_data
import test_contract
from quickstudy.cli.main import main
from quickstudy.config import ConfigError
from quickstudy.parameters import meta_parameters
from quickstudy.recipes import CARDS, named, recipe_of

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "quickstudy"
LAYERS = [
    {"_version", "checks", "config", "identity", "parameters", "display", "runs.cache"},
    {"core", "parallel"},
    {"data"},
    {"rl", "nn"},
    {"envs"},
    {"tasks", "collectors"},
    {"learners"},
    {"baselines", "objectives", "meta_optimizers"},
    {"runs", "evaluate"},
    {"train", "report"},
    {"recipes", "runs.load"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules():
    return [
        info.name for info in pkgutil.walk_packages([str(SOURCE)], "quickstudy.") if not info.name.endswith("__main__")
    ]


def layer(module):
    """The part of the package that stands in LAYERS: the module, where it stands there itself."""
    first_two = ".".join(module.split(".")[:2])
    return first_two if first_two in RANK else module.split(".")[0]


def test_imports_point_only_downwards():
    """Within a function too. A report imports no recipe, a stranger's least of all."""
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        own = layer(".".join(parts))
        if own == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quickstudy."):
                other = layer(node.module.removeprefix("quickstudy."))
                assert RANK[other] <= RANK[own], f"{path.name} ({own}) imports {node.module}"


def test_every_public_name_is_documented():
    for name in quickstudy.__all__:
        value = getattr(quickstudy, name)
        if name != "__version__":
            assert inspect.getdoc(value), f"quickstudy.{name} has no docstring"
    for name in modules():
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        for attribute, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == name and not attribute.startswith("_"):
                assert value.__doc__ or dataclasses.is_dataclass(value), f"{name}.{attribute} has no docstring"


def test_the_verbs_stay_verbs_whatever_was_imported():
    import quickstudy.evaluate
    import quickstudy.train

    assert callable(quickstudy.train) and callable(quickstudy.evaluate)
    assert callable(quickstudy.load) and callable(quickstudy.report)


def both(*layers):
    return {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}


def mlp(name, depth):
    return both(*(f"{name}.layers[{i}]" for i in range(depth)))


def conv4(name):
    return {f"{name}.blocks[{i}].{leaf}" for i in range(4) for leaf in ("kernel", "norm.scale", "norm.shift")}


def lstm(name):
    return {f"{name}.{leaf}" for leaf in ("weight_ih", "weight_hh", "bias")}


def moved(names, old, new):
    return {name.replace(old, new) for name in names}


SINUSOID = mlp("start.net", 3)
NAVIGATION = SINUSOID | {"start.log_std"}
NAVIGATION |= moved(NAVIGATION, "start.", "update.rates.") | {
    "inner_loss.discount.logit",
    "inner_loss.gae_lambda.logit",
}
RL2 = lstm("cell.cell") | {"cell.cell.bias_n"} | both("heads.actor", "heads.critic")
XLAND = lstm("cell.cell") | {"cell.cell.bias_n"} | mlp("heads.actor", 2) | mlp("heads.critic", 2)
XLAND |= {f"encode.{part}[{i}]" for part in ("kernels", "biases") for i in range(3)}
VARIBAD = {f"encoder.{leaf}" for leaf in lstm("cell.cell") | {"cell.cell.bias_n"} | both("heads.linear")}
VARIBAD |= mlp("body.layers[0]", 2) | both("heads.actor", "heads.critic") | mlp("decoder.reward.task", 3)
IMAGES = conv4("start.net.layers[0]") | both("start.net.layers[1]")
STREAM = conv4("encode.layers[0]") | both("encode.layers[1]", "heads.linear")
MML = mlp("model.pair", 2) | mlp("model.encode", 2) | both("model.shared", "model.own")
MML |= {"model.trust.log", "model.noise.log"}
BLOCKS = [f"blocks[{i}]" for i in range(2)]
ATTENTION = both("seen", "norm") | {"told.weight"} | {f"{b}.key.weight" for b in BLOCKS}
ATTENTION |= both(*(f"{b}.{part}" for b in BLOCKS for part in ("norm", "query", "value", "out", "mlp_norm")))
ATTENTION |= {name for b in BLOCKS for name in mlp(f"{b}.mlp", 2)}

LPG = (
    mlp("meaning", 2) | lstm("cell") | both("advice", "target") | {"predicting.log", "exploring.log", "update.rate.log"}
)
LEARNED = {
    "sinusoid": SINUSOID,
    "sinusoid-cavia": SINUSOID | {"start.context"},
    "sinusoid-meta-sgd": SINUSOID | moved(SINUSOID, "start.", "update.rate."),
    "sinusoid-mktn": mlp("net", 3) | {"rule.guidance.log"},
    "maze-mktn": mlp("net", 2) | {"rule.rate.log", "rule.guidance.log"},
    "kernels-mktn": mlp("net", 2) | {"rule.rate.log", "rule.guidance.log"},
    "sinusoid-learned-optimizer": lstm("update.cell") | both("update.out") | {"update.scale.log"},
    "navigation": NAVIGATION,
    "navigation-maml": moved(NAVIGATION, "inner_loss.", "inner_loss.policy."),
    "navigation-reptile": SINUSOID | {"start.log_std"},
    "grid-varibad": VARIBAD | mlp("decoder.reward.step", 1),
    "navigation-varibad": VARIBAD | mlp("decoder.reward.step", 2) | {"heads.log_std", "decoder.reward_noise.log"},
    "rl2": RL2,
    "navigation-rl2": RL2 | {"heads.log_std"},
    "pendulum-rl2": RL2 | {"heads.log_std"},
    "xland-rl2": XLAND,
    "navigation-mpo": lstm("cell.cell")
    | {"cell.cell.bias_n", "generator", "start.log_std"}
    | mlp("start.net", 2)
    | both("critic"),
    "kernels-mpo": lstm("cell.cell") | {"cell.cell.bias_n", "generator"} | mlp("start.net", 2) | both("critic"),
    "maze-mpo": lstm("cell.cell") | {"cell.cell.bias_n", "generator"} | mlp("start.net", 2) | both("critic"),
    "kernels-mml": MML,
    "mdp-mml": MML,
    "maze-mml": {"model.shared", "model.own", "model.frequency", "model.noise.log"},
    "corners": NAVIGATION,
    "corners-maml": moved(NAVIGATION, "inner_loss.", "inner_loss.policy."),
    "cartpole-meta-gradient": {
        "update.rate.log",
        "discount.logit",
        "gae_lambda.logit",
        "weights[1].log",
        "weights[2].log",
    },
    "cartpole-es-dqn": {"update.rate.log", "discount.logit", "epsilon.logit"},
    "maze-lpg": LPG,
    "mdp-lpg": LPG,
    "maze": {"rate.logit", "discount.logit", "epsilon.logit", "initial"},
    "omniglot": IMAGES,
    "omniglot-cavia": conv4("start.embed") | both("start.head", "start.film") | {"start.context"},
    "omniglot-meta-sgd": IMAGES | moved(IMAGES, "start.", "update.rate."),
    "omniglot-meta-lstm": IMAGES | lstm("update.cell") | both("update.input_gate", "update.forget_gate"),
    "omniglot-proto": conv4("embed"),
    "omniglot-matching": conv4("embed") | {"sharpness.log"},
    "omniglot-mann": STREAM
    | lstm("cell.controller.cell")
    | both("cell.again")
    | {"cell.keys.weight", "cell.sharpness.log"},
    "omniglot-lstm": STREAM | lstm("cell.cell"),
    "mdp-rl2": ATTENTION | both("heads.actor", "heads.critic"),
    "omniglot-snail": ATTENTION | conv4("encode.layers[0]") | both("encode.layers[1]", "heads.linear"),
    "omniglot-meta-networks": conv4("embed.net")
    | both("embed.layer", "readout")
    | mlp("represent", 2)
    | mlp("base", 2)
    | lstm("of_task.cell")
    | {"of_task.out.weight", "sharpness.log"}
    | mlp("of_example", 2),
    "omniglot-task-memory": conv4("within.start.net.layers[0]")
    | mlp("within.start.net.layers[1]", 2)
    | conv4("embed.net.layers[0]")
    | both("embed.net.layers[1]")
    | mlp("values.net.layers[1]", 2)
    | {"keys", "sharpness.log"},
    "clinc150-proto": both("embed.down") | {"embed.up"},
    "clinc150-matching": both("embed.down") | {"embed.up", "sharpness.log"},
    "clinc150-maml": both("start.net.layers[0].down", "start.net.layers[1]") | {"start.net.layers[0].up"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with data of the published sizes, and nothing in it."""
    folder = tmp_path_factory.mktemp("data")
    small_data.omniglot(folder, characters=1623)
    small_data.clinc150(folder, intents=15, sentences=20)
    return folder


@pytest.mark.parametrize("name", sorted(CARDS))
def test_every_recipe_builds_and_learns_what_it_should(name, data, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(data))
    if name.startswith(("acrobot", "cartpole", "pendulum")):
        pytest.importorskip("gymnax", reason="the extra `envs` is not installed")
    if name.startswith("xland"):
        pytest.importorskip("xminigrid", reason="the extra `xland` is not installed")
    recipe = recipe_of(name)
    experiment = recipe.build()
    family = "rl2" if name.endswith("rl2") else name.split("-")[0]
    learned = LEARNED.get(name, LEARNED.get(family)) if recipe.training.meta_steps else set()
    assert set(meta_parameters(experiment.learner)) == learned


def test_no_file_names_a_registry_or_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    hosts = re.compile(r"py" r"pi\.org|python" r"hosted|npm" r"js\.org|/wo" r"rk/", re.I)
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix not in (".png", ".safetensors", ".npz") and path.is_file():
            assert not hosts.search(path.read_text(errors="ignore")), name


def test_the_version_comes_from_one_place():
    from quickstudy._version import __version__

    assert quickstudy.__version__ == __version__
    assert 'path = "src/quickstudy/_version.py"' in (ROOT / "pyproject.toml").read_text()


def blocks(page):
    found = re.findall(r"^ *```python\n(.*?)```", (ROOT / page).read_text(), re.S | re.M)
    assert found
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize(
    ("page", "needs"), [("README.md", None), ("docs/learners/few_shot.md", "sklearn"), ("docs/own-tasks.md", "gymnax")]
)
def test_the_code_of_the_pages_runs(page, needs, tmp_path, monkeypatch):
    if needs:
        pytest.importorskip(needs, reason=f"{needs} is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    for code in blocks(page):
        exec(compile(re.sub(r"meta_steps=\d+", "meta_steps=5", code), page, "exec"), names)


def test_the_learner_of_the_docs_keeps_the_contract_and_trains_from_the_command_line(tmp_path, monkeypatch, capsys):
    """The whole page: in Python, through the contract suite, and by its file on the command line."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.chdir(tmp_path)
    learner, use, method, tasks = blocks("docs/own-learner.md")
    assert len(learner.splitlines()) < 40
    page: dict = {"__name__": "page"}
    exec(compile(learner + use, "own-learner.md", "exec"), page)
    assert page["result"].evaluate(num_tasks=50).score > 0.6

    net = page["MLP"]((1, 8, 3), key=jax.random.key(0), activation=jnp.tanh)
    make = lambda: page["Cosine"](net, page["qs"].Positive(5.0), 3, 3)
    monkeypatch.setitem(registry.REGISTRY, "page", registry.Row(make, registry.classified))
    for name, check in vars(test_contract).items():
        if name.startswith("test_"):
            check("page", tmp_path / "saved") if "tmp_path" in inspect.signature(check).parameters else check("page")

    (tmp_path / "cosine.py").write_text(learner + method + tasks)
    small = ["--meta-steps", "5", "--meta-batch", "2", "--test-tasks", "10", "--out", "run", "--json"]
    main(["train", "cosine.py:Digits+cosine.py:CosineMethod", *small])
    main(["evaluate", "run", "--recipe", "cosine.py:Digits+cosine.py:CosineMethod", "--tasks", "10", "--json"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["status"] == "ok" and last["recipe"] == "Digits-CosineMethod" and last["n"] == 10
    with pytest.raises(ConfigError, match=r"has no 'Wrong'; it has CosineMethod, Digits"):
        named("cosine.py:Wrong")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        named("nowhere.py:Wrong")
