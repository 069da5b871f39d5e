"""The labels table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mil.errors import LabelsError


@dataclass(frozen=True)
class Labels:
    """Labelled slides: the columns `slide_id`, `patient_id`, `label` (all str), `target` (int), and `fold` if given.

    `target` is the place of the label in `classes`.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)


def read_labels(path: Path) -> Labels:
    """The labels table; raises LabelsError, naming the row, where it cannot be trained on.

    A slide without a patient_id is its own patient. Numeric labels are ordered as numbers, others as text.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=None)
    except (OSError, ValueError) as error:
        raise LabelsError(
            f"cannot read the labels table {str(path)!r} ({error}); give a CSV with slide_id, label"
        ) from error
    header = [name.strip() for name in table.iloc[0]]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise LabelsError(f"the labels table {str(path)!r} has the column {twice[0]!r} twice; rename one")
    table = table.iloc[1:].reset_index(drop=True).set_axis(header, axis=1)
    # A blank too many would make another patient, on the other side of a split.
    table = table.apply(lambda column: column.str.strip())
    missing = [column for column in ("slide_id", "label") if column not in table]
    if missing:
        raise LabelsError(
            f"the labels table {str(path)!r} lacks the column {' and '.join(missing)}; "
            f"it has {', '.join(table.columns)}"
        )
    if table.empty:
        raise LabelsError(f"the labels table {str(path)!r} has no rows; add a row a slide")
    for column in ("slide_id", "label"):
        _refuse_rows(path, table[column] == "", f"has an empty {column}; fill it in or delete the row")
    twice = table["slide_id"].duplicated()
    _refuse_rows(path, twice, f"has the slide {_first(table['slide_id'], twice)!r} again; keep one of its rows")
    classes = tuple(sorted(table["label"].unique(), key=natural))
    if len(classes) < 2:
        raise LabelsError(
            f"the labels table {str(path)!r} has one class only ({', '.join(classes)}); training needs two"
        )
    if "patient_id" not in table:
        table["patient_id"] = ""
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["slide_id"])
    table["target"] = table["label"].map({label: target for target, label in enumerate(classes)})
    columns = ["slide_id", "patient_id", "label", "target", *(["fold"] if "fold" in table else [])]
    return Labels(table[columns], classes)


def natural(label: str) -> tuple[int, float, str]:
    """A key that sorts numbers as numbers, and before text."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _first(column: pd.Series, where: pd.Series) -> str:
    return str(column[where].iloc[0]) if where.any() else ""


def _refuse_rows(path: Path, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong.to_numpy())[0]) + 2  # the header is row 1
        raise LabelsError(f"row {row} of the labels table {str(path)!r} {what}")
