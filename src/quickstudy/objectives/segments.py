"""Objectives that can say what each task gave to adapt on."""

import abc

from quickstudy.core import Batch, Objective
from quickstudy.data.batches import Segments


class SegmentObjective(Objective):
    """An objective whose batches hold all that the learner adapted on."""

    @property
    @abc.abstractmethod
    def from_start(self) -> bool:
        """Whether batches begin where their tasks begin. Where they do not, `segments` misses what came before."""

    @abc.abstractmethod
    def segments(self, batch: Batch) -> Segments:
        """All segments of every task in the batch, the last one too."""
