"""Tasks shared by several devices. JAX counts a CPU's devices once, as it starts: hence a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def test_two_devices():
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "two_devices.py"]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, cwd=Path(__file__).parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
