"""What a training notes of each epoch: the rows of log.csv."""

from collections.abc import Sequence
from typing import NamedTuple


class EpochLog(NamedTuple):
    """One row of log.csv; `best` marks an epoch whose weights were kept, until a better one came."""

    fold: int
    epoch: int
    train_loss: float
    valid_loss: float
    valid_auc: float
    lr: float
    best: bool


def kept(log: Sequence[EpochLog]) -> EpochLog:
    """The epoch of a fold whose weights were kept."""
    return [epoch for epoch in log if epoch.best][-1]
