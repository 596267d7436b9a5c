"""Published results as configurations. `names()` and `get()` import nothing heavy."""

import dataclasses
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from quickstudy.config import ConfigError
from quickstudy.recipes.base import Recipe

_MODULES = (
    "sinusoid", "mktn", "one_maze", "navigation", "corners", "mpo", "bandit", "mdp", "maze", "gymnax", "grid",
    "varibad", "structured_bandit", "two_step", "classic", "meta_gradient", "learned_loss", "mml", "xland",
    "omniglot", "omniglot_memory", "omniglot_meta_networks", "clinc150",
)  # fmt: skip


def all_recipes() -> dict[str, type[Recipe]]:
    """Every recipe by its name, `<tasks>-<method>`."""
    found = {}
    for module in _MODULES:
        for recipe in _recipes_in(importlib.import_module(f"quickstudy.recipes.{module}")).values():
            found[recipe.name] = recipe
    return found


def _recipes_in(module: ModuleType) -> dict[str, type[Recipe]]:
    """By the names of their classes; those without a name of their own are parts of others."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: cls for name, cls in classes.items() if issubclass(cls, Recipe) and "name" in vars(cls)}


def named(reference: str) -> type[Recipe]:
    """The recipe that a person has named: as `get`, or a class of their own as "file.py:Class" or "module:Class", which
    is imported. Never call it with what a run folder says; see `quickstudy.runs.own`."""
    return _own(reference) if ":" in reference else get(reference)


def get(name: str) -> type[Recipe]:
    """The recipe of this name; ConfigError when quickstudy has none, with a suggestion. Imports nothing but its own."""
    if ":" in name:
        raise ConfigError([f"{name} is a recipe of somebody's own, which is imported only where a person names it"])
    found = all_recipes()
    if name not in found:
        near = difflib.get_close_matches(name, found, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        if name.endswith(".py"):
            hint = f"; of a file of your own name the class too, as {name}:Class"
        raise ConfigError([f"there is no recipe {name!r}{hint} (see `quickstudy list`)"])
    return found[name]


def _own(reference: str) -> type[Recipe]:
    """A recipe outside of the package."""
    where, _, wanted = reference.rpartition(":")
    try:
        if where.endswith(".py"):
            path = Path(where).resolve()
            module = _modules.get(path)
            if module is None:
                spec = importlib.util.spec_from_file_location(f"quickstudy_own_{path.stem}", path)
                if spec is None or spec.loader is None:
                    raise ImportError(f"{path} is not a Python file")
                module = importlib.util.module_from_spec(spec)
                sys.modules[spec.name] = module  # where dataclasses and annotations look their module up
                spec.loader.exec_module(module)
                _modules[path] = module
            where = str(path)
        else:
            module = importlib.import_module(where)
    except Exception as error:  # whatever a stranger's file does
        why = f"{type(error).__name__}: {error}"
        raise ConfigError([f"the recipe {reference!r} cannot be loaded: {why}"]) from error
    cls = _recipes_in(module).get(wanted)
    if cls is None:
        own = [
            k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Recipe) and "name" in vars(v)
        ]
        raise ConfigError([f"{where} has no recipe {wanted!r}; it has {', '.join(own) or 'none'}"])
    cls.reference = f"{where}:{wanted}"
    return cls


_modules: dict[Path, ModuleType] = {}


def configure(name: str, values: dict[str, Any]) -> Recipe:
    """The recipe that a person has named, with these values of its fields; ConfigError names every one that does not
    exist or is no good."""
    cls = named(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    wrong = []
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.5)
            wrong.append(f"{name} has no field {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            continue
        default = fields[key].default
        kind = float if isinstance(default, float) else type(default)
        if kind is tuple and isinstance(value, list | tuple):
            values = {**values, key: _tuples(value)}
        elif isinstance(value, bool) != (kind is bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            wrong.append(f"{key} must be of type {kind.__name__}, got {value!r}")
    if wrong:
        raise ConfigError(wrong)
    recipe = cls(**values)
    recipe.check()
    return recipe


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
