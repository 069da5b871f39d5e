"""The labels table."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil.errors import LabelsError, cause
from mil.settings import TableSpec
from mil.soft import PSEUDO_FOLD, VALID_IN, SoftLabels, read_soft
from mil.task import ANY_OF, ONE_OF, ONE_VS_NORMAL, Task, joined
from tiling.sheets import read_sheet

FOLD = "fold"
MOST = 1e30  # of a number: its square, of which deviations are made, is still one


@dataclass(frozen=True)
class Labels:
    """Labelled slides: the columns `slide_id`, `patient_id`, `label` (all str), `fold` if given, metadata as they are.

    `fold` has the values of the table's column `fold_from`, which is that of --site where there is one.

    With one class a slide, `target` (int) is its place in the task's classes. With several labels `label` has those
    of the slide joined, and `target NAME` (float) is 1, 0, or nan where a label is unknown.

    `valid_in` is there if given. Slides with pseudo labels are no rows of the table but of `soft`.
    """

    table: pd.DataFrame
    task: Task
    fold_from: str = FOLD
    soft: SoftLabels | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def targets(self) -> np.ndarray:
        """Int (slides,), or float (slides, K) for several labels a slide."""
        if self.task.kind == ANY_OF:
            return self.table[[target_column(name) for name in self.task.classes]].to_numpy(np.float64)
        return self.table["target"].to_numpy()

    @property
    def slides(self) -> pd.DataFrame:
        """`slide_id`, `patient_id`, metadata of all slides: the labelled, and behind them those with pseudo labels."""
        return self.table if self.soft is None else pd.concat([self.table, self.soft.table], ignore_index=True)

    def learned(self, train: np.ndarray, soft: np.ndarray, fold: str) -> np.ndarray:
        """What a fold learns of labelled slides and of others, by their places in `slides`: targets, as of `targets`.

        Where there are others they are float (slides, K) for all tasks: probabilities.
        """
        targets = self.targets[train]
        if self.soft is None or not len(soft):
            return targets
        if self.task.kind != ANY_OF:
            targets = np.eye(len(self.task.classes))[targets]
        return np.concatenate([targets, self.soft.chances(fold, soft - len(self))])

    @property
    def strata(self) -> pd.DataFrame:
        """Bool (slides, S): what each fold should have its share of: each class, or each label and its lack."""
        targets = self.targets
        if self.task.kind == ANY_OF:
            columns = {
                f"{name} {value}": targets[:, k] == value
                for k, name in enumerate(self.task.classes) for value in (0, 1)
            }  # fmt: skip
        else:
            columns = {name: targets == k for k, name in enumerate(self.task.classes)}
        return pd.DataFrame(columns, index=self.table.index)

    @property
    def absent(self) -> str:
        """The first stratum without a slide, an empty text if all have one."""
        there = self.strata.any()
        return "" if there.all() else str(there.index[~there][0])

    @property
    def patients(self) -> pd.Series:
        """How many patients each stratum has."""
        return self.strata.groupby(self.table["patient_id"]).any().sum()

    def at(self, rows: np.ndarray) -> "Labels":
        """The labels of some slides, by their places or by a bool for each."""
        return replace(self, table=self.table.iloc[np.arange(len(self))[rows]].reset_index(drop=True))


def target_column(name: str) -> str:
    """The column of Labels.table with the targets of one of several labels."""
    return f"target {name}"


def read_labels(path: Path, spec: TableSpec | None = None) -> Labels:
    """The labels table; raises LabelsError, naming the row, where it cannot be trained on.

    A slide without a patient_id is its own patient. Numeric labels are ordered as numbers, others as text. Rows with a
    `pseudo_fold` are pseudo labels, of which a slide may have one for each fold.
    """
    spec = spec or TableSpec()
    site = () if spec.site is None else (spec.site,)
    needed = ("slide_id", *spec.label_columns, *site, *spec.metadata)
    table = read_table(path, "labels table", needed, once=("slide_id", PSEUDO_FOLD))
    if "patient_id" not in table:
        table["patient_id"] = ""
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["slide_id"])
    table, pseudo = _parted(table, spec, path)
    if table.empty:
        raise LabelsError(f"{_labels_table(path)} has no rows; add a row a slide")
    for column in site:
        _refuse(table[column] == "", _labels_table(path), f"has an empty {column}; fill it in or delete the row")
        table[FOLD] = table[column]
    if len(spec.label_columns) == 1:
        table, task = _with_classes(table, spec, path)
    else:
        table, task = _with_several(table, spec, path)
    for column in spec.numeric:
        numeric(table[column], _labels_table(path))
        numeric(pseudo[column], _labels_table(path))
    soft = read_soft(pseudo, task, spec.metadata, _labels_table(path)) if len(pseudo) else None
    targets = list(map(target_column, task.classes)) if task.kind == ANY_OF else ["target"]
    given = [name for name in (FOLD, VALID_IN) if name in table]
    columns = ["slide_id", "patient_id", "label", *targets, *given, *spec.metadata]
    return Labels(table[columns].reset_index(drop=True), task, spec.site or FOLD, soft)


def of_run(table: pd.DataFrame, task: Task) -> Labels:
    """The labels in the folds.csv of a run, whose cells are text; raises ValueError for one that is no class."""
    if task.kind == ANY_OF:
        known = {target_column(name): pd.to_numeric(table[name].replace("", None)) for name in task.classes}
        return Labels(table.assign(**{name: value.astype(np.float64) for name, value in known.items()}), task)
    return Labels(table.assign(target=table["label"].map(task.classes.index)), task)


def read_table(
    path: Path, what: str, needed: Sequence[str], other_names: Mapping[str, str] | None = None,
    once: Sequence[str] = ("slide_id",),
) -> pd.DataFrame:  # fmt: skip
    """A CSV with a row a slide, all of it text without blanks around it.

    `other_names` are what columns may be called, and what they are called then; `once` are the columns, those of them
    that there are, that together name a row. Raises LabelsError where it cannot be read, lacks a column, names no slide
    in a row, or has one twice.
    """
    try:
        # A blank too many would make another patient, on the other side of a split.
        sheet = read_sheet(path, strip=True)
    except (OSError, ValueError) as error:
        raise LabelsError(
            f"cannot read the {what} {str(path)!r} ({cause(error)}); give a CSV with {', '.join(needed)}"
        ) from error
    names = {*sheet.header}
    header = [new if (new := (other_names or {}).get(name, name)) not in names else name for name in sheet.header]
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise LabelsError(f"the {what} {str(path)!r} has the column {min(twice)!r} twice; rename one")
    table = pd.DataFrame(sheet.rows, columns=header, dtype=str)
    missing = [column for column in needed if column not in table]
    if missing:
        raise LabelsError(
            f"the {what} {str(path)!r} lacks the column {' and '.join(missing)}; it has {', '.join(table.columns)}"
        )
    where = f"the {what} {str(path)!r}"
    _refuse(table["slide_id"] == "", where, "has an empty slide_id; fill it in or delete the row")
    twice_rows = table.duplicated([name for name in once if name in table])
    again = f"has the slide {_first(table['slide_id'], twice_rows)!r} again; keep one of its rows"
    _refuse(twice_rows, where, again)
    return table


def numeric(column: pd.Series, where: str) -> pd.Series:
    """A column of text as float64, nan where it is empty; raises LabelsError, naming the row, for what is no number."""
    values = pd.to_numeric(column.replace("", None), errors="coerce").astype(np.float64)
    wrong = pd.Series(~(values.abs() <= MOST), values.index) & (column != "")
    remedy = "give a number, leave it empty where it is unknown, or name the column with --categorical"
    _refuse(wrong, where, f"has {_first(column, wrong)!r} in the numeric column {column.name}; {remedy}")
    return values


def natural(label: str) -> tuple[int, float, str]:
    """A key that sorts numbers as numbers, and before text."""
    try:
        number = float(label)
    except ValueError:
        number = math.inf
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)


def _refuse(wrong: pd.Series, where: str, sentence: str) -> None:
    """Raise LabelsError for the first row of a table in which something is wrong, with the numbers of some others."""
    rows = wrong.index[wrong].to_numpy() + 2  # the header is row 1
    if len(rows):
        others = f"rows {', '.join(map(str, rows[1:]))}" if len(rows) < 10 else f"{len(rows) - 1} other rows"
        raise LabelsError(f"row {rows[0]} of {where} {sentence}" + (f" ({others} too)" if len(rows) > 1 else ""))


def _parted(table: pd.DataFrame, spec: TableSpec, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of labelled slides, and those of pseudo labels, each with its place in the file as index."""
    if PSEUDO_FOLD not in table:
        return table, table.iloc[:0]
    is_pseudo = table[PSEUDO_FOLD] != ""
    labelled, pseudo = table[~is_pseudo], table[is_pseudo]
    both = is_pseudo & table["slide_id"].isin(labelled["slide_id"])
    again = f"is a pseudo label of {_first(table['slide_id'], both)!r}, which has a label of its own; delete it"
    _refuse(both, _labels_table(path), again)
    if len(pseudo) and (spec.site is not None or FOLD not in table):
        sites = f"--site {spec.site} makes others: leave it out, and" if spec.site is not None else "so"
        raise LabelsError(
            f"{_labels_table(path)} has pseudo labels, each for one fold of the run they were made with; {sites} keep "
            "the column fold, which has those of that run"
        )
    return labelled, pseudo


def _labels_table(path: Path) -> str:
    return f"the labels table {str(path)!r}"


def _with_classes(table: pd.DataFrame, spec: TableSpec, path: Path) -> tuple[pd.DataFrame, Task]:
    (column,) = spec.label_columns
    _refuse(table[column] == "", _labels_table(path), f"has an empty {column}; fill it in or delete the row")
    classes = tuple(sorted(table[column].unique(), key=natural))
    if len(classes) < 2:
        raise LabelsError(f"{_labels_table(path)} has one class only ({', '.join(classes)}); training needs two")
    if spec.normal is not None and spec.normal not in classes:
        raise LabelsError(f"--normal {spec.normal!r} is no label of {str(path)!r}; it has {', '.join(classes)}")
    target = table[column].map({label: target for target, label in enumerate(classes)})
    return table.assign(label=table[column], target=target), Task(
        classes, ONE_OF if spec.normal is None else ONE_VS_NORMAL, spec.normal
    )


def _with_several(table: pd.DataFrame, spec: TableSpec, path: Path) -> tuple[pd.DataFrame, Task]:
    values = {}
    for name in spec.label_columns:
        column = pd.to_numeric(table[name].replace("", None), errors="coerce")
        wrong = ~(column.isin([0, 1]) | (table[name] == ""))
        found = f"has {_first(table[name], wrong)!r} in the label column {name}"
        _refuse(wrong, _labels_table(path), f"{found}; give 1, 0, or nothing for unknown")
        values[name] = column.astype(np.float64)
        if set(values[name].dropna()) != {0, 1}:
            raise LabelsError(f"the label column {name!r} of {str(path)!r} does not have both 0 and 1; leave it out")
    known = pd.DataFrame(values)
    unlabelled = known.isna().all(axis=1)
    _refuse(unlabelled, _labels_table(path), "has no label that is known; fill one in or delete the row")
    label = [joined(name for name in values if row[name] == 1) for row in known.to_dict("records")]
    table = table.assign(label=label, **{target_column(name): column for name, column in values.items()})
    return table, Task(spec.label_columns, ANY_OF)


def _first(column: pd.Series, where: pd.Series) -> str:
    return str(column[where].iloc[0]) if where.any() else ""
