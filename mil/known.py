"""What is known before labels are spread: the splits of a run, its labels table, and whose the other slides are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from mil.checkpoint import read_card
from mil.ensemble_folder import is_ensemble, read_ensemble, run_folder
from mil.errors import LabelsError, RunError, cause
from mil.folds import Split, make_folds, make_splits
from mil.labels import FOLD, Labels, of_run, read_table
from mil.predict import fold_folders
from mil.run_folder import FOLDS, read_config, read_text
from mil.settings import TableSpec
from mil.soft import BETWEEN, PSEUDO_FOLD, VALID_IN, chance_column
from mil.task import ANY_OF, Task
from tiling.bags import Bags
from tiling.output import write_table
from tiling.settings import with_tuples


@dataclass(frozen=True, eq=False)
class Known:
    """The labelled slides of a run with its splits, the rows of the labels table, and the unlabelled slides.

    `rows` (text, by slide_id) are those of the labels table without pseudo labels, those with no label included.
    `patient_of` has the patient of each unlabelled slide: its own name where nobody has said whose it is. `left_out`
    are slides that have a label and are not in the run.
    """

    labels: Labels
    splits: list[Split]
    spec: TableSpec
    run_bags: str
    rows: pd.DataFrame
    patient_of: dict[str, str]
    left_out: list[str]

    def free(self, split: Split) -> list[str]:
        """The unlabelled slides of which a fold may learn: those of no patient that it stops on or is tested on."""
        bound = {*self.labels.table["patient_id"].iloc[np.concatenate([split.valid, split.test])]}
        return [slide for slide, patient in self.patient_of.items() if patient not in bound]


def gather_known(runs: Sequence[Path], labels: Path, bags: Bags) -> Known:
    """What is known of the slides of runs and of the slides in `bags` that have no label.

    Raises RunError where a run is none or the runs have not the same splits, LabelsError where the labels table is not
    that of the run, or every bag has a label.
    """
    folders = [folder for path in runs for folder in _folders(path)]
    first, *others = (_splits(folder) for folder in folders)
    for folder, other in zip(folders[1:], others, strict=True):
        if _in_names(*other) != _in_names(*first):
            raise RunError(
                f"the runs {str(folders[0])!r} and {str(folder)!r} differ in their folds or in what they stop on, so "
                "that what one has learned from the other is tested on; give runs of the same slides, folds and --seed"
            )
    config = read_config(folders[0])
    try:
        spec = TableSpec(**with_tuples({each.name: config[each.name] for each in fields(TableSpec)}))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the settings of the run {str(folders[0])!r} are damaged ({cause(error)})") from error
    known_labels, splits = first
    rows = _rows(labels, spec)
    _refuse_other(labels, rows, spec, known_labels, folders[0])
    has_label = (rows[[*spec.label_columns]] != "").any(axis=1)
    labelled = {*rows.index[has_label]}
    patient_of = {name: rows["patient_id"].get(name, name) for name in bags.refs if name not in labelled}
    if not patient_of:
        raise LabelsError(f"every bag in {str(bags.path)!r} has a label in {str(labels)!r}; give bags that have none")
    left_out = sorted(labelled - {*known_labels.table["slide_id"]})
    return Known(known_labels, splits, spec, str(config.get("bags", "")), rows, patient_of, left_out)


def write_wider(
    out: Path, known: Known, chances: Mapping[str, Mapping[str, np.ndarray]], task: Task
) -> None:  # fmt: skip
    """Write the labels table with, behind the slides of the run, a row for each fold and each slide it may learn of.

    `chances` has by fold and slide the probabilities (K,), nan for labels of which nothing is learned.
    """
    table, tests = known.labels.table, known.labels.table[FOLD]
    stops: dict[str, list[str]] = {slide: [] for slide in table["slide_id"]}
    for split in known.splits:
        for slide in table["slide_id"].iloc[split.valid]:
            stops[slide].append(split.name)
    if wrong := [split.name for split in known.splits if BETWEEN in split.name]:
        raise LabelsError(f"the fold {wrong[0]!r} has a semicolon in its name, which stands between folds; rename it")
    columns = [FOLD, *([VALID_IN] if any(stops.values()) else []), PSEUDO_FOLD, *map(chance_column, task.classes)]
    kept = ["patient_id", *(str(name) for name in known.rows if name not in ("patient_id", *columns))]
    header = ["slide_id", *kept, *columns]
    of_table = {str(name): dict(zip(kept, cells, strict=True)) for name, *cells in known.rows[kept].itertuples()}
    rows = [
        {"slide_id": slide, **of_table[slide], FOLD: fold, VALID_IN: BETWEEN.join(stops[slide])}
        for slide, fold in zip(table["slide_id"], tests, strict=True)
    ]
    for fold, of_slides in chances.items():
        for slide, chances_K in of_slides.items():
            said = {
                chance_column(name): "" if np.isnan(chance) else float(chance)
                for name, chance in zip(task.classes, chances_K, strict=True)
            }
            named = {"slide_id": slide, "patient_id": known.patient_of[slide], PSEUDO_FOLD: fold}
            rows.append({**of_table.get(slide, {}), **named, **said, **_hard(known.spec, task, chances_K)})
    write_table(out, header, ([row.get(name, "") for name in header] for row in rows))


def _folders(path: Path) -> list[Path]:
    """The folder of a run, or those of the runs of an ensemble."""
    if not is_ensemble(path):
        return [path]
    return [run_folder(path, place) for place in range(len(read_ensemble(path).names))]


def _splits(run: Path) -> tuple[Labels, list[Split]]:
    """The labelled slides of a run and its splits, made again as it made them."""
    task, config = read_card(fold_folders(run)[0]).task, read_config(run)
    try:
        labels = of_run(read_text(run / FOLDS, "slide_id", "patient_id", "label", FOLD), task)
        splits = make_splits(labels, make_folds(labels, 2, 0), float(config["valid_share"]), int(config["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{FOLDS} and the settings of the run {str(run)!r} do not fit ({cause(error)})") from error
    return labels, splits


def _in_names(labels: Labels, splits: Sequence[Split]) -> list[tuple[frozenset[str], ...]]:
    slides = labels.table["slide_id"]
    return [tuple(frozenset(slides.iloc[rows]) for rows in (each.train, each.valid, each.test)) for each in splits]


def _rows(labels: Path, spec: TableSpec) -> pd.DataFrame:
    """The rows of the labels table by slide_id, with a patient_id each, without those of pseudo labels."""
    table = read_table(labels, "labels table", ("slide_id", *spec.label_columns), once=("slide_id", PSEUDO_FOLD))
    if PSEUDO_FOLD in table:
        table = table[table[PSEUDO_FOLD] == ""]
    patient = table["patient_id"] if "patient_id" in table else table["slide_id"]
    table = table.assign(patient_id=patient.where(patient != "", table["slide_id"]))
    return table.set_index("slide_id")


def _refuse_other(path: Path, rows: pd.DataFrame, spec: TableSpec, labels: Labels, run: Path) -> None:
    """Raise LabelsError for the first slide of the run that the labels table says something else of."""
    for slide in labels.table.to_dict("records"):
        name = slide["slide_id"]
        if name not in rows.index:
            raise LabelsError(f"{str(path)!r} has no row of {name!r}, from which the run {str(run)!r} learned; add it")
        row = rows.loc[name]
        if labels.task.kind == ANY_OF:
            same = all(_number(row[label]) == _number(slide[label]) for label in spec.label_columns)
        else:
            same = row[spec.label_columns[0]] == slide["label"]
        if not same or row["patient_id"] != slide["patient_id"]:
            what = "patient_id" if same else "label"
            raise LabelsError(
                f"{str(path)!r} says another {what} of {name!r} than the run {str(run)!r} learned; give the labels "
                "table of the run, or train again"
            )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _hard(spec: TableSpec, task: Task, chances_K: np.ndarray) -> dict[str, str]:
    """The label columns' cells of a pseudo label: what is most probable, nothing for a label that is not known."""
    if task.kind != ANY_OF:
        return {spec.label_columns[0]: task.predicted(chances_K)}
    return {
        name: "" if np.isnan(chance) else str(int(chance >= 0.5))
        for name, chance in zip(task.classes, chances_K, strict=True)
    }
