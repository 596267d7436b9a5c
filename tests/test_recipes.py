"""Recipes as compositions: names, refusals, options and their bounds; pairs that nobody has tuned; and methods, tasks
and cards of a person's own."""

import json
import re
import textwrap
from pathlib import Path

import pytest

import small_data
from quickstudy.cli.listing import pairs
from quickstudy.cli.main import main
from quickstudy.config import AtLeast, Between, ConfigError
from quickstudy.recipes import CARDS, METHODS, TASKS, configure, named, recipe_of, refusal

ROWS = [row for tasks in TASKS for row in pairs(tasks)]
POSSIBLE = [row["name"] for row in ROWS if row["status"] != "refused"]
TINY = ["--meta-steps", "2", "--meta-batch", "2", "--test-tasks", "2", "--validate-every", "-1", "--quiet", "--json"]


def run(capsys, *words):
    """(exit code, the last line of the output as JSON) of one command in this process."""
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as error:
        code = error.code
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_pair_is_published_possible_or_refused_in_a_sentence():
    assert len(ROWS) == 2 * len(TASKS) * len(METHODS) and set(CARDS) <= set(POSSIBLE)
    for row in ROWS:
        if row["status"] == "refused":
            assert row["why"].startswith(f"{row['name']} makes no sense: ") and len(row["why"]) < 250
    published = {(row["tasks"], row["method"]) for row in ROWS if row["status"] == "published"}
    assert {f"{tasks}-{method}" for tasks, method in published} == set(CARDS)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("omniglot-rl2", "acts in environments, and Omniglot's characters have labelled examples"),
        ("sinusoid-q-learning", "acts in environments"),
        ("bandit-proto", "learns from labelled examples, and Bernoulli bandits are environments"),
        ("sinusoid-proto", "classifies, and here targets are numbers"),
        ("navigation-dqn", "actions"),
        ("pendulum-mml", "tables"),
        ("maze-psrl", "may end before"),
        ("omniglot-pretrained", "regresses numbers"),
        ("mdp-es-psrl", "nothing of it is meta-learned"),
        ("maze-es-q-learning", "already"),
        ("navigation-es-reptile", "es-maml"),
    ],
)
def test_senseless_pairs_are_refused_with_the_reason(name, why, capsys):
    assert why in str(refusal(name))
    code, last = run(capsys, "train", name, "--json")
    assert code == 2 and why in last["message"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sinusoid-mmal", "did you mean"),
        ("sinus-maml", "did you mean sinusoid-maml"),
        ("sinusoid", "half of a recipe"),
        ("mine.py", "mine.py:Name"),
        ("mine.py:Mine", "only where a person names it"),
    ],
)
def test_names_that_are_none_get_a_hint(name, hint):
    with pytest.raises(ConfigError, match=re.escape(hint)):
        recipe_of(name)


def test_no_two_options_of_a_recipe_have_one_name():
    for name in POSSIBLE:
        recipe = recipe_of(name)
        names = [field.name for _, field, _ in recipe._walk()]
        assert len(names) == len(set(names)), name
        assert not recipe.errors(), name


def test_every_option_says_what_it_means_and_whole_numbers_have_a_bound():
    """In whole phrases, in the words of the field."""
    house = re.compile(r"\b(lived?|lives|life|stretch|rulers?|said|luck|window)\b")
    for name in POSSIBLE:
        for option, (field, _) in recipe_of(name).options().items():
            assert len(field.help.split()) >= 3, (name, option, field.help)
            assert not house.search(field.help), (name, option, field.help)
            if field.kind is int:
                assert any(isinstance(check, AtLeast | Between) for check in field.checks), (name, option)


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        configure("sinusoid-maml", {"meta_batch": 10**11, "shots": 0, "inner_rate": float("nan"), "decay": "cosine"})
    assert [message.split()[0] for message in caught.value.errors] == ["shots", "inner_rate", "meta_batch"]
    with pytest.raises(ConfigError) as caught:
        configure("sinusoid-maml", {"shotz": 3, "optimizer": "adagrad", "hidden_size": "eight"})
    assert "did you mean shots" in caught.value.errors[0] and len(caught.value.errors) == 3


def test_options_of_tasks_that_do_not_count_are_not_there():
    assert "trial_length" in recipe_of("cartpole-rl2").values()
    assert "trial_length" not in recipe_of("cartpole-maml").values()
    assert {"population", "sigma"} <= set(recipe_of("bandit-es-rl2").values())
    assert "entropy" not in recipe_of("bandit-es-rl2").values()


def test_what_goes_into_a_run_makes_the_recipe_again():
    for name in CARDS:
        recipe = recipe_of(name)
        config = json.loads(json.dumps(recipe.values()))
        assert configure(name, config) == recipe
        assert recipe.command() == ["quickstudy", "train", name]
    assert recipe_of("bandit-rl2").changed(pulls=20, curriculum=()).command()[3:] == ["--pulls", "20", "--curriculum"]


def test_list_says_all_of_one(capsys):
    _, table = run(capsys, "list", "--json")
    assert {row["name"] for row in table["recipes"]} == set(CARDS) and len(table["pairs"]) == len(ROWS)
    _, one = run(capsys, "list", "grid-varibad", "--json")
    assert one["options"]["latent"]["value"] == 5 and one["published"]
    _, why = run(capsys, "list", "omniglot-rl2", "--json")
    assert "acts in environments" in why["why"]
    main(["list"])
    page = capsys.readouterr().out
    assert "possible, untuned" in page and "sinusoid: sine waves" in page
    main(["list", "mktn"])
    assert "regresses numbers" in capsys.readouterr().out


@pytest.fixture
def data(tmp_path, monkeypatch):
    small_data.omniglot(tmp_path, characters=1623)
    small_data.clinc150(tmp_path, intents=15, sentences=20)
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clinc150-reptile", ["--dims", "32", "--queries", "2", "--test-steps", "0", "1"]),
        ("grid-maml", ["--trajectories", "2", "--adaptations", "1", "--hidden-size", "4"]),
        ("maze-varibad", ["--trial-length", "10", "--memory-size", "4", "--minibatches", "1", "--epochs", "1"]),
        ("bandit-es-rl2", ["--population", "32", "--memory-size", "4"]),
        ("sinusoid-lstm", ["--units", "4", "--length", "6"]),
    ],
)
def test_pairs_without_a_card_train(name, options, data, capsys):
    code, last = run(capsys, "train", name, *TINY, *options, "--out", "run")
    assert code == 0, last
    assert last["status"] == "ok" and last["recipe"] == name and last["n"] == 2


def blocks(page):
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    return [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)```", text, re.S | re.M)]


@pytest.mark.parametrize(
    ("tasks", "options"),
    [
        ("omniglot", ["--filters", "2", "--queries", "1"]),
        ("clinc150", ["--dims", "32", "--queries", "1"]),
        ("digits.py:Digits", ["--queries", "2"]),
    ],
)
def test_a_method_written_from_the_page_alone_trains_on_three_families(tasks, options, data, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    learner, _, method, family = blocks("own-learner.md")
    Path("cosine.py").write_text(learner + method)
    Path("digits.py").write_text(family)
    assert len(method.strip().splitlines()) <= 22
    name = f"{tasks}+cosine.py:CosineMethod"
    code, last = run(capsys, "train", name, *TINY, *options, "--out", "run")
    assert code == 0 and last["n"] == 2, last
    with pytest.raises(ConfigError, match=r"regress|classifies"):
        named("sinusoid+cosine.py:CosineMethod")


def test_tasks_of_ones_own_are_met_by_any_method(data, capsys):
    *_, family = blocks("own-tasks.md")
    Path("corridor.py").write_text(family)
    options = ["--memory-size", "4", "--minibatches", "1", "--epochs", "1"]
    code, last = run(capsys, "train", "corridor.py:CorridorTasks+rl2", *TINY, *options, "--out", "run")
    assert code == 0 and last["recipe"] == "CorridorTasks-rl2", last
    with pytest.raises(ConfigError, match="are environments"):
        named("corridor.py:CorridorTasks+proto")
    assert named("corridor.py:CorridorTasks+es-rl2").method.outer.population == 32
