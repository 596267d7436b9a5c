"""What `quickstudy list` says: the table of tasks × methods, and one pair in full. Imports nothing heavy."""

import json
import textwrap
from typing import Any

from quickstudy.recipes import CARDS, METHODS, TASKS, named, refusal

WIDTH = 100


def pairs(tasks: str) -> list[dict[str, Any]]:
    """A row for every method on these tasks, evolved ones too: name, tasks, method, status and why it is refused."""
    rows = []
    for method in (f"{es}{method}" for method in METHODS for es in ("", "es-")):
        name = f"{tasks}-{method}"
        row: dict[str, Any] = {"name": name, "tasks": tasks, "method": method}
        if name in CARDS:
            rows.append({**row, "status": "published", "expected": CARDS[name].expected})
        elif why := refusal(name):
            rows.append({**row, "status": "refused", "why": why})
        else:
            rows.append({**row, "status": "untuned"})
    return rows


def show(name: str | None, as_json: bool) -> None:
    """Prints the table, or what `name` is: tasks, a method, or a pair of them."""
    if name is None or name in TASKS:
        _table(list(TASKS) if name is None else [name], as_json)
    elif name.removeprefix("es-") in METHODS:
        _method(name, as_json)
    elif ":" not in name and name not in CARDS and _is_pair(name) and (why := refusal(name)):
        _print({"status": "ok", "name": name, "why": why}, [why], as_json)
    else:
        _one(name, as_json)


def _is_pair(name: str) -> bool:
    """Whether it is made of tasks and a method that exist."""
    names = (name.removeprefix(f"{tasks}-").removeprefix("es-") for tasks in TASKS if name.startswith(f"{tasks}-"))
    return any(method in METHODS for method in names)


def _table(families: list[str], as_json: bool) -> None:
    rows = {tasks: pairs(tasks) for tasks in families}
    of = lambda tasks, status: [row for row in rows[tasks] if row["status"] == status]
    lines: list[str] = []
    for tasks in families:
        lines.append(f"{tasks}: {TASKS[tasks].title}")
        for row in of(tasks, "published"):
            lines += textwrap.wrap(f"{row['method']:<18} {row['expected']}", WIDTH, **_indent(2, 21))
        untuned = [row["method"] for row in of(tasks, "untuned")]
        plain = [method for method in untuned if not method.startswith("es-")]
        evolved = [method for method in untuned if method.startswith("es-")]
        for what, methods in (("possible, untuned", plain), ("the same, evolved", evolved)):
            if methods:
                lines += textwrap.wrap(f"{what:<18} {', '.join(methods)}", WIDTH, **_indent(2, 21))
        refused = [row for row in of(tasks, "refused") if not row["method"].startswith("es-")]
        if len(families) == 1:
            lines += [part for row in refused for part in textwrap.wrap(row["why"], WIDTH, **_indent(2, 4))]
        lines += ["", ""] if len(families) == 1 else [f"  {'refused':<18} the other {len(refused)} methods", ""]
    lines.append(
        "A recipe is TASKS-METHOD, as `quickstudy train omniglot-reptile`. `quickstudy list NAME` says all of tasks,"
    )
    lines.append(
        "of a method or of a recipe, and why one is refused. `es-` before a method: evolution as its outer loop."
    )
    cards = [_card(name) for name in sorted(CARDS) if CARDS[name].tasks in families]
    table = [row for tasks in families for row in rows[tasks]]
    _print({"status": "ok", "recipes": cards, "pairs": table}, lines, as_json)


def _method(name: str, as_json: bool) -> None:
    rows = [row for tasks in TASKS for row in pairs(tasks) if row["method"] == name]
    lines = [f"{name}: {METHODS[name.removeprefix('es-')][0].title}"]
    for row in rows:
        text = row.get("expected") or row.get("why") or "possible, untuned"
        lines += textwrap.wrap(f"{row['name']:<30} {text}", WIDTH, **_indent(2, 33))
    _print({"status": "ok", "name": name, "pairs": rows}, lines, as_json)


def _one(name: str, as_json: bool) -> None:
    recipe = named(name)
    options = recipe.options().items()
    lines = [name, *_paragraph(recipe.description), *_paragraph(f"to expect: {recipe.expected}")]
    lines += [*_paragraph(f"source: {recipe.source}"), "", "options:"]
    for option, (field, value) in options:
        given = " ".join(map(str, value)) if isinstance(value, tuple) else value
        lines += textwrap.wrap(f"--{option.replace('_', '-')} {given}", WIDTH, **_indent(2, 6))
        lines += textwrap.wrap(field.help, WIDTH, **_indent(6, 6))
    fields = {option: {"value": value, "help": field.help} for option, (field, value) in options}
    _print({"status": "ok", **_card(name), "published": recipe.card is not None, "options": fields}, lines, as_json)


def _card(name: str) -> dict[str, Any]:
    recipe = named(name)
    return {
        "name": name,
        "description": recipe.description,
        "expected": recipe.expected,
        "source": recipe.source,
    }


def _indent(first: int, rest: int) -> dict[str, Any]:
    return {"initial_indent": " " * first, "subsequent_indent": " " * rest, "break_on_hyphens": False}


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, **_indent(2, 2))


def _print(as_data: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(as_data) if as_json else "\n".join(lines))
