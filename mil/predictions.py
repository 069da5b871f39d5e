"""The table of predictions: its rows, its columns, and how it is written and read as CSV or Parquet."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mil.errors import TableError, cause
from mil.parquet import is_parquet, read_parquet, write_parquet
from mil.task import ANY_OF, Task
from tiling.output import csv_line, write_lines, written_name
from tiling.sheets import read_sheet

OK, FAILED = "ok", "failed"
PROBABILITY = "prob_"
_MOST_TILES = 10**9
_COUNTS, _NUMBERS = ("tiles", "slides"), ("uncertainty",)

Row = dict[str, Any]


def prediction_row(
    slide_id: str, patient_id: str, task: Task, tiles: int = 0,
    chances: np.ndarray | None = None, error: str = "", **more: Any,
) -> Row:  # fmt: skip
    """A row of a run's oof.csv, with `more` columns behind the patient; without `chances` it is of a failed slide."""
    return {
        "slide_id": slide_id,
        "patient_id": patient_id,
        **more,
        "status": OK if chances is not None else FAILED,
        "tiles": tiles,
        **_probabilities(task, chances),
        "predicted": "" if chances is None else task.predicted(chances),
        "error": error,
    }


def score_row(
    slide_id: str, patient_id: str, task: Task, model: str, tiles: int, chances: np.ndarray,
    uncertainty: float | None = None,
) -> Row:  # fmt: skip
    """The row of a slide that has a score: probabilities `chances` (K,) of the model with this digest."""
    return _score(slide_id, patient_id, OK, tiles, _probabilities(task, chances), task.predicted(chances), uncertainty,
                  model, "")  # fmt: skip


def failed_row(slide_id: str, patient_id: str, task: Task, model: str, prior_K: np.ndarray, error: str) -> Row:
    """The row of a slide that has none, and why: its probabilities are the class shares of the training."""
    return _score(slide_id, patient_id, FAILED, 0, _probabilities(task, prior_K), "", None, model, error)


def score_columns(task: Task) -> dict[str, type]:
    """The columns of a table of scores, in their order, and what each holds."""
    return {name: column_type(name) for name in failed_row("", "", task, "", np.zeros(len(task.classes)), "")}


def column_type(name: str) -> type:
    """What a column of predictions holds: int, float or str. Numbers may be missing, text is empty then."""
    if name in _COUNTS:
        return int
    return float if name in _NUMBERS or name.startswith(PROBABILITY) else str


def uncertainty_of(members_EK: np.ndarray, chances: np.ndarray, task: Task) -> float | None:
    """How far the members of an ensemble are apart on a slide: a standard deviation of their probabilities (E, K).

    It is that of the class with the highest of the `chances` (K,), and the largest one of several labels. It is the
    spread sqrt(sum_e (p_e - mean)^2 / E) which Dolezal et al. (Nature Communications 13, 6572, 2022) call the
    uncertainty of a slide; theirs is over draws of dropout, this one over folds as in Lakshminarayanan et al. (NeurIPS
    2017). 0 means that all say the same, and 1/2 is the most there can be. None for a single member.
    """
    if len(members_EK) < 2:
        return None
    spread_K = np.asarray(members_EK, np.float64).std(axis=0)
    return float(spread_K.max() if task.kind == ANY_OF else spread_K[np.argmax(chances)])


def write_predictions(path: Path, rows: Sequence[Row] | pd.DataFrame) -> None:
    """Write a table as CSV, or as Parquet by its name, whole or not at all; probabilities keep all their digits.

    All rows have the columns of the first. Raises TableError where pyarrow is needed and missing.
    """
    table = pd.DataFrame(rows)
    cells = table.astype(object).where(table.notna(), None)
    columns = {str(name): column_type(str(name)) for name in table}
    write_rows(path, columns, [dict(zip(columns, row, strict=True)) for row in cells.itertuples(index=False)])


def write_rows(path: Path, columns: Mapping[str, type], rows: Sequence[Row]) -> None:
    """Write rows under these columns; there may be none. As `write_predictions`."""
    if is_parquet(path):
        write_parquet(path, columns, rows)
    else:
        write_lines(path, [csv_line(columns), *(row_line(columns, row) for row in rows)])


def row_line(columns: Iterable[str], row: Row) -> str:
    """A row as its line of CSV."""
    return csv_line("" if row[name] is None else row[name] for name in columns)


def read_rows(path: Path) -> list[Row]:
    """All rows of a table, typed, each text as it was before it was written; raises TableError for what is no table."""
    try:
        if is_parquet(path):
            return [{name: _value(name, cell) for name, cell in row.items()} for row in read_parquet(path)]
        header, rows = read_sheet(path)
        if len({*header}) < len(header):
            raise ValueError("two of its columns have the same name")
        return [{name: _value(name, cell) for name, cell in zip(header, row, strict=True)} for row in rows]
    except TableError:
        raise
    except (OSError, ValueError) as error:
        raise TableError(f"cannot read the table {str(path)!r} ({cause(error)}); check the file") from error


def is_score(row: Row, columns: Iterable[str]) -> bool:
    """Whether a row has just these columns, and a value where a slide that was scored or failed has one."""
    there = all(value is not None for name, value in row.items() if name not in _NUMBERS)
    return list(row) == list(columns) and row["status"] in (OK, FAILED) and row["slide_id"] != "" and there


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of a table that have a score, and their probabilities float64 (rows, K)."""
    table = pd.DataFrame(read_rows(path))
    try:
        table = table[table["status"] == OK].reset_index(drop=True)
        return table, table[[f"{PROBABILITY}{label}" for label in classes]].to_numpy(np.float64)
    except KeyError as error:
        raise TableError(f"{str(path)!r} is no table of predictions of these classes ({cause(error)})") from error


def _score(
    slide_id: str, patient_id: str, status: str, tiles: int, probabilities: Row, predicted: str,
    uncertainty: float | None, model: str, error: str,
) -> Row:  # fmt: skip
    return {
        "slide_id": written_name(slide_id),
        "patient_id": written_name(patient_id),
        "status": status,
        "tiles": tiles,
        **probabilities,
        "predicted": predicted,
        "uncertainty": uncertainty,
        "model": model,
        "error": error,
    }


def _probabilities(task: Task, chances: np.ndarray | None) -> Row:
    values = [None] * len(task.classes) if chances is None else map(float, chances)
    return {f"{PROBABILITY}{label}": value for label, value in zip(task.classes, values, strict=True)}


def _value(name: str, cell: Any) -> Any:
    """A cell of CSV or Parquet by what its column holds; raises ValueError for one that cannot be."""
    kind = column_type(name)
    if kind is str:
        if not isinstance(cell, str | None):
            raise ValueError(f"the column {name!r} has {str(cell)[:40]!r}, which is no text")
        return cell or ""
    if cell is None or cell == "":
        return None
    try:
        value = kind(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value <= (_MOST_TILES if kind is int else 1 + 1e-6):
        raise ValueError(f"the column {name!r} has {str(cell)[:40]!r}, which it cannot have")
    return value
