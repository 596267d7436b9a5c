"""The part of a configuration that every run has. Imports nothing heavy: the command line reads it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin


@dataclasses.dataclass(frozen=True)
class Training:
    """How long and on how much to meta-train.

    Logging, saving and validating never change what is learned. 0 in one of the `_every` fields means a default
    that follows `meta_steps`; they count meta-steps.
    """

    meta_steps: int = 1000  # of meta-training; 0: the learner is tested as it is
    meta_batch: int = 32  # tasks a meta-step
    seed: int = 0  # of everything that is drawn at random
    log_every: int = 0  # a line of metrics, the mean over this many steps (default: 200 a run, or as needed below)
    save_every: int = 0  # a checkpoint, after the line that reaches it (default: 20 a run)
    validate_every: int = 0  # held-out performance, likewise (default: 5 times a run; -1: never)
    max_diverged: float = 0.5  # the run fails when more than this fraction of the tasks between two lines diverge
    keep: int = 3  # checkpoints kept, the newest
    devices: int = 0  # that share the tasks of a meta-step (default: all there are, or as many as divide them)
    cores: int = 0  # of a CPU, to be used at most (default: all; one alone is faster where operations are small)

    def errors(self) -> list[str]:
        """Everything wrong with the values, in a person's words."""
        wrong = self.must("be at least 1", lambda x: x >= 1, "meta_batch", "keep")
        never = "meta_steps", "seed", "log_every", "save_every", "devices", "cores"
        wrong += self.must("not be negative", lambda x: x >= 0, *never)
        wrong += self.must("be -1 or more", lambda x: x >= -1, "validate_every")
        if self.seed >= 2**32 - 1:
            wrong.append(f"seed must be below 2^32 - 1, got {self.seed}")
        if 0 < self.cores < self.devices:
            wrong.append(
                f"devices={self.devices} do not fit on cores={self.cores}; give as many, or 0 for all there are"
            )
        if not 0 <= self.max_diverged <= 1:
            wrong.append(f"max_diverged must lie in [0, 1], got {self.max_diverged}")
        for name in ("save_every", "validate_every"):
            if 0 < getattr(self, name) < self.log_every:
                wrong.append(
                    f"{name}={getattr(self, name)} is less than log_every={self.log_every}, and that happens after a "
                    "line of metrics: log as often"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                wrong.append(f"{field.name} must be a finite number, got {value}")
            choices = get_args(field.type) if get_origin(field.type) is Literal else (value,)
            if value not in choices:
                wrong.append(f"{field.name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        return wrong

    def must(self, what: str, holds: Callable[[Any], bool], *names: str) -> list[str]:
        """One message for each of the named fields whose value does not hold."""
        return [f"{name} must {what}, got {getattr(self, name)}" for name in names if not holds(getattr(self, name))]

    @property
    def log_interval(self) -> int:
        asked = [every for every in (self.save_every, self.validate_every) if every > 0]
        return self.log_every or max(1, min([self.meta_steps // 200, *asked]))

    @property
    def save_interval(self) -> int:
        return self.save_every or max(1, self.meta_steps // 20)

    @property
    def validate_interval(self) -> int:
        return self.validate_every or max(1, self.meta_steps // 5)


class ConfigError(ValueError):
    """The configuration cannot be run. `errors` holds one message for each thing that is wrong."""

    def __init__(self, errors: list[str]):
        super().__init__("\n".join(errors))
        self.errors = errors
