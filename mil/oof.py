"""Out-of-fold predictions of several models on the same slides: of runs, or in the tables of other programs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mil.checkpoint import read_card
from mil.errors import LabelsError, RunError, cause
from mil.folds import Folds, deal
from mil.labels import Labels, natural, of_run, read_labels, read_table
from mil.predict import OK, fold_folders
from mil.run_folder import CONFIG, FOLDS, OOF, read_config, read_text
from mil.settings import TableSpec
from mil.task import ANY_OF, Task

OTHER_NAMES = {"id": "slide_id", "patient": "patient_id"}  # of columns, in tables of other programs
_NO_MODEL = ("slide_id", "patient_id", "label", "fold", "tiles", "status", "error", "predicted")


@dataclass(frozen=True, eq=False)
class Source:
    """What one model says out of fold of the slides of `labels`: `probabilities` (N, K); `fold_of` and `tiles` (N,).

    `fold_of` names folds. `balance` is what the training made of the classes: their shares as they are, all alike, or
    something in between. `run` is None for a table, which has no models.
    """

    name: str
    labels: Labels
    probabilities: np.ndarray
    fold_of: np.ndarray
    tiles: np.ndarray
    balance: Literal["none", "balanced", "other"] = "none"
    run: Path | None = None

    def at(self, slides: Sequence[str]) -> "Source":
        """The same of some slides, by their names and in their order."""
        rows = pd.Index(self.labels.table["slide_id"]).get_indexer(pd.Index(slides))
        parts = (self.probabilities[rows], self.fold_of[rows], self.tiles[rows])
        return Source(self.name, self.labels.at(rows), *parts, self.balance, self.run)


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


def read_sources(path: Path) -> list[Source]:
    """The run in a folder, or the models in a CSV of out-of-fold predictions; raises RunError or LabelsError."""
    return [read_run(path)] if path.is_dir() else read_oof_table(path)


def read_run(folder: Path) -> Source:
    """The out-of-fold predictions of a finished run; slides without a bag are left out."""
    task = read_card(fold_folders(folder)[0]).task
    slides = read_text(folder / FOLDS, "slide_id", "patient_id", "label", "fold")
    done = read_text(folder / OOF, "slide_id", "status", "tiles").set_index("slide_id")
    try:
        rows = done[done["status"] == OK].loc[slides["slide_id"]]
        probabilities = rows[[f"prob_{name}" for name in task.classes]].astype(np.float64).to_numpy()
        labels, tiles = of_run(slides, task), rows["tiles"].astype(int).to_numpy()
    except (KeyError, ValueError) as error:
        raise RunError(f"{OOF} and {FOLDS} of the run {str(folder)!r} do not fit ({cause(error)})") from error
    _refuse_wild(probabilities, labels, folder / OOF)
    name = folder.resolve().name
    return Source(name, labels, probabilities, slides["fold"].to_numpy(), tiles, _balance(folder, task), folder)


def read_oof_table(path: Path) -> list[Source]:
    """The models in a CSV with slide_id (or id), label, fold, and maybe patient_id (or patient) and tiles.

    Each other column is a model, with the probability of the second of two classes. A table with a column
    `prob_<class>` for every class, such as oof.csv of a run, is one model. Raises LabelsError.
    """
    table = read_table(path, "table of predictions", ("slide_id", "label", "fold"), OTHER_NAMES)
    if "status" in table:
        table = table[table["status"] == OK].reset_index(drop=True)
    if "patient_id" not in table:
        table["patient_id"] = ""
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["slide_id"])
    classes = tuple(sorted(table["label"].unique(), key=natural))
    where = f"the table of predictions {str(path)!r}"
    if "" in classes or len(classes) < 2:
        raise LabelsError(f"{where} needs a label in every row, and two of them, not {', '.join(map(repr, classes))}")
    task = Task(classes)
    columns = [f"prob_{name}" for name in classes]
    if {*columns} <= {*table}:
        models = {path.stem: columns}
    elif len(classes) > 2:
        raise LabelsError(f"{where} has {len(classes)} classes; give a table a model, with the columns {columns}")
    else:
        models = {str(name): [str(name)] for name in table if name not in _NO_MODEL}
    if not models:
        raise LabelsError(f"{where} has no column with the probabilities of a model; it has {', '.join(table.columns)}")
    labels, tiles = of_run(table, task), _tiles(table)
    found = []
    for name, names in models.items():
        values = table[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        probabilities = values if len(names) > 1 else np.hstack([1 - values, values])
        _refuse_wild(probabilities, labels, path, name)
        found.append(Source(name, labels, probabilities, table["fold"].to_numpy(), tiles))
    return found


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


def _balance(run: Path, task: Task) -> Literal["none", "balanced", "other"]:
    config = read_config(run)
    if config.get("focal_alpha") or (config.get("balance") == "sampling" and task.kind == ANY_OF):
        return "other"
    return "balanced" if config.get("balance") else "none"


def _tiles(table: pd.DataFrame) -> np.ndarray:
    """The column `tiles`, 1 where it is missing or says nothing that can be."""
    if "tiles" not in table:
        return np.ones(len(table), int)
    tiles = pd.to_numeric(table["tiles"], errors="coerce")
    return tiles.where(tiles.between(1, 1e9), 1).to_numpy().astype(int)


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, those with the name of another with a number behind theirs."""
    found: list[Source] = []
    for source in sources:
        taken, name, number = {each.name for each in found}, source.name, 2
        while name in taken:
            name, number = f"{source.name} ({number})", number + 1
        found.append(replace(source, name=name))
    return found


def _refuse_wild(probabilities: np.ndarray, labels: Labels, path: Path, model: str = "") -> None:
    possible_NK = (probabilities >= 0) & (probabilities <= 1)
    sums_N = np.where(possible_NK, probabilities, np.inf).sum(axis=1)
    limit = np.inf if labels.task.kind == ANY_OF else 1e-3
    places = np.flatnonzero(~possible_NK.all(axis=1) | (np.abs(sums_N - 1) > limit))
    if len(places):
        slide = labels.table["slide_id"].iloc[places[0]]
        of = f" of {model}" if model else ""
        raise LabelsError(
            f"{str(path)!r} has for the slide {slide!r} no probability{of}: numbers from 0 to 1 are needed, those of "
            f"classes with sum 1 (so in {len(places)} rows)"
        )


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
