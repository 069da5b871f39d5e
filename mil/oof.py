"""Out-of-fold predictions of several models on the same slides: of runs, or in the tables of other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mil.checkpoint import read_card
from mil.errors import LabelsError, RunError, cause
from mil.labels import Labels, natural, of_run, read_table
from mil.predict import fold_folders
from mil.predictions import OK
from mil.run_folder import FOLDS, OOF, read_config, read_text
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
    refuse_wild(probabilities, labels, folder / OOF)
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
        refuse_wild(probabilities, labels, path, name)
        found.append(Source(name, labels, probabilities, table["fold"].to_numpy(), tiles))
    return found


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


def refuse_wild(probabilities: np.ndarray, labels: Labels, path: Path, model: str = "") -> None:
    """Raise LabelsError, naming a slide of the table in `path`, where numbers (N, K) are no probabilities."""
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
