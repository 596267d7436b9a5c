"""The run folder: complete or invisible, every wrong byte refused, one writer."""

import contextlib
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from quickstudy.runs import (
    LOCK,
    MANIFEST,
    METRICS,
    TENSORS,
    CheckpointRefused,
    FolderInUse,
    RunFolder,
    StorageFailed,
    checks,
    files,
    lock,
    logs,
    reader,
    schema,
    tensors,
)
from quickstudy.runs.lock import HOLDER, FolderLock
from quickstudy.runs.reader import parse, signed

CONFIG = {"meta_steps": 6, "meta_batch": 4, "seed": 0, "devices": 1, "cores": 0, "inner_rate": 0.1}
ABOUT = {"recipe": "sinusoid-maml", "config": CONFIG}


def state(value=1.0):
    return {"learner": {"w": jnp.full((2, 3), value), "n": jnp.arange(4)}, "key": jax.random.key(3)}


def line(step, loss=0.5):
    return {"step": step, "diverged": 0, "loss": loss}


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.note(ABOUT)
        for step in (2, 4, 6):
            run.append(METRICS, line(step - 1))
            run.append(METRICS, line(step))
            run.save(step, state(float(step)), keep=3)
            run.append(schema.VALIDATION, {"step": step, "metric": "loss", "curve": [], "n": 3})
    return run


def fresh(run):
    """The folder as another process sees it."""
    return RunFolder(run.path)


def test_what_was_saved_is_what_is_loaded(folder):
    back = folder.load(4, state())
    np.testing.assert_array_equal(back["learner"]["w"], jnp.full((2, 3), 4.0))
    assert back["learner"]["n"].dtype == jnp.int32
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), jax.random.key_data(jax.random.key(3)))
    assert folder.newest() == 6
    assert not list(folder.path.rglob(".tmp-*"))


def test_our_files_of_arrays_are_safetensors_and_theirs_are_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "scalar": np.array(2.5, np.float32), "none": np.zeros((0, 3), np.int64), "bits": rng.random((3, 5)) > 0.5,
        "half": rng.random(7).astype(np.float16), "brain": rng.random((2, 2)).astype(ml_dtypes.bfloat16),
        "double": rng.random((2, 3, 4)), "across": rng.random((4, 6)).T, "bytes": rng.integers(0, 255, 9, np.uint8),
    }  # fmt: skip
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    mark = tensors.write(ours, arrays, lambda file: None)
    assert mark == {"bytes": ours.stat().st_size, "sha256": files.sha256(ours.read_bytes())}
    safetensors.numpy.save_file({name: np.array(array, order="C") for name, array in arrays.items()}, theirs)
    for back in (
        safetensors.numpy.load_file(ours),
        tensors.read(ours, mark, ""),
        tensors.read(theirs, {"bytes": theirs.stat().st_size, "sha256": files.sha256(theirs.read_bytes())}, ""),
    ):
        assert back.keys() == arrays.keys()
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype and back[name].shape == array.shape
            assert back[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_every_flipped_byte_is_refused(folder, name):
    path = folder.checkpoints / "00000006" / name
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(CheckpointRefused, match=name):
            folder.load(6, state())
    path.write_bytes(data)
    folder.load(6, state())


def test_every_flipped_byte_of_the_configuration_is_refused(folder):
    """A byte of white space alone may be another."""
    path = folder.path / "run.json"
    data, about = path.read_bytes(), folder.about()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with contextlib.suppress(CheckpointRefused):
            folder.load(6, state())
            assert folder.about() == about
    path.write_bytes(data.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(CheckpointRefused, match="saved when seed was 0, is 1: put that back"):
        folder.load(6, state())


def sign(path, **changes):
    """Changes a file and signs it anew, as whoever means to deceive would."""
    value = json.loads(path.read_bytes())
    del value["sha256"]
    path.write_text(json.dumps(signed({**value, **changes})))


def test_another_run_is_refused_even_if_it_is_signed(folder, tmp_path):
    path = folder.path / "run.json"
    data = path.read_bytes()
    for changes, message in (
        ({"config": {**CONFIG, "inner_rate": 0.2}}, r"inner_rate was 0\.1, is 0\.2"),
        ({"recipe": "sinusoid-reptile"}, "was saved by the recipe sinusoid-maml"),
        ({"id": "0" * 64}, "another run"),
    ):
        sign(path, **changes)
        with pytest.raises(CheckpointRefused, match=message):
            folder.load(6, state())
        path.write_bytes(data)
    longer = RunFolder(tmp_path / "longer")
    longer.note({**ABOUT, "config": {**CONFIG, "meta_steps": 9}})  # this may change, but by resuming alone
    path.write_bytes((longer.path / "run.json").read_bytes())
    with pytest.raises(CheckpointRefused, match="another run"):
        folder.load(6, state())


def test_what_may_change_changes_and_is_remembered(folder):
    with folder.locked():
        folder.note({**ABOUT, "config": {**CONFIG, "meta_steps": 8}}, 4)
    again = fresh(folder)
    assert again.about()["config"]["meta_steps"] == 8
    assert [(h["step"], h["config"]["meta_steps"]) for h in again.about()["history"]] == [(0, 6), (4, 8)]
    again.load(6, state())
    again.note({**ABOUT, "config": {**CONFIG, "meta_steps": 9}}, 2)  # gone back before the change
    assert [(h["step"], h["config"]["meta_steps"]) for h in again.about()["history"]] == [(0, 6), (2, 9)]
    again.load(6, state())


def test_folders_of_another_format_are_refused_with_the_version_that_made_them(folder):
    sign(folder.path / "run.json", format=1, quickstudy="0.1.0")
    with pytest.raises(CheckpointRefused, match=r"use the version that made it: quickstudy 0\.1\.0"):
        folder.about()


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "gone", "swapped", "pipe", "folder", "device"])
def test_every_damaged_file_is_refused_and_the_previous_one_loads(folder, name, damage):
    path = folder.checkpoints / "00000006" / name
    data = path.read_bytes()
    if damage in REPLACED:
        path.unlink()
        REPLACED[damage](path)
    elif damage == "swapped":
        path.write_bytes((folder.checkpoints / "00000004" / name).read_bytes())
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "longer": data + b" "}[damage])
    with pytest.raises(CheckpointRefused, match="00000006"):
        folder.load(6, state())
    folder.load(4, state())
    assert folder.sound() == [2, 4]


REPLACED = {
    "gone": lambda path: None,
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize("name", ["run.json", METRICS, "evaluation.json", "evaluation.safetensors"])
def test_nothing_but_regular_files_is_read(folder, name, kind):
    folder.write_evaluation(SUMMARY, ARRAYS, "evaluation")
    path = folder.path / name
    path.unlink()
    REPLACED[kind](path)
    read = {
        "run.json": folder.about,
        METRICS: lambda: folder.lines(METRICS),
        "evaluation.json": lambda: folder.read_evaluation("evaluation"),
        "evaluation.safetensors": lambda: folder.read_evaluation("evaluation"),
    }[name]
    with pytest.raises(CheckpointRefused, match=f"{name}.*not a regular file"):
        read()


def test_swapped_folders_are_refused(folder):
    a, b, c = (folder.checkpoints / n for n in ("00000004", "00000006", "x"))
    a.rename(c), b.rename(a), c.rename(b)
    with pytest.raises(CheckpointRefused, match="swapped"):
        folder.load(6, state())


def test_only_digits_are_steps(folder):
    for name in ("0000001²", "٠٠٠٠٠٠٠٧", "7", "0000000x", "000000007"):
        (folder.checkpoints / name).mkdir()
    assert folder.steps() == [2, 4, 6] and folder.newest() == 6


def test_another_model_is_refused_with_names(folder):
    other = {"learner": {"w": jnp.zeros((3, 3)), "n": jnp.arange(4)}, "key": jax.random.key(0)}
    with pytest.raises(CheckpointRefused, match=r"'w'.*float32\[2, 3\]"):
        folder.load(6, other)


def test_no_code_runs(folder):
    data = b"cos\nsystem\n(S'touch /tmp/pwned'\ntR."
    (folder.checkpoints / "00000006" / TENSORS).write_bytes(data)
    with pytest.raises(CheckpointRefused):
        folder.load(6, state())


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff", b"NaN", b"[Infinity]", b"[-Infinity]", b"1e999", b'"\\ud800"', b'{"\\udfff": 1}',
        b"9" * 5000, b"9" * 25, b"-" + b"9" * 20, b"[" * 40 + b"]" * 40, b"[" * 100_000, b'{"a":' * 100_000,
        "\ud800".encode("utf-8", "surrogatepass"),
    ],
)  # fmt: skip
def test_json_that_no_run_writes_is_one_error(text):
    with pytest.raises(ValueError):
        parse(text)


def test_json_that_a_run_writes_is_read():
    value = {"a": [1, -2.5, None, True, "é…"], "b": {"c": []}}
    assert parse(files.canonical(value)) == value
    assert parse(b"18446744073709551615") == 2**64 - 1


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (schema.Mark, {"bytes": 1}, "sha256 is missing"),
        (schema.Mark, {"bytes": True, "sha256": "0" * 64}, "bytes must be an integer, got True"),
        (schema.Mark, {"bytes": -1, "sha256": "0" * 64}, "bytes is -1, not 0 or more"),
        (schema.Mark, {"bytes": 1, "sha256": "G" * 64}, "SHA-256"),
        (dict[str, schema.Moment], {"loss": "1e3"}, "loss is '1e3', not nan, inf or -inf"),
        (schema.MetricsLine, {"step": 1, "diverged": 0, "loss": "<b>"}, "loss must be a number"),
        (schema.MetricsLine, {"step": 1, "diverged": 0, "diverged_tasks": [[1]]}, r"tasks\[0\] must be a list of 2"),
        (schema.ValidationLine, {"step": 1, "metric": "", "n": 1, "curve": [{"adaptations": "<b>"}]}, "adaptations"),
        (schema.Header, {"w": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 4]}}, r"shape\[0\] must be an int"),
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_refused_with_its_place(kind, value, message):
    with pytest.raises(ValueError, match=message):
        checks.check(kind, value)


def test_every_kind_of_a_union_is_one():
    for value in (1, 2.5, "nan", "-inf"):
        checks.check(schema.Moment, value)
    checks.check(float | None, None)


def test_a_torn_log_goes_back_to_the_checkpoint_whose_log_is_whole(folder):
    log = folder.path / METRICS
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 7, "lo')
    assert folder.newest() == 6
    assert folder.rewind(6) == []
    assert log.read_bytes() == whole
    log.write_bytes(whole[:-5])
    assert folder.newest() == 4
    assert folder.rewind(4) == []
    assert [line["step"] for line in folder.lines(METRICS)] == [1, 2, 3, 4]
    assert [line["step"] for line in folder.lines(schema.VALIDATION)] == [2, 4]


def test_a_damaged_line_after_the_checkpoint_does_not_come_before_it(folder):
    """Its step is another, 5 became 2, which the checkpoint to go on from has already."""
    log = folder.path / METRICS
    whole = log.read_bytes()
    log.write_bytes(whole.replace(files.canonical(line(5)), files.canonical(line(2))))
    assert log.read_bytes() != whole and folder.newest() == 4
    assert folder.rewind(4) == []
    assert [line["step"] for line in folder.lines(METRICS)] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", [METRICS, schema.VALIDATION])
def test_a_log_that_was_damaged_before_every_checkpoint_is_kept_beside(folder, name):
    """A flipped byte of the first line: what can be read goes on, nothing is lost, and it is said."""
    with folder.locked():
        folder.save(8, state(), keep=1)
    log = folder.path / name
    whole = log.read_bytes()
    damaged = b"\x5b" + whole[1:]
    log.write_bytes(damaged)
    with pytest.raises(CheckpointRefused, match=f"{name}.*resume"):
        folder.lines(name)
    again = fresh(folder)
    assert again.newest() == 8
    with again.locked():
        [said] = again.rewind(8)
        assert f"{name}.damaged" in said
        assert (folder.path / f"{name}.damaged").read_bytes() == damaged
        kept = log.read_bytes()
        assert kept and whole.endswith(kept)
        again.save(8, state(), keep=1)
        log.write_bytes(b"\x5b" + kept[1:])
        [said] = again.rewind(8)
        assert f"{name}.damaged-2" in said
        again.save(8, state(), keep=1)
    assert fresh(folder).lines(name) and fresh(folder).rewind(8) == []


def test_a_save_does_not_read_the_log_again(folder, monkeypatch):
    """Its sum is kept while it grows, so that saves cost the same however long the log is."""

    def read(*_):
        raise AssertionError("read again")

    with folder.locked():
        monkeypatch.setattr(logs, "read_log", read)
        folder.append(METRICS, line(7))
        folder.save(7, state(), keep=2)
    monkeypatch.undo()
    assert fresh(folder).newest() == 7
    assert folder.manifest(7)["logs"][METRICS]["sha256"] == files.sha256((folder.path / METRICS).read_bytes())


SUMMARY = {
    "step": 6, "metric": "loss", "lower_is_better": True, "score": 1.0, "ci": [0.5, 1.5], "n": 3, "baselines": {},
    "curve": [{"adaptations": 0, "mean": 1.0, "iqm": 1.0, "ci": [0.5, 1.5], "iqm_ci": [0.5, 1.5]}], "diverged": [],
    "note": "",
}  # fmt: skip
ARRAYS = {"values": np.ones(3), "curves": np.ones((3, 1))}


def test_a_test_belongs_to_its_checkpoint_and_configuration(folder):
    folder.write_evaluation(SUMMARY, ARRAYS, "evaluation")
    summary, arrays = folder.read_evaluation("evaluation")
    assert summary["score"] == 1.0 and arrays["curves"].shape == (3, 1)
    path = folder.path / "evaluation.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"score": 1.0', b'"score": 9.0'))
    with pytest.raises(CheckpointRefused, match=r"evaluation\.json.*quickstudy evaluate"):
        folder.read_evaluation("evaluation")
    sign(path, curve=[{"adaptations": "<script>", "mean": 1.0, "iqm": 1.0, "ci": [0, 1], "iqm_ci": [0, 1]}])
    with pytest.raises(CheckpointRefused, match=r"curve\[0\].adaptations must be an integer"):
        folder.read_evaluation("evaluation")
    path.write_bytes(data)
    with folder.locked():
        folder.save(6, state(6.5), keep=3)
    with pytest.raises(CheckpointRefused, match="test of another checkpoint"):
        folder.read_evaluation("evaluation")
    with folder.locked():
        folder.save(6, state(6.0), keep=3)
    folder.read_evaluation("evaluation")
    with folder.locked():
        folder.save(8, state(), keep=1)
    folder.read_evaluation("evaluation")  # the checkpoint was dropped since, the run is the same
    folder.note({**ABOUT, "config": {**CONFIG, "inner_rate": 0.2}}, anew=True)
    with pytest.raises(CheckpointRefused, match="test of another config, run"):
        folder.read_evaluation("evaluation")


def test_only_the_newest_are_kept(folder):
    with folder.locked():
        folder.save(8, state(), keep=2)
    assert folder.steps() == [6, 8]


HOLD = "import os; from quickstudy.runs.lock import FolderLock; held = FolderLock({!r}).held(); held.__enter__(); "


def test_a_lock_of_the_dead_is_taken_over_and_stale_temporaries_go(tmp_path):
    code = HOLD.format(str(tmp_path)) + "os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / LOCK).exists() and (tmp_path / HOLDER).exists()
    (tmp_path / "checkpoints" / ".tmp-1-00000002").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-1-00000002" / "x").write_text("half")
    (tmp_path / ".tmp-x-report.html").write_text("half")
    with RunFolder(tmp_path).locked():
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
        assert not list(tmp_path.rglob(".tmp-*"))
        with pytest.raises(FolderInUse, match="in use by process"), RunFolder(tmp_path).locked():
            pass
    with RunFolder(tmp_path).locked():  # free again
        pass


def test_a_second_writer_is_refused_before_jax_is_imported(tmp_path):
    """At once, with who holds the folder and since when."""
    words = ["train", "sinusoid-maml", "--out", str(tmp_path / "run")]
    code = f"import sys; from quickstudy.cli.main import main; sys.modules['jax'] = None; main({words!r})"
    with RunFolder(tmp_path / "run").locked():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert f"in use by process {os.getpid()} on " in done.stderr and f" since {time.strftime('%Y-')}" in done.stderr


def test_a_folder_that_was_made_for_nothing_is_gone_again(tmp_path):
    with FolderLock(tmp_path / "new").held():
        assert (tmp_path / "new" / LOCK).exists()
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with FolderLock(tmp_path / "there").held():
        pass
    assert (tmp_path / "there").exists()


def test_a_lock_that_is_held_already_is_taken_along(tmp_path):
    held = FolderLock(tmp_path)
    with held.held():
        with RunFolder(held).locked():
            pass
        with pytest.raises(FolderInUse), RunFolder(tmp_path).locked():  # still
            pass


def test_on_a_network_a_process_of_another_host_is_not_dead(tmp_path, monkeypatch):
    left = files.canonical(signed({"pid": 1, "host": "elsewhere", "since": "yesterday"}))
    (tmp_path / HOLDER).write_bytes(left)
    monkeypatch.setattr(lock, "on_network", lambda path: True)
    with pytest.raises(FolderInUse, match=f"process 1 on elsewhere since yesterday.*remove .*{HOLDER}"):
        RunFolder(tmp_path).lock.held().__enter__()
    monkeypatch.undo()
    with RunFolder(tmp_path).locked():  # on a disk of this machine it is
        pass
    assert not lock.on_network(tmp_path)


def test_a_link_in_the_place_of_a_file_that_is_written_is_not_followed(folder, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in (LOCK, METRICS):
        path = folder.path / name
        path.unlink()
        path.symlink_to(precious)
        with pytest.raises((CheckpointRefused, StorageFailed)), fresh(folder).locked():
            fresh(folder).append(METRICS, line(7))
        assert precious.read_text() == "mine"
        path.unlink()
        path.write_text("")
    (folder.path / HOLDER).symlink_to(precious)
    with fresh(folder).locked():
        pass
    assert precious.read_text() == "mine"


def test_a_checkpoint_is_there_or_not_whenever_removing_it_is_cut_short(folder, monkeypatch):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with folder.locked():
        monkeypatch.setattr("quickstudy.runs.folder.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            folder.rewind(folder.steps()[0])
    assert folder.newest() in folder.steps()


def test_a_full_disk_keeps_the_last_good_step(folder, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("quickstudy.runs.folder.write_synced", full)
    with pytest.raises(StorageFailed, match="No space left"):
        folder.save(8, state(), keep=1)
    assert folder.steps() == [2, 4, 6]
    assert not list(folder.path.rglob(".tmp-*"))
    folder.load(6, state())


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        RunFolder(tmp_path / "nothing").about()


def test_a_file_that_is_too_large_is_not_read(folder, monkeypatch):
    with open(folder.path / "run.json", "r+b") as file:
        file.truncate(2**40)  # holes take no space
    with pytest.raises(CheckpointRefused, match="more than the"):
        folder.about()
    tensor = folder.checkpoints / "00000006" / TENSORS
    with open(tensor, "r+b") as file:
        file.truncate(2**39)
    with pytest.raises(CheckpointRefused, match="checksum"):  # at once: half a terabyte of zeros would take an hour
        tensors.check_sum(tensor, reader.read_manifest(folder.path, 6)["files"][TENSORS], "")


SYSTEM = """
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import quickstudy
experiment = quickstudy.recipe("sinusoid-maml", meta_steps=4, meta_batch=2, hidden_size=4, test_tasks=4)
whole = experiment.train({0!r})
again = experiment.train({0!r}, resume=2)
assert whole.digests == again.digests and not [m for m in ("fcntl", "resource") if sys.modules[m]]
from quickstudy.runs import RunFolder, FolderInUse
with RunFolder({0!r}).locked():
    try:
        with RunFolder({0!r}).locked(): sys.exit(1)
    except FolderInUse as error:
        print(error)
"""


def test_a_system_without_fcntl_and_resource_trains_too(tmp_path):
    """As Windows."""
    code = SYSTEM.format(str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"in use by process {os.getpid()}" not in done.stdout and "in use by process" in done.stdout
