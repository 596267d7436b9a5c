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
import test_contract
from quickstudy.cli import main
from quickstudy.config import ConfigError
from quickstudy.core import meta_parameters
from quickstudy.recipes import all_recipes, get

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "quickstudy"
LAYERS = [
    {"_version", "config"},
    {"core", "display", "stats"},
    {"data"},
    {"rl", "nn"},
    {"tasks"},
    {"learners", "objectives", "meta_optimizers"},
    {"runs", "evaluate"},
    {"train", "report"},
    {"recipes", "load"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules():
    return [
        info.name for info in pkgutil.walk_packages([str(SOURCE)], "quickstudy.") if not info.name.endswith("__main__")
    ]


def test_imports_point_only_downwards():
    """Within a function too, with two exceptions: the report asks the recipes for their descriptions, and recipes
    import what they compose when they are built."""
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).with_suffix("").parts[0]
        if own == "__init__":
            continue
        tree = ast.parse(path.read_text())
        lazy = {
            node
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.ImportFrom)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quickstudy."):
                other = node.module.split(".")[1]
                if own == "report" and other == "recipes" and node in lazy:
                    continue
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


LEARNED = {
    "sinusoid": [f"start.net.layers[{i}].{leaf}" for i in range(3) for leaf in ("weight", "bias")],
    "navigation": [f"start.net.layers[{i}].{leaf}" for i in range(3) for leaf in ("weight", "bias")]
    + ["start.log_std"],
    "rl2": [f"cell.cell.{leaf}" for leaf in ("weight_ih", "weight_hh", "bias", "bias_n")]
    + [f"heads.{part}.{leaf}" for part in ("actor", "critic") for leaf in ("weight", "bias")],
}


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_every_recipe_builds_and_learns_what_it_should(name):
    if name.startswith(("cartpole", "pendulum")):
        pytest.importorskip("gymnax", reason="the extra `envs` is not installed")
    experiment = all_recipes()[name]().build()
    learned = set(meta_parameters(experiment.learner))
    family = "rl2" if name.endswith("rl2") else name.split("-")[0]
    expected = set(LEARNED[family])
    if name == "sinusoid-cavia":
        expected |= {"start.context"}
    if name == "sinusoid-meta-sgd":
        expected |= {f"update.rate.net.layers[{i}].{leaf}" for i in range(3) for leaf in ("weight", "bias")}
    if family == "navigation":
        expected |= {n.replace("start.", "update.rates.") for n in expected}
        expected |= {"inner_loss.discount.logit", "inner_loss.trace.logit"}
    assert learned == expected


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
    return [textwrap.dedent(block).replace("meta_steps=5000", "meta_steps=5") for block in found]


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in blocks("README.md"):
        exec(compile(code, "README.md", "exec"), {"__name__": "page"})


def test_the_learner_of_the_docs_keeps_the_contract_and_trains_from_the_command_line(tmp_path, monkeypatch, capsys):
    """The whole page: in Python, through the contract suite, and by its file on the command line."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.chdir(tmp_path)
    learner, use, recipe = blocks("docs/own-learner.md")
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

    imports = "from sklearn.datasets import load_digits\nfrom quickstudy.nn.models import MLP\n"
    (tmp_path / "cosine.py").write_text(learner + imports + recipe)
    small = ["--meta-steps", "5", "--meta-batch", "2", "--test-tasks", "10", "--out", "run", "--json"]
    main(["train", "cosine.py:DigitsCosine", *small])
    main(["evaluate", "run", "--tasks", "10", "--json"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["status"] == "ok" and last["recipe"] == "digits-cosine" and last["n"] == 10
    with pytest.raises(ConfigError, match=r"has no recipe 'Wrong'; it has DigitsCosine"):
        get("cosine.py:Wrong")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        get("nowhere.py:Wrong")
