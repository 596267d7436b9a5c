"""Tasks shared by several devices. JAX counts a CPU's devices once, as it starts: hence a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("tests", "devices"), [("two_devices.py", 2), ("layouts.py", 4)])
def test_devices(tests, devices):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", tests]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, cwd=Path(__file__).parent, env=env, capture_output=True, text=True)
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
