"""A run folder is data: the recipe of somebody's own that it names is imported only where a person names it, too."""

import json
import os
import shutil
import textwrap

import pytest

import quickstudy
from quickstudy.cli.main import main
from quickstudy.runs import CheckpointRefused, own
from quickstudy.runs.files import canonical
from quickstudy.runs.reader import signed

MINE = textwrap.dedent(
    """\
    import pathlib
    from quickstudy.recipes import Card
    pathlib.Path(r"{told}").write_text("imported")

    {name} = Card("sinusoid", "maml", "sines of my own")
    """
)
SMALL = ["--meta-steps", "3", "--meta-batch", "2", "--test-tasks", "4", "--hidden-size", "4", "--keep", "2", "--quiet"]


def call(capsys, *words):
    """(exit code, all that was said) of one command in this process."""
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as error:
        code = error.code
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return code, out.out + out.err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a recipe in a file, and the file."""
    base = tmp_path_factory.mktemp("own")
    told, file, run = base / "told", base / "mine.py", base / "run"
    file.write_text(MINE.format(told=told, name="Mine"))
    main(["train", f"{file}:Mine", *SMALL, "--out", str(run)])
    assert told.read_text() == "imported"
    return run, file, told


def test_a_folder_that_names_a_recipe_imports_nothing(made, tmp_path, capsys, monkeypatch):
    """Wherever the file lies: in the folder, in the current one, at any path, or as a module."""
    run, _, told = made
    pwned = tmp_path / "pwned"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for where in (copy / "mine.py", tmp_path / "mine.py", tmp_path / "planted.py"):
        where.write_text(MINE.format(told=pwned, name="Mine"))
    told.unlink(missing_ok=True)
    for name in (
        "mine.py:Mine",
        f"{tmp_path}/mine.py:Mine",
        "planted:Mine",
        "./planted.py:Mine",
        "../copy/mine.py:Mine",
    ):
        for path in (copy / "run.json", *copy.glob("checkpoints/*/manifest.json")):
            value = {**json.loads(path.read_text()), "recipe": name}
            value.pop("recipe_file", None), value.pop("sha256")
            path.write_bytes(canonical(signed(value)))
        for command in ("resume", "evaluate"):
            code, said = call(capsys, command, copy)
            assert code == 4 and "--recipe" in said and "if you trust that file" in said
        with pytest.raises(CheckpointRefused, match="recipe="):
            quickstudy.load(copy)
        assert call(capsys, "report", copy)[0] in (0, 4)
        assert not pwned.exists() and not told.exists()


def test_a_report_of_a_run_of_ones_own_imports_nothing(made, capsys):
    run, file, told = made
    told.unlink(missing_ok=True)
    hidden = file.rename(file.with_suffix(".away"))
    try:
        assert call(capsys, "report", run)[0] == 0
    finally:
        hidden.rename(file)
    assert not told.exists()
    assert f"quickstudy train {file}:Mine" in (run / "report.html").read_text()


def test_a_recipe_that_is_named_goes_on_tests_and_is_loaded(made, capsys, monkeypatch):
    run, file, _ = made
    code, said = call(capsys, "evaluate", run, "--recipe", f"{file}:Mine", "--tasks", "5")
    assert code == 0 and f"--recipe {file}:Mine --tasks 5" in said, said
    code, said = call(capsys, "resume", run, "--recipe", f"{file}:Mine", "--meta-steps", "4", "--quiet")
    assert code == 0, said
    assert quickstudy.load(run, recipe=f"{file}:Mine").step == 4
    monkeypatch.chdir(file.parent)
    assert quickstudy.load(run, recipe="mine.py:Mine").experiment is not None


def test_another_recipe_than_the_one_that_made_the_run_is_refused(made, tmp_path, capsys):
    run, file, _ = made
    other = tmp_path / "mine.py"
    other.write_text(MINE.format(told=tmp_path / "other", name="Mine") + "# changed\n")
    for named, message in (
        (f"{other}:Mine", "the file was changed since"),
        (f"{file}:Other", "is of the recipe mine.py:Mine, not mine.py:Other"),
        (f"{tmp_path / 'yours.py'}:Mine", "not yours.py:Mine"),
        ("sinusoid-maml", "not sinusoid-maml"),
    ):
        for command in ("resume", "evaluate"):
            code, said = call(capsys, command, run, "--recipe", named)
            assert code == 4 and message in said
    assert call(capsys, "evaluate", run, "--recipe", f"{tmp_path / 'no' / 'mine.py'}:Mine")[0] == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("recipe", "given", "answer"),
    [
        ("sinusoid-maml", None, "sinusoid-maml"),
        ("sinusoid-maml", "sinusoid-maml", "sinusoid-maml"),
        ("sinusoid-maml", "mine.py:Mine", None),
        ("package.module:Mine", None, None),
        ("package.module:Mine", "package.module:Mine", "package.module:Mine"),
        ("package.module:Mine", "module:Mine", None),
        ("os.path", None, "os.path"),  # a name that no recipe has, to be refused by the list of recipes
        ("../../x.py", None, None),
        (f"..{os.sep}x", None, None),
    ],
)
def test_which_recipe_is_built(recipe, given, answer):
    run = {"recipe": recipe, "config": {}}
    if answer is None:
        with pytest.raises(CheckpointRefused):
            own.recipe_of(run, "run", given)
    else:
        assert own.recipe_of(run, "run", given) == answer


def test_a_name_of_the_list_imports_nothing_else():
    from quickstudy.config import ConfigError
    from quickstudy.recipes import recipe_of

    for name in ("os:path", "x.py:X"):
        with pytest.raises(ConfigError, match="only where a person names it"):
            recipe_of(name)
