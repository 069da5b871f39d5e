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
    """A split for each fold of `fold_of`; raises LabelsError where some fold cannot be trained.

    With a `valid_share` of 0 nothing is set aside: all other folds are trained on.
    """
    splits = []
    for fold in range(fold_of.max() + 1):
        training = np.flatnonzero(fold_of != fold)
        rest = labels.at(training)
        if absent := rest.absent:
            raise LabelsError(
                f"without fold {fold} no slide of the label {absent!r} is left to train on; "
                "spread each label over two folds or more"
            )
        stops = inner_validation(rest, valid_share, seed + fold)
        splits.append(Split(fold, training[~stops], training[stops], np.flatnonzero(fold_of == fold)))
    return splits


def make_folds(labels: Labels, folds: int, seed: int) -> np.ndarray:
    """Int (slides,): the fold that tests each slide, from 0; from the column `fold` where the table has one.

    Raises LabelsError where a patient would be in two folds or there are too few patients for `folds`.
    """
    if "fold" in labels.table:
        return _given_folds(labels.table)
    patients = labels.patients
    label, fewest = str(patients.idxmin()), int(patients.min())
    if fewest < folds:
        raise LabelsError(
            f"label {label!r} has {fewest} patients, fewer than the {folds} folds; "
            + (f"lower --folds to {fewest} or add patients" if fewest > 1 else "add patients")
        )
    return deal(labels.table["patient_id"], labels.strata, folds, seed)


def inner_validation(labels: Labels, share: float, seed: int) -> np.ndarray:
    """Bool (slides,): True on about `share` of the slides, all of some patients, on which training is stopped.

    `labels` are those of the training folds alone. Where patients are few the share grows, so that both sides have
    every class; raises LabelsError where that cannot be. A share of 0 gives none.
    """
    if share == 0:
        return np.zeros(len(labels), bool)
    parts = max(2, min(round(1 / share), int(labels.patients.min())))
    part_of = deal(labels.table["patient_id"], labels.strata, parts, seed)
    for part in range(parts):
        chosen = part_of == part
        if not labels.at(chosen).absent and not labels.at(~chosen).absent:
            return chosen
    raise LabelsError(
        "the training folds cannot be split into a part to train on and a part to stop on that both have every "
        "class: some class has too few patients; add patients, try another --folds, or train without such a part: "
        "--valid-share 0"
    )


def deal(patients: pd.Series, strata: pd.DataFrame, parts: int, seed: int) -> np.ndarray:
    """Int (slides,) in 0 to parts - 1: patients dealt out whole, so that each part gets its share of every stratum.

    `strata` bool (slides, S) says what a slide counts for. Patients with most slides first, in an order
    otherwise drawn by the seed, each goes where its own strata are rarest, then where slides are fewest.
    The first patients of a stratum thus go to different parts.
    """
    sums = strata.astype(int).groupby(patients).sum()
    names, slides = sums.index, sums.to_numpy()
    sizes = patients.value_counts().loc[names].to_numpy()
    shares = slides / np.maximum(slides.sum(axis=0), 1)
    held, size = np.zeros((parts, slides.shape[1])), np.zeros(parts)
    part_of = {}
    shuffled = np.random.default_rng(seed).permutation(len(names))
    for row in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        own_strata = held[:, slides[row] > 0].sum(axis=1)
        part = np.lexsort((size, own_strata.round(9)))[0]
        held[part] += shares[row]
        size[part] += sizes[row]
        part_of[names[row]] = int(part)
    return patients.map(part_of).to_numpy()


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
