"""Where what was once compiled and measured on this machine is kept between processes."""

import os
import warnings
from pathlib import Path

import jax


def cache_folder() -> Path | None:
    """$QUICKSTUDY_CACHE, or a folder in the user's cache; None where the user has no home."""
    if folder := os.environ.get("QUICKSTUDY_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "quickstudy")
    except RuntimeError:
        return None


def use_compilation_cache() -> None:
    """Compiled programs are kept from here on, unless JAX was given another folder or none. Warns, once, where
    they can't be."""
    setting = lambda name: getattr(jax.config, name, None)
    if setting("jax_compilation_cache_dir") is not None or setting("jax_enable_compilation_cache") is False:
        return
    folder = cache_folder()
    try:
        if folder is None:
            raise FileNotFoundError("there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write into {folder}")
    except OSError as error:
        warnings.warn(
            f"compiled programs are not kept, so every start takes longer: {error}; set QUICKSTUDY_CACHE to a folder "
            "that can be written",
            stacklevel=2,
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A run has dozens of small programs, which are read back many times faster than they are compiled.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.03)
