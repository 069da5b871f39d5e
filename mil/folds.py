"""Cross-validation splits, stratified by label and grouped by patient: no patient is ever on both sides."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from mil.errors import LabelsError
from mil.labels import Labels


class Split(NamedTuple):
    """The rows of the labels table that one fold trains on, stops on and is reported on; each int (slides,)."""

    fold: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def make_splits(labels: Labels, fold_of: np.ndarray, valid_share: float, seed: int) -> list[Split]:
    """A split for each fold of `fold_of`; raises LabelsError where some fold cannot be trained."""
    splits = []
    for fold in range(fold_of.max() + 1):
        training = np.flatnonzero(fold_of != fold)
        stops = inner_validation(labels.table.iloc[training], valid_share, seed + fold)
        splits.append(Split(fold, training[~stops], training[stops], np.flatnonzero(fold_of == fold)))
    return splits


def make_folds(labels: Labels, folds: int, seed: int) -> np.ndarray:
    """Int (slides,): the fold that tests each slide, from 0; from the column `fold` where the table has one.

    Raises LabelsError where a patient would be in two folds or there are too few patients for `folds`.
    """
    if "fold" in labels.table:
        return _given_folds(labels.table)
    _refuse_few_patients(labels, folds)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    out = np.full(len(labels), -1)
    for fold, test in enumerate(_tests(split, labels.table)):
        out[test] = fold
    return out


def inner_validation(table: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Bool (rows,): True on about `share` of the slides, all of some patients, on which training is stopped.

    `table` holds the training folds alone. Both sides have every class; raises LabelsError where that cannot be.
    """
    classes = table["target"].nunique()
    # Where patients are few, a larger part has every class sooner than a part of exactly the wanted share.
    for splits in range(max(2, round(1 / share)), 1, -1):
        for valid in _tests(StratifiedGroupKFold(splits, shuffle=True, random_state=seed), table):
            chosen = np.zeros(len(table), bool)
            chosen[valid] = True
            if table["target"][chosen].nunique() == table["target"][~chosen].nunique() == classes:
                return chosen
    raise LabelsError(
        "the training folds cannot be split into a part to train on and a part to stop on that both have every class: "
        "some class has too few patients; add patients or lower --folds"
    )


def _tests(split: StratifiedGroupKFold, table: pd.DataFrame) -> list[np.ndarray]:
    with warnings.catch_warnings():
        # A class with fewer slides than splits: the callers check what they need themselves.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return [test for _, test in split.split(table, table["target"], table["patient_id"])]
        except ValueError:
            return []


def _given_folds(table: pd.DataFrame) -> np.ndarray:
    names = sorted(table["fold"].unique())
    if "" in names or len(names) < 2:
        raise LabelsError("the column fold of the labels table must name, in every row, one of two folds or more")
    crossing = table.groupby("patient_id")["fold"].nunique()
    if (crossing > 1).any():
        patient = crossing.index[crossing > 1][0]
        raise LabelsError(
            f"the patient {patient!r} is in more than one fold of the labels table; "
            "put all slides of a patient into one"
        )
    return table["fold"].map({name: fold for fold, name in enumerate(names)}).to_numpy()


def _refuse_few_patients(labels: Labels, folds: int) -> None:
    patients = labels.table.groupby("label")["patient_id"].nunique()
    label, fewest = str(patients.idxmin()), int(patients.min())
    if fewest < folds:
        raise LabelsError(
            f"label {label!r} has {fewest} patients, fewer than the {folds} folds; "
            + (f"lower --folds to {fewest} or add patients" if fewest > 1 else "add patients")
        )
