"""What the fields of a recipe mean, in the words of `quickstudy train RECIPE --help`.

A field is told by the comment beside it, or above it, or the text below it, where one first stands among a recipe's
classes; and where there is none by its name, which means the same in all recipes.
"""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize

TERMS = {
    "clip": "the ε of PPO's clipped ratio",
    "clip_norm": "of the outer gradient: its norm at most",
    "discount": "γ of the returns",
    "entropy": "weight of the policy's entropy",
    "epochs": "passes over what was lived between two updates",
    "hidden": "width of the networks' hidden layers",
    "inner_rate": "of a step of adaptation, or where a learned rate starts",
    "inner_steps": "of adaptation, in training",
    "learning_rate": "of the meta-optimizer",
    "minibatches": "of each pass over what was lived",
    "normalise": "whose statistics normalise features; `transductive`: the queries' too, which must be asked for",
    "rate": "of the agent's own updates, or where a learned rate starts",
    "scratch_rate": "of the from-scratch baseline, the best of a grid on validation tasks",
    "gae_lambda": "λ of the returns or of the advantages",
    "value": "weight of the value's loss",
    "wind": "largest probability that a step goes astray; each task has its own",
}


def explained(cls: type) -> dict[str, str]:
    """A line for each field of a recipe's class; "" where nothing says what it means."""
    said: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if dataclasses.is_dataclass(owner):
            said = {**_told(owner), **said}
    return {field.name: said.get(field.name) or TERMS.get(field.name, "") for field in dataclasses.fields(cls)}


def _told(owner: type) -> dict[str, str]:
    """What the source of this class alone says of its fields; nothing where there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    alone = lambda line: line in comments and comments[line].line.lstrip().startswith("#")
    text = lambda line: comments[line].string.lstrip("# ")
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    told = {}
    for node, below in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        first = node.lineno
        while alone(first - 1):
            first -= 1
        if node.end_lineno in comments:
            told[node.target.id] = text(node.end_lineno)
        elif (
            isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
        ):
            told[node.target.id] = inspect.cleandoc(below.value.value)
        elif first < node.lineno:
            told[node.target.id] = " ".join(map(text, range(first, node.lineno)))
    return told
