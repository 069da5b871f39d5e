"""Models on the slides that all of them have seen, and folds by which anything fitted to them can be judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil.errors import LabelsError, RunError, cause
from mil.folds import Folds, deal
from mil.labels import Labels, natural, read_labels
from mil.oof import Source
from mil.run_folder import CONFIG, read_config
from mil.settings import TableSpec


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What R models say of the same N slides; `folds` is what anything fitted to it is cross-fitted by.

    `sources` have these slides in this order. `left_out` slides are not in all of the sources, or have no label.
    Where the models have other folds than each other, `folds` are dealt out anew, by patient.
    """

    labels: Labels
    sources: tuple[Source, ...]
    folds: Folds
    left_out: int
    dealt: bool

    @property
    def members_RNK(self) -> np.ndarray:
        """Probabilities float64 (R, N, K)."""
        return np.stack([source.probabilities for source in self.sources])

    @property
    def tiles(self) -> np.ndarray:
        """Tiles of each slide, int (N,): those that the first model saw."""
        return self.sources[0].tiles


def gather_sources(sources: Sequence[Source], labels: Path | None = None) -> OutOfFold:
    """The sources on the slides that all of them have, with the labels and patients of a table, or with their own.

    Raises LabelsError or RunError where they do not fit together, or cannot be cross-fitted without a patient on both
    sides: where some model was tested on slides of one patient in two folds.
    """
    sources = _named_apart(sources)
    truth = sources[0].labels if labels is None else read_labels(labels, _columns(sources))
    for source in sources:
        _refuse_other_task(source, truth)
    names = [set(source.labels.table["slide_id"]) for source in sources]
    common = [name for name in truth.table["slide_id"] if all(name in each for each in names)]
    if not common:
        raise LabelsError(
            f"no slide is in all of {', '.join(source.name for source in sources)}"
            + ("" if labels is None else f" and has a label in {str(labels)!r}")
        )
    truth = truth.at(pd.Index(truth.table["slide_id"]).get_indexer(pd.Index(common)))
    sources = [source.at(common) for source in sources]
    for source in sources:
        if labels is None:
            _refuse_other_labels(source, sources[0])
        _refuse_other_patients(source, truth)
        _refuse_seen(source, truth)
    folds, dealt = _folds(sources, truth)
    for fold, name in enumerate(folds.names):
        if absent := truth.at(folds.of != fold).absent:
            raise LabelsError(
                f"without the fold {name} no slide of the label {absent!r} is left, so that nothing can be fitted "
                "without it; add slides, or put others into one fold"
            )
    return OutOfFold(truth, tuple(sources), folds, len(set.union(*names)) - len(common), dealt)


def _folds(sources: Sequence[Source], truth: Labels) -> tuple[Folds, bool]:
    """The folds that all sources have, by whatever names; else new ones, as many as the fewest, and True."""
    of_each = [pd.factorize(source.fold_of)[0] for source in sources]  # 0, 1, … as they come
    if len({tuple(each) for each in of_each}) == 1:
        names = sorted(set(sources[0].fold_of), key=natural)
        if len(names) < 2:
            raise LabelsError("all slides are of one fold, so that what is fitted cannot be judged on others; give two")
        return Folds(np.array([names.index(name) for name in sources[0].fold_of]), tuple(names)), False
    parts = min(each.max() + 1 for each in of_each)
    parts = max(2, min(parts, int(truth.patients.min())))
    dealt = deal(truth.table["patient_id"], truth.strata, parts, 0)
    return Folds(dealt, tuple(map(str, range(parts)))), True


def _columns(sources: Sequence[Source]) -> TableSpec:
    """How the labels table of the first run was read."""
    runs = [source.run for source in sources if source.run is not None]
    if not runs:
        return TableSpec()
    config = read_config(runs[0])
    try:
        return TableSpec(tuple(config["label_columns"]), config["normal"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{CONFIG} of the run {str(runs[0])!r} lacks {cause(error)}; train again") from error


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, those with the name of another with a number behind theirs."""
    found: list[Source] = []
    for source in sources:
        taken, name, number = {each.name for each in found}, source.name, 2
        while name in taken:
            name, number = f"{source.name} ({number})", number + 1
        found.append(replace(source, name=name))
    return found


def _refuse_other_task(source: Source, truth: Labels) -> None:
    if source.labels.task.classes != truth.task.classes or source.labels.task.kind != truth.task.kind:
        task = source.labels.task
        raise LabelsError(
            f"{source.name} has {task.kind} the classes {', '.join(task.classes)}, and the others or the labels "
            f"{truth.task.kind} {', '.join(truth.task.classes)}; give runs of one task"
        )


def _refuse_other_labels(source: Source, first: Source) -> None:
    own, its = source.labels.targets, first.labels.targets
    differs = ~((own == its) | ((own != own) & (its != its)))  # noqa: PLR0124  # unknown in both
    places = np.flatnonzero(differs.any(axis=1) if differs.ndim > 1 else differs)
    if len(places):
        raise LabelsError(
            f"the slide {first.labels.table['slide_id'].iloc[places[0]]!r} has one label in {first.name} and another "
            f"in {source.name}; give the right ones with --labels"
        )


def _refuse_other_patients(source: Source, truth: Labels) -> None:
    """Two slides that were one patient's in training are one patient's."""
    patients = truth.table["patient_id"].groupby(source.labels.table["patient_id"].to_numpy()).unique()
    if (patients.map(len) > 1).any():
        name = patients.index[patients.map(len) > 1][0]
        raise LabelsError(
            f"the slides of the patient {name!r} of {source.name} are of the patients "
            f"{' and '.join(map(repr, patients[name][:2]))} in the labels; give one patient_id to all slides of one"
        )


def _refuse_seen(source: Source, truth: Labels) -> None:
    """No model may be judged on a patient it was trained on."""
    folds = pd.Series(source.fold_of).groupby(truth.table["patient_id"].to_numpy()).unique()
    if (folds.map(len) > 1).any():
        name = folds.index[folds.map(len) > 1][0]
        raise LabelsError(
            f"{source.name} tested slides of the patient {name!r} in the folds {' and '.join(folds[name][:2])}: what "
            "it says of one had seen the other in training; leave it out, or train it with patient_id in the labels"
        )
