"""The platform that a program is built for, which need not be the one that builds it.

What is fast, or possible without waiting for the host, differs between CPUs and accelerators, so code chooses by it
while a program is traced. The platform is an argument of that construction: a program for an accelerator can be built,
looked at and exported on a machine without one.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import jax

Platform = Literal["cpu", "gpu", "tpu"]

# JAX counts it in when it looks a traced function up, so that none is reused on a platform it was not traced for.
_platform = jax.make_user_context(None)


def program_platform() -> str:
    """The platform of the program that is being traced: that of `program_for`, by default JAX's default backend."""
    return _platform.value or jax.default_backend()


def on_accelerator() -> bool:
    """Whether the program that is being traced is for an accelerator. There a loop whose number of turns is known only
    as it runs waits for the host at every turn, so loops have a fixed length."""
    return program_platform() != "cpu"


@contextlib.contextmanager
def program_for(platform: Platform) -> Iterator[None]:
    """What is traced within is built for this platform."""
    with _platform(platform):
        yield
