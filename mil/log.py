"""What a training notes of each epoch: the rows of log.csv."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mil.errors import RunError, cause
from tiling.documents import regular
from tiling.sheets import read_sheet


class EpochLog(NamedTuple):
    """One row of log.csv; `best` marks an epoch whose weights were kept, until a better one came."""

    fold: int
    epoch: int
    train_loss: float
    valid_loss: float
    valid_auc: float
    lr: float
    best: bool

    def __str__(self) -> str:
        valid = "" if math.isnan(self.valid_loss) else f", valid={self.valid_loss:.3f}, AUC={self.valid_auc:.3f}"
        return f"epoch {self.epoch}: train={self.train_loss:.3f}{valid}"


def kept(log: Sequence[EpochLog]) -> EpochLog:
    """The epoch of a fold whose weights were kept."""
    return [epoch for epoch in log if epoch.best][-1]


def read_log(path: Path) -> list[EpochLog]:
    """The rows of a log.csv; raises RunError where it is missing or damaged."""
    try:
        header, cells = read_sheet(regular(path))
        rows = [
            EpochLog(
                int(row["fold"]), int(row["epoch"]), float(row["train_loss"]), float(row["valid_loss"]),
                float(row["valid_auc"]), float(row["lr"]), row["best"] == "True",
            )
            for row in (dict(zip(header, each, strict=True)) for each in cells)
        ]  # fmt: skip
        kept(rows)
        return rows
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{str(path)!r} cannot be read ({cause(error)}); train again") from error
