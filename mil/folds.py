"""Cross-validation splits, stratified by label and grouped by patient: no patient is ever on both sides."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from mil.errors import LabelsError
from mil.labels import Labels, natural


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
        absent = set(labels.classes) - set(labels.table["label"].iloc[training])
        if absent:
            raise LabelsError(
                f"without fold {fold} no slide of the label {min(absent)!r} is left to train on; "
                "spread each label over two folds or more"
            )
        stops = inner_validation(labels.table.iloc[training], valid_share, seed + fold)
        splits.append(Split(fold, training[~stops], training[stops], np.flatnonzero(fold_of == fold)))
    return splits


def make_folds(labels: Labels, folds: int, seed: int) -> np.ndarray:
    """Int (slides,): the fold that tests each slide, from 0; from the column `fold` where the table has one.

    Raises LabelsError where a patient would be in two folds or there are too few patients for `folds`.
    """
    if "fold" in labels.table:
        return _given_folds(labels.table)
    patients = labels.table.groupby("label")["patient_id"].nunique()
    label, fewest = str(patients.idxmin()), int(patients.min())
    if fewest < folds:
        raise LabelsError(
            f"label {label!r} has {fewest} patients, fewer than the {folds} folds; "
            + (f"lower --folds to {fewest} or add patients" if fewest > 1 else "add patients")
        )
    return deal(labels.table, folds, seed)


def inner_validation(table: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Bool (rows,): True on about `share` of the slides, all of some patients, on which training is stopped.

    `table` holds the training folds alone. Where patients are few the share grows, so that both sides have every
    class; raises LabelsError where that cannot be.
    """
    fewest = int(table.groupby("target")["patient_id"].nunique().min())
    parts = max(2, min(round(1 / share), fewest))
    part_of, targets = deal(table, parts, seed), table["target"].to_numpy()
    for part in range(parts):
        chosen = part_of == part
        if set(targets[chosen]) == set(targets[~chosen]) == set(targets):
            return chosen
    raise LabelsError(
        "the training folds cannot be split into a part to train on and a part to stop on that both have every "
        "class: some class has too few patients; add patients or try another --folds"
    )


def deal(table: pd.DataFrame, parts: int, seed: int) -> np.ndarray:
    """Int (rows,) in 0 to parts - 1: patients dealt out whole, so that each part gets its share of every class.

    Those with most slides first, in an order otherwise drawn by the seed, each patient goes where its own classes
    are rarest, then where slides are fewest.
    The first patients of a class thus go to different parts.
    """
    patients = np.unique(table["patient_id"])
    slides = pd.crosstab(table["patient_id"], table["target"]).loc[patients].to_numpy()
    shares = slides / slides.sum(axis=0)
    held, size = np.zeros((parts, slides.shape[1])), np.zeros(parts)
    part_of = {}
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    for row in shuffled[np.argsort(-slides[shuffled].sum(axis=1), kind="stable")]:
        own_classes = held[:, slides[row] > 0].sum(axis=1)
        part = np.lexsort((size, own_classes.round(9)))[0]
        held[part] += shares[row]
        size[part] += slides[row].sum()
        part_of[patients[row]] = int(part)
    return table["patient_id"].map(part_of).to_numpy()


def _given_folds(table: pd.DataFrame) -> np.ndarray:
    names = sorted(table["fold"].unique(), key=natural)
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
