"""Published results as configurations. `names()` and `get()` import nothing heavy."""

import dataclasses
import difflib
import importlib
from typing import Any

from quickstudy.config import ConfigError
from quickstudy.recipes.base import Recipe

_MODULES = ("sinusoid", "navigation", "bandit", "mdp", "gymnax")


def all_recipes() -> dict[str, type[Recipe]]:
    """Every recipe by its name, `<tasks>-<method>`."""
    found = {}
    for module in _MODULES:
        for value in vars(importlib.import_module(f"quickstudy.recipes.{module}")).values():
            if isinstance(value, type) and issubclass(value, Recipe) and "name" in vars(value):
                found[value.name] = value
    return found


def get(name: str) -> type[Recipe]:
    """The recipe of this name; ConfigError with a suggestion when there is none."""
    found = all_recipes()
    if name not in found:
        near = difflib.get_close_matches(name, found, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError([f"there is no recipe {name!r}{hint} (see `quickstudy list`)"])
    return found[name]


def configure(name: str, values: dict[str, Any]) -> Recipe:
    """The recipe with these values of its fields; ConfigError names every one that does not exist or is no good."""
    cls = get(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    wrong = []
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.5)
            wrong.append(f"{name} has no field {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            continue
        default = fields[key].default
        kind = float if isinstance(default, float) else type(default)
        if kind is tuple:
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
