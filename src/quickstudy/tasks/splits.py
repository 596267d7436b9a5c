"""Training, validation and test tasks of a family that is drawn from by keys."""

from quickstudy.core import HeldOut, Splits, TaskDistribution

TRAIN_STREAM, VALIDATION_STREAM, TEST_STREAM = 0, 1, 2


def split_by_stream(distribution: TaskDistribution, note: str = "") -> Splits:
    """Splits for continuous families, where drawing by another key is drawing another task."""
    return Splits(
        distribution, HeldOut(distribution, VALIDATION_STREAM, note), HeldOut(distribution, TEST_STREAM, note)
    )
