"""What surrounds a run does not end it: streams, the home folder, limits of memory."""

import os
import signal
import subprocess
import sys
import time

import pytest

import quickstudy
from quickstudy.display.events import Json, Plain
from quickstudy.runs import RunFolder

TRAIN = ["train", "sinusoid-maml", "--meta-steps", "4", "--meta-batch", "2", "--test-tasks", "4", "--hidden-size", "4"]


def run(*words, shell="", env=None, **options):
    """One command in a process of its own, within a shell's words."""
    command = [sys.executable, "-m", "quickstudy", *map(str, words)]
    if shell:
        command = ["bash", "-c", f"set -o pipefail; {shell.format(chr(34) + '$@' + chr(34))}", "bash", *command]
    settings = {**os.environ, **(env or {})}
    settings.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.run(command, capture_output=True, check=False, env=settings, **options)


def whole(folder):
    """Whether a run was trained and tested to its end."""
    return RunFolder(folder).steps()[-1] == 4 and RunFolder(folder).read_evaluation("evaluation")[0]["n"] == 4


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("{} | head -n 1", 0),  # a reader that had enough
        ("{} >&-", 0),
        ("{} >&- 2>&- <&-", 0),
        ("{} > /dev/full", 6),  # what was said is lost, and the exit code says so
    ],
)
def test_whatever_becomes_of_the_output_the_run_is_saved(tmp_path, shell, code):
    done = run(*TRAIN, "--out", tmp_path / "run", shell=shell)
    assert done.returncode == code, done.stderr
    assert whole(tmp_path / "run")
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_what_a_stream_has_no_character_for_is_replaced(tmp_path):
    done = run(*TRAIN, "--out", tmp_path / "run", env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0, done.stderr
    assert b"compiling ?" in done.stdout and whole(tmp_path / "run")


def test_a_stream_that_is_gone_does_not_end_a_run_in_python(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone, open(tmp_path / "latin", "w", encoding="latin-1") as latin:
        for listener in (Plain(gone), Json(gone), Plain(latin), Plain(None)):
            listener({"event": "warning", "text": "compiling … αβ"})
            listener({"event": "warning", "text": "again"})
        latin.flush()
        assert (tmp_path / "latin").read_text("latin-1").splitlines()[0] == "compiling ? ??"


HOMELESS = """
import pwd, sys
def unknown(*_): raise KeyError("uid not found")
pwd.getpwuid = unknown
from quickstudy.cli.main import main
main({!r})
"""


def test_a_user_without_a_home_goes_on_without_a_cache(tmp_path):
    """Whom the list of users does not know either, as in many containers."""
    words = [*TRAIN, "--out", str(tmp_path / "run"), "--quiet"]
    env = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH")}
    code = HOMELESS.format(words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "there is no home folder" in done.stderr and whole(tmp_path / "run")


def test_without_a_home_there_is_no_cache_and_a_warning(monkeypatch):
    import jax

    from quickstudy.nn import convolution
    from quickstudy.runs import cache

    for name in ("QUICKSTUDY_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    assert cache.cache_folder() is None
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_enable_compilation_cache", True)
        with pytest.warns(UserWarning, match="there is no home folder; set QUICKSTUDY_CACHE"):
            cache.use_compilation_cache()
        cache.use_compilation_cache()  # said once
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_enable_compilation_cache", before[1])
    convolution._remembered.cache_clear()
    assert convolution.settings()
    convolution._remembered.cache_clear()


def _no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space is Linux's")
@pytest.mark.parametrize("limit", [600_000, 800_000, 1_200_000, 2_000_000])
def test_too_little_address_space_is_refused_before_anything_is_loaded(tmp_path, limit):
    done = run(*TRAIN, "--out", tmp_path / "run", shell=f"ulimit -v {limit}; {{}}")
    assert done.returncode == 7, done.stderr
    [said] = done.stderr.decode().splitlines()
    assert f"limited to {limit * 1024 / 1e9:.2f} GB (ulimit -v)" in said and "are needed: raise it" in said
    assert "kept" not in said and not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space is Linux's")
def test_what_was_too_large_is_named(tmp_path):
    words = [*TRAIN[:-1], "20000", "--out", tmp_path / "run"]
    done = run(*words, shell="ulimit -v 2800000; {}")
    assert done.returncode == 7, done.stderr
    assert "GB could not be had" in done.stderr.decode() and "is kept" not in done.stderr.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space is Linux's")
def test_an_end_without_a_message_is_explained_where_memory_is_limited():
    """The child that works dies as the libraries underneath do; the parent that watches tells it."""
    code = (
        "import os, sys\nfrom quickstudy.cli import limits\n"
        "code = limits.supervise()\n"
        "if code is not None: sys.exit(code)\n"
        "os.abort()"
    )
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (8 * 10**9,) * 2)\n{code}"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 7 and "out of memory" in done.stderr and "SIGABRT" in done.stderr
    done = subprocess.run([sys.executable, "-c", limited.replace("os.abort()", "sys.exit(5)")], check=False)
    assert done.returncode == 5


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space is Linux's")
def test_a_signal_reaches_the_run_where_memory_is_limited(tmp_path):
    words = [*TRAIN, "--out", str(tmp_path / "run")]
    words[3:4] = ["100000000", "--log-every", "20"]
    process = subprocess.Popen(
        ["bash", "-c", 'ulimit -v 8000000; exec "$@"', "bash", sys.executable, "-m", "quickstudy", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert "is kept; go on with: quickstudy resume" in said and RunFolder(tmp_path / "run").newest()


def test_the_record_of_the_list_of_changes_is_the_one_of_the_options():
    import dataclasses

    from quickstudy.cli.commands import Changes
    from quickstudy.runs.schema import MAY_CHANGE

    assert {field.name for field in dataclasses.fields(Changes)} == MAY_CHANGE
    assert quickstudy.Training().errors() == []
