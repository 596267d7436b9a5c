"""Shapes and types are checked while the tests run; compilations are kept between runs."""

import contextlib
import ctypes
import gc
import os
import tempfile
from pathlib import Path

from jaxtyping import install_import_hook

# The suite compiles for longer than it runs, in its subprocesses too. XLA's newer way of compiling fusions takes twice
# as long, and the workers keep all cores busy without splitting programs among them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

install_import_hook("quickstudy", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

CACHE = os.environ.setdefault("QUICKSTUDY_CACHE", str(Path(tempfile.gettempdir(), f"quickstudy-tests-{os.getuid()}")))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.devices()  # JAX starts with the devices it has here, whichever test comes first


MOST_BYTES, MOST_MAPPINGS = 1_200_000_000, 30_000  # of a worker, before it drops its compiled programs


@pytest.fixture(autouse=True)
def programs_are_dropped():
    """Compiled programs stay in memory, several GB of a worker in the end; and each keeps mappings of memory, of which
    Linux allows a process 65,530: one more and it dies of a segmentation fault."""
    yield
    statm, maps = Path("/proc/self/statm"), Path("/proc/self/maps")
    if not statm.exists():
        return
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > MOST_BYTES or maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, with glibc


@pytest.fixture
def key():
    return jax.random.key(0)
