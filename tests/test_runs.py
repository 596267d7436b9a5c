"""The run folder: complete or invisible, every wrong byte refused, one writer."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.runs import LOCK, MANIFEST, METRICS, TENSORS, CheckpointRefused, FolderInUse, RunFolder, StorageFailed


def state(value=1.0):
    return {"learner": {"w": jnp.full((2, 3), value), "n": jnp.arange(4)}, "key": jax.random.key(3)}


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path)
    with run.locked():
        for step in (2, 4, 6):
            run.append(METRICS, {"step": step - 1, "loss": 0.5})
            run.append(METRICS, {"step": step, "loss": 0.5})
            run.save(step, state(float(step)), keep=3)
    return run


def test_what_was_saved_is_what_is_loaded(folder):
    back = folder.load(4, state())
    np.testing.assert_array_equal(back["learner"]["w"], jnp.full((2, 3), 4.0))
    assert back["learner"]["n"].dtype == jnp.int32
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), jax.random.key_data(jax.random.key(3)))
    assert folder.newest() == 6
    assert not list(folder.path.rglob(".tmp-*"))


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


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "gone", "swapped"])
def test_every_damaged_file_is_refused_and_the_previous_one_loads(folder, name, damage):
    path = folder.checkpoints / "00000006" / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "swapped":
        path.write_bytes((folder.checkpoints / "00000004" / name).read_bytes())
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "longer": data + b" "}[damage])
    with pytest.raises(CheckpointRefused, match="00000006"):
        folder.load(6, state())
    folder.load(4, state())


def test_swapped_folders_are_refused(folder):
    a, b, c = (folder.checkpoints / n for n in ("00000004", "00000006", "x"))
    a.rename(c), b.rename(a), c.rename(b)
    with pytest.raises(CheckpointRefused, match="swapped"):
        folder.load(6, state())


def test_another_model_is_refused_with_names(folder):
    other = {"learner": {"w": jnp.zeros((3, 3)), "n": jnp.arange(4)}, "key": jax.random.key(0)}
    with pytest.raises(CheckpointRefused, match=r"'w'.*float32\[2, 3\]"):
        folder.load(6, other)


def test_no_code_runs(folder):
    data = b"cos\nsystem\n(S'touch /tmp/pwned'\ntR."
    (folder.checkpoints / "00000006" / TENSORS).write_bytes(data)
    with pytest.raises(CheckpointRefused):
        folder.load(6, state())


def test_a_torn_log_goes_back_to_the_checkpoint_whose_log_is_whole(folder):
    log = folder.path / METRICS
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 7, "lo')
    assert folder.newest() == 6
    folder.rewind(6)
    assert log.read_bytes() == whole
    log.write_bytes(whole[:-5])
    assert folder.newest() == 4
    folder.rewind(4)
    assert [line["step"] for line in folder.lines(METRICS)] == [1, 2, 3, 4]


def test_only_the_newest_are_kept(folder):
    with folder.locked():
        folder.save(8, state(), keep=2)
    assert folder.steps() == [6, 8]


def test_a_lock_of_the_dead_is_taken_over_and_stale_temporaries_go(tmp_path):
    held = f"RunFolder({str(tmp_path)!r}).locked()"
    code = f"import os; from quickstudy.runs import RunFolder; lock = {held}; lock.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / LOCK).exists()
    (tmp_path / "checkpoints" / ".tmp-1-00000002").mkdir()
    (tmp_path / "checkpoints" / ".tmp-1-00000002" / "x").write_text("half")
    with RunFolder(tmp_path).locked():
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not list(tmp_path.rglob(".tmp-*"))
        with pytest.raises(FolderInUse, match="in use by process"), RunFolder(tmp_path).locked():
            pass
    with RunFolder(tmp_path).locked():  # free again
        pass


def test_a_checkpoint_is_there_or_not_whenever_removing_it_is_cut_short(folder, monkeypatch):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with folder.locked():
        monkeypatch.setattr("quickstudy.runs.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            folder.rewind(folder.steps()[0])
    assert folder.newest() in folder.steps()


def test_a_full_disk_keeps_the_last_good_step(folder, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("quickstudy.runs.write_synced", full)
    with pytest.raises(StorageFailed, match="No space left"):
        folder.save(8, state(), keep=1)
    assert folder.steps() == [2, 4, 6]
    assert not list(folder.path.rglob(".tmp-*"))
    folder.load(6, state())


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        RunFolder(tmp_path / "nothing").read_json("run.json")
