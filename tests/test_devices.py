"""Tasks shared by several devices. JAX counts a CPU's devices once, as it starts: hence a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AS_USERS_HAVE_IT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}  # conftest leaves what is set as it is
EXACT = "interrupted_is_never or never_change_the_bits or survives_a_resume"


@pytest.mark.parametrize(
    ("words", "devices"),
    [
        (["two_devices.py"], 2),
        (["layouts.py"], 4),
        (["test_train.py", "-k", EXACT], 1),
        (["test_images.py", "-k", "every_way or own or conv4"], 1),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_as_users_have_it(words, devices):
    """With XLA's optimiser, which the suite does without: what has to be equal to the last bit, and images."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *words]
    env = {**os.environ, **AS_USERS_HAVE_IT, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_one_core_is_one_device_with_one_thread_and_leaves_the_environment_as_it_was():
    code = (
        "import os; from quickstudy.parallel.mesh import use_cores; use_cores(0, 1); import jax; "
        "from pathlib import Path; "
        "names = [comm.read_text() for comm in Path('/proc/self/task').glob('*/comm')]; "
        "print(jax.local_device_count(), os.environ.get('NPROC'), sum('XLAEigen' in name for name in names))"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("NPROC", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    devices, told, threads = done.stdout.split()
    assert (devices, told) == ("1", "None"), done.stderr
    assert threads == "1" or not Path("/proc/self/task").exists()
