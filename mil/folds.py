"""Cross-validation splits, grouped by patient: no patient is ever on both sides.

Folds are dealt out, stratified by label; or given in the labels table, by its column `fold` or by the one that says
where a slide is from, each of whose values is left out once.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from mil.chance import seed_of
from mil.errors import LabelsError
from mil.labels import FOLD, Labels, natural
from mil.soft import VALID_IN, given_validation, refuse_other_folds, refuse_other_valid


class Folds(NamedTuple):
    """The fold that tests each slide, int (slides,) from 0, and what the folds are called: a number, or a site."""

    of: np.ndarray
    names: tuple[str, ...]

    def name_of(self) -> list[str]:
        """The name of the fold that tests each slide."""
        return [self.names[fold] for fold in self.of]


class Split(NamedTuple):
    """The rows of the labels table that one fold trains on, stops on and is reported on; each int (slides,).

    Of the slides behind these, which have pseudo labels, `soft` are those that it trains on too.
    """

    fold: int
    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    soft: np.ndarray = np.zeros(0, int)  # nobody writes into it


def make_splits(labels: Labels, folds: Folds, valid_share: float, seed: int) -> list[Split]:
    """A split for each fold; raises LabelsError where some fold cannot be trained.

    With a `valid_share` of 0 nothing is set aside: all other folds are trained on.
    """
    return [make_split(labels, folds, fold, valid_share, seed) for fold in range(len(folds.names))]


def make_split(labels: Labels, folds: Folds, fold: int, valid_share: float, seed: int) -> Split:
    """The split of one fold, which needs those of no others; raises LabelsError where it cannot be trained.

    The fold itself may lack a class, as a site may; what is left to train on may not.
    """
    training = np.flatnonzero(folds.of != fold)
    rest = labels.at(training)
    if absent := rest.absent:
        raise LabelsError(
            f"without {_called(labels, folds.names[fold])} no slide of the label {absent!r} is left to train on; "
            "spread each label over two folds or more"
        )
    name, test = folds.names[fold], np.flatnonzero(folds.of == fold)
    if valid_share and VALID_IN in rest.table:
        stops = given_validation(rest.table[VALID_IN], name)
        if absent := rest.at(~stops).absent:
            raise LabelsError(
                f"{VALID_IN} leaves {_called(labels, name)} no slide of the label {absent!r} to train on; name fewer"
            )
    else:
        stops = inner_validation(rest, valid_share, seed_of(seed, fold))
    soft = np.zeros(0, int) if labels.soft is None else len(labels) + labels.soft.of_fold(name)
    return Split(fold, name, training[~stops], training[stops], test, soft)


def make_folds(labels: Labels, folds: int, seed: int) -> Folds:
    """So many folds, called by their numbers from 0; those that the table gives, where it does, sorted by name.

    Raises LabelsError where a patient would be in two folds, there are too few patients for `folds`, or the table says
    something of folds that there are not.
    """
    if FOLD in labels.table:
        given = _given_folds(labels)
        refuse_other_folds(labels.soft, given.names)
        if VALID_IN in labels.table:
            refuse_other_valid(labels.table, given.names)
        return given
    if VALID_IN in labels.table:
        raise LabelsError(f"the labels table has a column {VALID_IN} and no column fold, whose folds it would name")
    patients = labels.patients
    label, fewest = str(patients.idxmin()), int(patients.min())
    if fewest < folds:
        raise LabelsError(
            f"label {label!r} has {fewest} patients, fewer than the {folds} folds; "
            + (f"lower --folds to {fewest} or add patients" if fewest > 1 else "add patients")
        )
    dealt = deal(labels.table["patient_id"], labels.strata, folds, seed)
    return Folds(dealt, tuple(map(str, range(folds))))


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


def _given_folds(labels: Labels) -> Folds:
    table = labels.table
    names = sorted(table[FOLD].unique(), key=natural)
    if "" in names or len(names) < 2:
        what = "folds" if labels.fold_from == FOLD else "sites"
        raise LabelsError(
            f"the column {labels.fold_from} of the labels table must name, in every row, one of two {what} or more"
        )
    crossing = table.groupby("patient_id")[FOLD].unique()
    crossing = crossing[crossing.map(len) > 1]
    if len(crossing):
        first, second = sorted(crossing.iloc[0], key=natural)[:2]
        raise LabelsError(
            f"the patient {crossing.index[0]!r} is in {_called(labels, first)} and in {_called(labels, second)}: it is "
            f"in more than one fold of the labels table{_others(len(crossing) - 1)}; put all slides of a patient into "
            "one, or delete those in the other"
        )
    return Folds(table[FOLD].map({name: fold for fold, name in enumerate(names)}).to_numpy(), tuple(names))


def _called(labels: Labels, name: str) -> str:
    return f"fold {name}" if labels.fold_from == FOLD else f"the {labels.fold_from} {name!r}"


def _others(count: int) -> str:
    return f", like {count} more" if count else ""
