"""The command line: exit codes, messages, JSON; and the whole journey of a small run."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from quickstudy.cli.main import main
from quickstudy.runs import StorageFailed
from quickstudy.runs.reader import signed

SMALL = ["--meta-steps", "20", "--meta-batch", "4", "--test-tasks", "20", "--hidden-size", "8"]


NO_JAX = "import sys; from quickstudy.cli.main import main; main({}); sys.exit('jax' in sys.modules)"


def call(capsys, *words):
    """(exit code, stdout, stderr) of one command in this process."""
    code = 0
    try:
        main([str(w) for w in words])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sine"
    main(["train", "sinusoid-maml", *SMALL, "--out", str(folder), "--quiet"])
    return folder


def test_help_is_quick_and_needs_no_jax():
    code = NO_JAX.format(["--help"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train RECIPE" in done.stdout


def test_list_needs_no_jax_and_is_json():
    code = NO_JAX.format(["list", "--json"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    recipes = {r["name"]: r for r in json.loads(done.stdout)["recipes"]}
    assert {"sinusoid-maml", "navigation-maml", "navigation-es-maml", "bandit-rl2", "sinusoid-reptile"} <= set(recipes)
    assert all(r["description"] and r["expected"] and r["source"] for r in recipes.values())


def test_train_json_is_json_to_the_last_line(capsys, tmp_path):
    code, out, _ = call(capsys, "train", "sinusoid-maml", *SMALL, "--seed", 3, "--out", tmp_path / "r", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    last = lines[-1]
    assert last["status"] == "ok" and last["recipe"] == "sinusoid-maml" and last["metric"] == "query MSE"
    assert last["run"] == str(tmp_path / "r") and last["n"] == 20 and len(last["ci"]) == 2
    assert last["ci"][0] <= last["score"] <= last["ci"][1]
    assert [p["adaptations"] for p in last["curve"]] == [0, 1, 5, 10]
    assert all({"adaptations", "mean", "iqm", "ci"} <= set(p) for p in last["curve"])
    start = next(line for line in lines if line.get("event") == "start")
    assert "start.net.layers[0].weight" in start["meta_parameters"]
    assert json.loads((tmp_path / "r" / "run.json").read_text())["config"]["seed"] == 3


def test_writers_are_called_and_closed_also_when_training_fails(tmp_path, monkeypatch, capsys):
    told, full = [], []

    class Scalars:
        def __init__(self, path):
            told.append("tensorboard opened")

        def add_scalar(self, name, value, step):
            told.append((name, step))
            if full:
                raise StorageFailed("writing failed: no space")

        def close(self):
            told.append("tensorboard closed")

    class Weights:
        def log(self, scalars, step):
            told.append((set(scalars), step))

        def finish(self):
            told.append("wandb closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Scalars))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda project, config: Weights()))
    words = ["train", "sinusoid-maml", *SMALL, "--out", tmp_path / "run", "--tensorboard", "--wandb", "mine", "--quiet"]
    code, _, said = call(capsys, *words)
    assert code == 0, said
    assert ("train/loss", 20) in told
    assert any(isinstance(t[0], set) and "train/loss" in t[0] and t[1] == 20 for t in told)
    assert told[-2:] == ["tensorboard closed", "wandb closed"]
    told.clear()
    assert call(capsys, *words)[0] == 2  # the folder holds a run
    assert told == []  # nothing was opened for it

    def refuse(project, config):
        raise ValueError("no key")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    words[words.index(tmp_path / "run")] = tmp_path / "other"
    code, said, error = call(capsys, *[word for word in words if word != "--quiet"])
    assert code == 2 and "no key" in error and "compiling" not in said
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda project, config: Weights()))
    told.clear()
    full.append("disk")
    assert call(capsys, *words)[0] == 6  # and the folder was free
    assert told[0] == "tensorboard opened" and told[-2:] == ["tensorboard closed", "wandb closed"]


def test_a_cache_that_cannot_be_written_is_reported_in_one_line(tmp_path):
    (tmp_path / "cache").write_text("a file")
    words = ["train", "sinusoid-maml", *SMALL, "--out", str(tmp_path / "run"), "--quiet"]
    env = {**os.environ, "QUICKSTUDY_CACHE": str(tmp_path / "cache" / "below"), "PYTHONWARNINGS": "default"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-m", "quickstudy", *words], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    [said] = done.stderr.splitlines()
    assert said.startswith("quickstudy: warning: compiled programs are not kept") and "QUICKSTUDY_CACHE" in said


def test_the_folder_is_enough(trained, capsys):
    code, out, err = call(capsys, "evaluate", trained, "--tasks", 30, "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["n"] == 30
    page = trained / "report.html"
    first = page.read_bytes()
    assert call(capsys, "report", trained)[0] == 0
    assert page.read_bytes() == first
    code, out, _ = call(capsys, "resume", trained, "--json")
    assert code == 0 and json.loads(out.splitlines()[-1])["status"] == "ok"


def test_a_test_under_another_setting_leaves_the_runs_own_alone(trained, capsys):
    before = (trained / "evaluation.json").read_bytes()
    code, out, err = call(capsys, "evaluate", trained, "--tasks", 20, "--other", "shots=3", "inner-rate=0.02", "--json")
    last = json.loads(out.splitlines()[-1])
    assert code == 0 and last["other"] == {"shots": 3, "inner_rate": 0.02}, err
    written = json.loads((trained / "evaluation-shots=3-inner_rate=0.02.json").read_text())
    assert written["score"] == last["score"] != json.loads(before)["score"]
    assert (trained / "evaluation.json").read_bytes() == before
    for word, message in (
        ("shots", "takes name=value"),
        ("shotz=3", "did you mean shots"),
        ("hidden_size=9", "another"),
    ):
        code, out, err = call(capsys, "evaluate", trained, "--other", word)
        assert code in (2, 4) and message in out + err and "Traceback" not in out + err


def test_plain_output_has_no_carriage_returns_and_names_the_result(trained, capsys):
    _, out, _ = call(capsys, "evaluate", trained, "--tasks", 20)
    assert "\r" not in out and "\x1b" not in out
    assert "query MSE" in out and "95 % interval" in out and "report.html" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian", "x"], 2, "did you mean train"),
        (["train", "sinusoid-mmal"], 2, "there is no method 'mmal' for 'sinusoid-mmal'; did you mean"),
        (["train", "sinusoid-maml", "--meta-steps", "-1", "--shots", "-1", "--inner-rate", "nan"], 2, "shots must be"),
        (
            ["train", "sinusoid-maml", "--meta-steps", "-1", "--shots", "-1", "--inner-rate", "nan"],
            2,
            "meta_steps must be at least 0",
        ),
        (
            ["train", "sinusoid-maml", "--meta-steps", "-1", "--shots", "-1", "--inner-rate", "nan"],
            2,
            "inner_rate must be",
        ),
        (["train", "bandit-rl2", "--minibatches", "7"], 2, "must divide"),
        (["train", "sinusoid-maml", "--meta-stepz", "3"], 2, "meta-steps"),
        (["train", "sinusoid-maml", "--meta-steps", "many"], 2, "many"),
        (["resume", "nowhere"], 2, "not a run folder"),
        (["evaluate", "nowhere"], 2, "not a run folder"),
        (["report", "nowhere"], 2, "not a run folder"),
        (["train"], 2, "needs a recipe"),
    ],
)
def test_bad_commands_get_one_message_and_no_traceback(capsys, words, code, message):
    got, out, err = call(capsys, *words)
    assert got == code
    assert message in out + err
    assert "Traceback" not in out + err


def test_errors_are_json_too(capsys):
    code, out, _ = call(capsys, "train", "sinusoid-mmal", "--json")
    last = json.loads(out.splitlines()[-1])
    assert code == 2 and last["status"] == "error" and last["code"] == 2 and "sinusoid-maml" in last["message"]


def test_a_damaged_checkpoint_exits_4_and_the_previous_one_goes_on(trained, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    newest = sorted((copy / "checkpoints").iterdir())[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    for command in ("resume", "evaluate"):
        code, out, err = call(capsys, command, copy)
        assert code == 4, out + err
        assert "state.safetensors" in err and "Traceback" not in err
        assert f"whole are the checkpoints of 18, 19: quickstudy {command} {copy} --step N" in err
    previous = int(sorted((copy / "checkpoints").iterdir())[-2].name)
    assert call(capsys, "resume", copy, "--step", previous, "--quiet")[0] == 0


def test_a_run_can_be_made_longer_but_not_into_another(trained, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    assert call(capsys, "resume", copy, "--meta-steps", 24, "--quiet")[0] == 0
    assert json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 24
    about = json.loads((copy / "run.json").read_text())
    assert about["config"]["meta_steps"] == 24
    assert [(h["step"], h["config"]["meta_steps"]) for h in about["history"]] == [(0, 20), (20, 24)]
    assert call(capsys, "resume", copy, "--meta-steps", 3)[0] == 2
    tested = (copy / "evaluation.json").read_bytes()
    del about["sha256"]
    for sign in (lambda about: about, signed):  # by mistake, or on purpose
        about["config"]["inner_rate"] = 0.5
        (copy / "run.json").write_text(json.dumps(sign(about)))
        for command in ("resume", "evaluate"):
            code, _, err = call(capsys, command, copy)
            assert code == 4 and "inner_rate was 0.01, is 0.5" in err and "run.json" in err
    (copy / "run.json").write_text(json.dumps(signed({**about, "recipe": "sinusoid-reptile"})))
    for command in ("resume", "evaluate"):
        code, _, err = call(capsys, command, copy)
        assert code == 4 and "sinusoid-maml" in err and "sinusoid-reptile" in err
    assert (copy / "evaluation.json").read_bytes() == tested


def test_a_refused_resume_leaves_the_run_as_it_is(trained, capsys):
    before = (trained / "run.json").read_text()
    for wrong in (["--devices", -2], ["--keep", 0, "--max-diverged", 7], ["--step", 20, "--meta-steps", 3]):
        code, _, err = call(capsys, "resume", trained, *wrong)
        assert code == 2 and "Traceback" not in err
        assert (trained / "run.json").read_text() == before


def test_what_came_after_the_step_to_go_on_from_is_dropped(trained, capsys, tmp_path):
    from quickstudy.runs import RunFolder

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    steps = RunFolder(copy).steps()
    longer = steps[0] + 1
    code, _, err = call(capsys, "resume", copy, "--step", steps[0], "--meta-steps", longer, "--keep", 2, "--quiet")
    assert code == 0, err
    assert RunFolder(copy).steps() == [steps[0], longer]
    assert json.loads((copy / "evaluation.json").read_text())["step"] == longer
    assert json.loads((copy / "run.json").read_text())["config"]["keep"] == 2


def test_an_earlier_checkpoint_is_tested_beside_the_result(trained, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    before, earlier = (copy / "evaluation.json").read_text(), int(sorted((copy / "checkpoints").iterdir())[0].name)
    assert call(capsys, "evaluate", copy, "--step", earlier, "--tasks", 20)[0] == 0
    assert (copy / "evaluation.json").read_text() == before
    assert json.loads((copy / f"evaluation-step={earlier}.json").read_text())["step"] == earlier
    assert "at the end of training" in (copy / "report.html").read_text()
    shutil.rmtree(copy / "checkpoints" / "00000020")
    assert call(capsys, "evaluate", copy, "--tasks", 20)[0] == 0
    page = (copy / "report.html").read_text()
    assert "of 20 meta-steps" in page and "at the end of training" not in page


@pytest.mark.parametrize("written", ["5", '{"config": 3}', "["])
def test_a_damaged_run_file_exits_4_and_is_named(trained, capsys, tmp_path, written):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "run.json").write_text(written)
    for command in ("resume", "evaluate", "report"):
        code, _, err = call(capsys, command, copy)
        assert code == 4 and "run.json" in err


def test_damaged_scores_of_a_test_are_named(trained, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "evaluation.safetensors").write_bytes(b"\x05")
    code, _, err = call(capsys, "report", copy)
    assert code == 4 and "evaluation.safetensors" in err and "quickstudy evaluate" in err


def test_what_is_no_folder_and_a_name_too_long_are_refused_without_a_traceback(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for command in ("resume", "evaluate", "report"):
        code, _, err = call(capsys, command, tmp_path / "file")
        assert code == 2 and "is not a run folder" in err
        code, _, err = call(capsys, command, tmp_path / ("x" * 300))
        assert code in (2, 4) and "xxx" in err and "Traceback" not in err


def test_a_strangers_file_that_fails_is_named(capsys, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("nonsense")
    code, _, err = call(capsys, "train", f"{own}:X")
    assert code == 2 and "own.py" in err and "NameError" in err


def test_a_learner_is_not_saved_over_a_run(trained):
    import quickstudy
    from quickstudy.config import ConfigError
    from quickstudy.runs import RunFolder

    steps = RunFolder(trained).steps()
    result = quickstudy.recipe("sinusoid-maml", meta_steps=2, meta_batch=4, hidden_size=8, test_tasks=20).train()
    with pytest.raises(ConfigError, match="holds a run"):
        result.save(trained)
    assert RunFolder(trained).steps() == steps


def test_devices_that_are_not_there_leave_the_run_as_it_is(trained, capsys):
    before = (trained / "run.json").read_text()
    code, _, err = call(capsys, "resume", trained, "--devices", 64)
    assert code == 2 and "devices=64 do not fit on cores=1" in err
    code, _, err = call(capsys, "resume", trained, "--devices", 64, "--cores", 0)
    assert code == 2 and "devices=64, but JAX has" in err
    assert (trained / "run.json").read_text() == before


def test_a_folder_in_use_exits_5(trained, capsys):
    from quickstudy.runs import RunFolder

    with RunFolder(trained).locked():
        code, _, err = call(capsys, "resume", trained)
    assert code == 5 and str(os.getpid()) in err


def test_a_folder_that_cannot_be_written_exits_6(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "train", "sinusoid-maml", *SMALL, "--out", tmp_path / "file" / "run")
    assert code == 6, err
    assert "file" in err


def test_ctrl_c_saves_and_exits_130(tmp_path):
    out = tmp_path / "run"
    words = ["train", "sinusoid-maml", "--meta-steps", "1000000", "--log-every", "50", "--out", str(out)]
    code = (
        "import os, signal, sys\nfrom quickstudy.display import events\nfrom quickstudy.cli.main import main\n"
        "def listen(event):\n"
        "    if event['event'] == 'metrics' and event['step'] >= 100: os.kill(os.getpid(), signal.SIGINT)\n"
        "events.Plain = lambda: listen\n"
        f"main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert f"go on with: quickstudy resume {out}" in done.stderr
    assert "saved at step" in done.stderr and f"quickstudy resume {out}" in done.stderr
    assert [p for p in Path(out, "checkpoints").iterdir() if p.name.isdigit()]
