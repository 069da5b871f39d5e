"""Scores of patients from those of their slides, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np

from mil.errors import SettingsError
from mil.predictions import FAILED, OK, PROBABILITY, Row, column_type, write_rows
from mil.task import ANY_OF, ONE_VS_NORMAL, Task
from tiling.settings import check, setting


@dataclass(frozen=True)
class PatientRule:
    """How the scores of a patient's slides become one."""

    patient_rule: Literal["mean", "max", "noisy-or"] = setting(
        "mean", "a patient's score: the mean of their slides', the highest, or the chance that any slide has it"
    )
    tile_weights: bool = setting(False, "let slides count by their tiles in the mean and in noisy-or")

    def __post_init__(self) -> None:
        check(self, SettingsError)
        if self.tile_weights and self.patient_rule == "max":
            raise SettingsError("--tile-weights says nothing beside --patient-rule max; leave one out")


MEAN = PatientRule()
NO_PATIENTS = "--patient-rule and --tile-weights are for the table of --patients; give that too"


def write_patients(path: Path, rows: Sequence[Row], task: Task, rule: PatientRule = MEAN) -> None:
    """Write the table of patients of the rows of a table of scores, as CSV or Parquet by its name."""
    columns = {name: column_type(name) for name in _row("", [], task, rule)}
    write_rows(path, columns, patient_rows(rows, task, rule))


def patient_rows(rows: Sequence[Row], task: Task, rule: PatientRule = MEAN) -> list[Row]:
    """A row for each patient, sorted, from the rows of a table of scores: `patient_scores` of the slides with a score.

    Its columns are `patient_id, status, slides, tiles, prob_<class>…, predicted, model, error`. `slides` and `tiles`
    count those that have a score. A patient without any is failed and keeps the prior, which their slides' rows have;
    `error` names a slide that has none. There is no uncertainty: that of a patient does not follow from the slides'.
    """
    in_order = sorted(rows, key=itemgetter("patient_id", "slide_id"))
    return [_row(patient, list(of), task, rule) for patient, of in groupby(in_order, itemgetter("patient_id"))]


def refuse_rule(rule: PatientRule, task: Task) -> None:
    """Raise SettingsError where the rule has no meaning for the task; see `patient_scores`."""
    if rule.patient_rule != "mean":
        _normal(task, rule)


def patient_scores(
    task: Task, probabilities_NK: np.ndarray, patient_of: np.ndarray, rule: PatientRule, tiles_N: np.ndarray
) -> np.ndarray:
    """Probabilities float64 (P, K) of patients from those of slides (N, K), whose patients `patient_of` counts from 0.

    - `mean`: the mean.
    - `max`: the slide with most of it: of labels each by itself; of classes the slide that is least normal.
    - `noisy-or`: 1 - Π (1 - p), the chance that any slide has it if slides were independent (Pearl 1988): of labels
      each by itself; of classes the chance of normal is the product of the slides', and the others share what is left
      in proportion to their own noisy-or.

    With weights w (tiles over their mean in the patient) the mean is a weighted one, and noisy-or has (1 - p)^w. The
    normal one of two classes is the first. Of more without a normal class none stands above the others: raises
    SettingsError, but for the mean.
    """
    patients = int(patient_of.max(initial=-1)) + 1
    slides_P = np.bincount(patient_of, minlength=patients)
    weights_N = np.ones(len(patient_of))
    if rule.tile_weights:
        mean_P = np.bincount(patient_of, tiles_N, patients) / slides_P
        weights_N = tiles_N / mean_P[patient_of]
    if rule.patient_rule == "mean":
        return _sums(probabilities_NK * weights_N[:, None], patient_of, patients) / slides_P[:, None]
    normal = _normal(task, rule)
    if rule.patient_rule == "max":
        return _highest(probabilities_NK, patient_of, patients, normal)
    with np.errstate(divide="ignore"):
        without_NK = np.log1p(-probabilities_NK) * weights_N[:, None]
        any_PK = -np.expm1(_sums(without_NK, patient_of, patients))
        if normal is None:
            return any_PK
        normal_P = np.exp(np.bincount(patient_of, np.log(probabilities_NK[:, normal]) * weights_N, patients))
    any_PK[:, normal] = 0
    total_P1 = any_PK.sum(axis=1, keepdims=True)
    found_PK = any_PK / np.where(total_P1 > 0, total_P1, 1) * (1 - normal_P)[:, None]
    found_PK[:, normal] = normal_P
    return found_PK


def _row(patient: str, rows: Sequence[Row], task: Task, rule: PatientRule) -> Row:
    scored, failed = ([row for row in rows if row["status"] == status] for status in (OK, FAILED))
    names = [f"{PROBABILITY}{label}" for label in task.classes]
    taken = scored or failed[:1]  # all failed ones have the same
    chances_NK = np.array([[row[name] for name in names] for row in taken], np.float64).reshape(-1, len(names))
    tiles_N = np.array([row["tiles"] for row in scored], np.float64)
    if scored:
        chances = patient_scores(task, chances_NK, np.zeros(len(scored), int), rule, tiles_N)[0]
    else:
        chances = chances_NK.sum(axis=0)
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


def _sums(values_NK: np.ndarray, patient_of: np.ndarray, patients: int) -> np.ndarray:
    sums_PK = np.zeros((patients, values_NK.shape[1]))
    np.add.at(sums_PK, patient_of, values_NK)
    return sums_PK


def _highest(chances_NK: np.ndarray, patient_of: np.ndarray, patients: int, normal: int | None) -> np.ndarray:
    if normal is None:
        found_PK = np.zeros((patients, chances_NK.shape[1]))
        np.maximum.at(found_PK, patient_of, chances_NK)
        return found_PK
    order = np.lexsort((chances_NK[:, normal], patient_of))  # the least normal slide of each patient first
    _, first = np.unique(patient_of[order], return_index=True)
    return chances_NK[order[first]]


def _normal(task: Task, rule: PatientRule) -> int | None:
    """The place of the class that a patient has if no slide has another; None for labels."""
    if task.kind == ANY_OF:
        return None
    if task.kind == ONE_VS_NORMAL:
        return task.normal_index
    if len(task.classes) > 2:
        raise SettingsError(
            f"--patient-rule {rule.patient_rule} needs to know which of {', '.join(task.classes)} is normal, and the "
            "run was trained without --normal; take the mean"
        )
    return 0
