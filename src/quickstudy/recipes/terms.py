"""What the fields of a recipe mean, in the words of `quickstudy train RECIPE --help`.

A field is told by the comment beside it where it first appears among a recipe's classes, or above it. What has one
meaning wherever it appears is told here, once; a recipe's own comment on such a field says why it has that value.
"""

import dataclasses
import inspect
import re

TERMS = {
    "adjoint": "how the outer gradient passes through the steps of adaptation",
    "arms": "to choose from; named, how their probabilities are drawn",
    "clip": "the ε of PPO's clipped ratio",
    "clip_norm": "of the outer gradient: its norm at most",
    "curriculum": "(meta-steps, length) of shorter trials to train on first; longer ones than the trial are left out",
    "discount": "γ of the returns",
    "entropy": "weight of the policy's entropy",
    "epochs": "passes over what was lived between two updates",
    "hidden": "width of the networks' hidden layers",
    "inner_rate": "of a step of adaptation, or where a learned rate starts",
    "inner_steps": "of adaptation, in training",
    "learning_rate": "of the meta-optimizer",
    "meta_batch": "tasks a meta-step",
    "minibatches": "of each pass over what was lived",
    "normalise": "whose statistics normalise features; `transductive`: the queries' too, which must be asked for",
    "rate": "of the agent's own updates, or where a learned rate starts",
    "scratch_rate": "of the from-scratch ruler, the best of a grid on validation tasks",
    "trace": "λ of the returns or of the advantages",
    "value": "weight of the value's loss",
    "wind": "largest probability that a step goes astray; each task has its own",
}
FIELD = re.compile(r"    (\w+): [^#]*(?:#\s*(.*))?")


def explained(cls: type) -> dict[str, str]:
    """A line for each field of a recipe's class; "" where nothing says what it means."""
    said: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        above: list[str] = []
        for line in inspect.getsource(owner).splitlines():
            if line.startswith("    # "):
                above.append(line.strip(" #"))
                continue
            if field := FIELD.fullmatch(line):
                said.setdefault(field[1], field[2] or " ".join(above))
            above = []
    return {field.name: TERMS.get(field.name) or said.get(field.name, "") for field in dataclasses.fields(cls)}
