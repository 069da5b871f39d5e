"""The table of patients: what the scores of a patient's slides say together."""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from mil.evaluation import means_by
from mil.predictions import FAILED, OK, PROBABILITY, Row, column_type, write_rows
from mil.task import Task

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean_of_slides(chances_NK: np.ndarray, tiles_N: np.ndarray) -> np.ndarray:
    """Probabilities (K,) of a patient: the mean over the slides, as in a run's figures by patient."""
    return means_by(chances_NK, np.zeros(len(tiles_N), np.int64))[0]


def patient_rows(rows: Sequence[Row], task: Task, rule: Rule = mean_of_slides) -> list[Row]:
    """A row for each patient, sorted, from the rows of a table of scores: what `rule` makes of the slides with a score.

    Its columns are `patient_id, status, slides, tiles, prob_<class>…, predicted, model, error`. `slides` and `tiles`
    count those that have a score. A patient without any keeps the class shares of the training, which their slides'
    rows have, and is failed; `error` names a slide that has none. `rule` is given probabilities float64 (N, K) and the
    numbers of tiles int64 (N,), in the order of the slides' names.
    """
    in_order = sorted(rows, key=itemgetter("patient_id", "slide_id"))
    return [_row(patient, list(of), task, rule) for patient, of in groupby(in_order, itemgetter("patient_id"))]


def write_patients(path: Path, rows: Sequence[Row], task: Task) -> None:
    """Write the table of patients from the rows of a table of scores, as CSV or Parquet by its name."""
    patients = patient_rows(rows, task)
    names = _row("", [], task, mean_of_slides)
    write_rows(path, {name: column_type(name) for name in names}, patients)


def _row(patient: str, rows: Sequence[Row], task: Task, rule: Rule) -> Row:
    scored, failed = ([row for row in rows if row["status"] == status] for status in (OK, FAILED))
    names = [f"{PROBABILITY}{label}" for label in task.classes]
    taken = scored or failed[:1]  # all failed ones have the same
    chances_NK = np.array([[row[name] for name in names] for row in taken], np.float64).reshape(-1, len(names))
    tiles_N = np.array([row["tiles"] for row in taken], np.int64)
    chances = rule(chances_NK, tiles_N) if scored else chances_NK.sum(axis=0)
    return {
        "patient_id": patient,
        "status": OK if scored else FAILED,
        "slides": len(scored),
        "tiles": int(tiles_N.sum()),
        **dict(zip(names, map(float, chances), strict=True)),
        "predicted": task.predicted(chances) if scored else "",
        "model": taken[0]["model"] if taken else "",
        "error": _why(failed, len(rows)),
    }


def _why(failed: Sequence[Row], slides: int) -> str:
    if not failed:
        return ""
    first = failed[0]
    return f"{len(failed)} of {slides} slides have no score, the first is {first['slide_id']!r}: {first['error']}"
