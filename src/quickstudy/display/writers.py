"""Writers for TensorBoard and Weights & Biases, which are listeners too (extras `tensorboard`, `wandb`)."""

import abc
from collections.abc import Callable, Mapping
from typing import Any


class Writer(abc.ABC):
    """Writes scalars elsewhere, which it opens as training starts: a run that is refused leaves nothing there."""

    def __init__(self, begin: Callable[[], Any]):
        self.begin = begin
        self.there: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            self.there = self.begin()
        elif scalars := _scalars(event):
            self.write(scalars, event["step"])

    @abc.abstractmethod
    def write(self, scalars: Mapping[str, float], step: int) -> None: ...

    @abc.abstractmethod
    def end(self) -> None: ...

    def close(self) -> None:
        if self.there is not None:
            self.end()


class TensorBoard(Writer):
    """Metrics as TensorBoard scalars. Needs the extra `tensorboard`."""

    def __init__(self, path: str):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboardX is not installed: pip install 'quickstudy[tensorboard]'") from error
        super().__init__(lambda: SummaryWriter(path))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.there.add_scalar(name, value, step)

    def end(self) -> None:
        self.there.close()


class WeightsAndBiases(Writer):
    """Metrics to a Weights & Biases run. Needs the extra `wandb`."""

    def __init__(self, **settings: Any):
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb is not installed: pip install 'quickstudy[wandb]'") from error
        super().__init__(lambda: wandb.init(**settings))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        self.there.log(scalars, step=step)

    def end(self) -> None:
        self.there.finish()


def _scalars(event: Mapping[str, Any]) -> dict[str, float]:
    if event["event"] == "metrics":
        return {f"train/{k}": float(v) for k, v in event.items() if k != "step" and isinstance(v, int | float)}
    if event["event"] == "validation":
        return {f"held_out/after_{p['adaptations']}": p["mean"] for p in event["curve"]}
    return {}
