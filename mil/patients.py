"""Scores of patients from those of their slides."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mil.errors import SettingsError
from mil.task import ANY_OF, ONE_VS_NORMAL, Task
from tiling.settings import check, setting

_OK, _FAILED = "ok", "failed"
NO_SLIDE = "none of the patient's slides has a score"


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


def patient_table(table: pd.DataFrame, task: Task, rule: PatientRule) -> pd.DataFrame:
    """A row for each patient of a predictions table of slides, in the order in which patients come.

    Its columns: `patient_id, status, slides, tiles`, `prob_<class>` of `patient_scores`, `predicted`, `uncertainty` and
    `model` where the table has them, and `error`. Slides that failed are left out, and not among `slides`; a patient
    without another has their mean, which is the class prior, and failed. The uncertainty is the mean of the slides'.
    """
    columns = [f"prob_{name}" for name in task.classes]
    rows = []
    for patient, slides in table.groupby("patient_id", sort=False):
        there = slides[slides["status"] == _OK]
        failed = there.empty
        used = slides if failed else there
        chances = used[columns].to_numpy(np.float64)
        if failed:
            scores = chances.mean(axis=0)
        else:
            of_one = np.zeros(len(used), int)
            scores = patient_scores(task, chances, of_one, rule, used["tiles"].to_numpy(np.float64))[0]
        rows.append(
            {
                "patient_id": patient,
                "status": _FAILED if failed else _OK,
                "slides": len(there),
                "tiles": int(there["tiles"].sum()),
                **dict(zip(columns, scores, strict=True)),
                "predicted": "" if failed else task.predicted(scores),
                **({"uncertainty": there["uncertainty"].astype(float).mean()} if "uncertainty" in table else {}),
                **({"model": used["model"].iloc[0]} if "model" in table else {}),
                "error": NO_SLIDE if failed else "",
            }
        )
    return pd.DataFrame(rows)


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
