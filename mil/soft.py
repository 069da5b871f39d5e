"""Pseudo labels: what each fold may learn of slides that nobody has labelled, as probabilities.

They were spread from labelled slides, and so know of their labels. Spread from the slides of a fold's training part,
they know nothing of those it stops on or is tested on, which is why each holds for one fold and no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mil.errors import LabelsError
from mil.task import ANY_OF, Task

PSEUDO_FOLD = "pseudo_fold"  # the only fold that may learn from a row; empty in rows of labelled slides
VALID_IN = "valid_in"  # the folds that stop on a labelled slide
BETWEEN = ";"


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Slides with pseudo labels, a row each: `slide_id`, `patient_id`, metadata as text; and what the folds learn.

    `chances_UFK` float64 are the probabilities of the K classes, or of K labels, for the model of each of the `folds`;
    nan where it may learn nothing.
    """

    table: pd.DataFrame
    folds: tuple[str, ...]
    chances_UFK: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def of_fold(self, name: str) -> np.ndarray:
        """The rows, int (n,), of which the fold with that name may learn something."""
        if name not in self.folds:
            return np.zeros(0, int)
        return np.flatnonzero(~np.isnan(self.chances_UFK[:, self.folds.index(name)]).all(axis=1))

    def chances(self, name: str, rows: np.ndarray) -> np.ndarray:
        """What the fold with that name may learn of some rows, float64 (n, K)."""
        return self.chances_UFK[rows, self.folds.index(name)]

    def at(self, rows: np.ndarray) -> "SoftLabels":
        """Those of some rows, by their places."""
        return replace(self, table=self.table.iloc[rows].reset_index(drop=True), chances_UFK=self.chances_UFK[rows])


def chance_column(name: str) -> str:
    """The column of a table with the probability of a class or label."""
    return f"prob_{name}"


def read_soft(rows: pd.DataFrame, task: Task, metadata: Sequence[str], where: str) -> SoftLabels:
    """The pseudo labels in some rows of a labels table, all of it text, each with its `pseudo_fold`.

    Rows are named by the index of `rows`. Raises LabelsError where there is no probability, or the rows of a slide
    differ in what is said of it.
    """
    columns = [chance_column(name) for name in task.classes]
    if missing := [column for column in columns if column not in rows]:
        raise LabelsError(f"{where} has pseudo labels but lacks the column {missing[0]!r} with their probabilities")
    chances = rows[columns].replace("", None).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    _refuse_wild(rows, columns, chances, task, where)
    about = ["slide_id", "patient_id", *metadata]
    table = rows[about].drop_duplicates()
    if (again := table["slide_id"].duplicated()).any():
        slide = table["slide_id"][again].iloc[0]
        raise LabelsError(f"{where} says different things of the slide {slide!r} in its pseudo labels; make it again")
    folds = tuple(sorted(rows[PSEUDO_FOLD].unique()))
    found = np.full((len(table), len(folds), len(columns)), np.nan)
    places = pd.Index(table["slide_id"]).get_indexer(pd.Index(rows["slide_id"]))
    found[places, [folds.index(fold) for fold in rows[PSEUDO_FOLD]]] = chances
    return SoftLabels(table.reset_index(drop=True), folds, found)


def refuse_other_folds(soft: SoftLabels | None, names: Sequence[str]) -> None:
    """Raise LabelsError for a pseudo label of a fold that there is not."""
    if soft is not None and (unknown := sorted({*soft.folds} - {*names})):
        raise LabelsError(
            f"the labels table has pseudo labels for a fold {unknown[0]!r}, and there are {', '.join(names)}; each is "
            "for one fold of the run they were made with: keep its column fold, and give no --site"
        )


def given_validation(valid_in: pd.Series, fold: str) -> np.ndarray:
    """Bool (slides,): True for those on which the fold stops, by the table's column `valid_in`."""
    return valid_in.str.split(BETWEEN).map(lambda folds: fold in folds).to_numpy(bool)


def refuse_other_valid(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise LabelsError where a slide is to stop a fold that there is not, or the one that it tests."""
    for slide, own, valid_in in zip(table["slide_id"], table["fold"], table[VALID_IN], strict=True):
        folds = {*valid_in.split(BETWEEN)} - {""}
        if unknown := sorted(folds - {*names}):
            raise LabelsError(
                f"{VALID_IN} of the slide {slide!r} names a fold {unknown[0]!r}, and there are {', '.join(names)}; "
                "name folds of the column fold, with a semicolon between them"
            )
        if own in folds:
            raise LabelsError(
                f"the slide {slide!r} tests fold {own} and is to stop it too, by its {VALID_IN}; the fold that is "
                "tested chooses nothing: name other folds there"
            )


def _refuse_wild(rows: pd.DataFrame, columns: Sequence[str], chances: np.ndarray, task: Task, where: str) -> None:
    """Raise LabelsError for the first row whose probabilities are none; of labels some may be unknown."""
    unknown = (rows[columns] == "").to_numpy() & (task.kind == ANY_OF)
    wild = ~(unknown | ((chances >= 0) & (chances <= 1))).all(axis=1) | unknown.all(axis=1)
    if task.kind != ANY_OF:
        wild |= ~(np.abs(chances.sum(axis=1) - 1) <= 1e-3)
    if len(places := np.flatnonzero(wild)):
        row = rows.iloc[places[0]]
        said = ", ".join(f"{column} {row[column]!r}" for column in columns)
        remedy = "numbers from 0 to 1 are needed" + ("" if task.kind == ANY_OF else ", with sum 1")
        raise LabelsError(
            f"row {rows.index[places[0]] + 2} of {where} has no probabilities for its pseudo label ({said}); {remedy}"
        )
