"""Patients' scores by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mil.errors import SettingsError
from mil.patients import NO_SLIDE, PatientRule, patient_scores, patient_table
from mil.task import ANY_OF, ONE_VS_NORMAL, Task

TWO, LABELS = Task(("normal", "tumour")), Task(("x", "y"), ANY_OF)
NORMAL = Task(("a", "n", "b"), ONE_VS_NORMAL, "n")
CHANCES = np.array([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]])
PATIENT_OF = np.array([0, 1, 0])
TILES = np.array([1.0, 5, 3])


def scores(task: Task, rule: str, chances: np.ndarray = CHANCES, tiles: bool = False) -> np.ndarray:
    return patient_scores(task, chances, PATIENT_OF, PatientRule(rule, tiles), TILES)  # type: ignore[arg-type]


def test_mean() -> None:
    assert scores(TWO, "mean") == pytest.approx(np.array([[0.65, 0.35], [0.6, 0.4]]))
    assert scores(TWO, "mean", tiles=True) == pytest.approx(np.array([[0.575, 0.425], [0.6, 0.4]]))


def test_max_is_the_slide_that_is_least_normal() -> None:
    assert scores(TWO, "max").tolist() == [[0.5, 0.5], [0.6, 0.4]]
    assert scores(LABELS, "max").tolist() == [[0.8, 0.5], [0.6, 0.4]]
    three = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    assert scores(NORMAL, "max", three).tolist() == [[0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]


def test_noisy_or() -> None:
    assert scores(TWO, "noisy-or") == pytest.approx(np.array([[0.4, 0.6], [0.6, 0.4]]))
    assert scores(LABELS, "noisy-or") == pytest.approx(np.array([[0.9, 0.6], [0.6, 0.4]]))
    # Weights of 1 and 3 tiles over their mean of 2.
    weighted = scores(LABELS, "noisy-or", tiles=True)
    assert weighted[0] == pytest.approx([1 - 0.2**0.5 * 0.5**1.5, 1 - 0.8**0.5 * 0.5**1.5])
    assert weighted[1] == pytest.approx([0.6, 0.4])


def test_noisy_or_of_several_against_normal() -> None:
    three = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    found = scores(NORMAL, "noisy-or", three)
    a, b = 1 - 0.4 * 0.8, 1 - 0.9 * 0.4
    assert found[0] == pytest.approx([0.94 * a / (a + b), 0.06, 0.94 * b / (a + b)])
    assert found[1] == pytest.approx([0.1, 0.8, 0.1])


@pytest.mark.parametrize("rule", ["mean", "max", "noisy-or"])
@pytest.mark.parametrize("task", [TWO, LABELS])
def test_one_slide_and_certain_ones(task: Task, rule: str) -> None:
    certain = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert scores(task, rule, certain).tolist() == [[0, 1], [1, 0]]


def test_no_class_stands_above_two_others() -> None:
    with pytest.raises(SettingsError, match="max needs to know which of a, b, c is normal.*take the mean"):
        scores(Task(("a", "b", "c")), "max", np.full((3, 3), 1 / 3))
    with pytest.raises(SettingsError, match="--tile-weights says nothing beside --patient-rule max"):
        PatientRule("max", True)


def row(slide: str, patient: str, chance: float, status: str = "ok", tiles: int = 2, **more: Any) -> dict[str, Any]:
    chances = {"prob_normal": 1 - chance, "prob_tumour": chance}
    return {"slide_id": slide, "patient_id": patient, "status": status, "tiles": tiles, **chances, **more}


def test_table() -> None:
    table = pd.DataFrame(
        [
            row("s0", "q", 0.2, uncertainty=0.1, model="m"),
            row("s1", "p", 0.4, "failed", 0, uncertainty=np.nan, model="m"),
            row("s2", "q", 0.6, tiles=4, uncertainty=0.3, model="m"),
            row("s3", "q", 0.9, "failed", 0, uncertainty=np.nan, model="m"),
        ]
    )
    found = patient_table(table, TWO, PatientRule("max")).to_dict("records")
    assert found[0] == {
        "patient_id": "q", "status": "ok", "slides": 2, "tiles": 6, "prob_normal": 0.4, "prob_tumour": 0.6,
        "predicted": "tumour", "uncertainty": pytest.approx(0.2), "model": "m", "error": "",
    }  # fmt: skip
    assert (found[1]["patient_id"], found[1]["status"], found[1]["slides"], found[1]["tiles"]) == ("p", "failed", 0, 0)
    assert (found[1]["prob_tumour"], found[1]["predicted"], found[1]["error"]) == (0.4, "", NO_SLIDE)
    assert list(patient_table(table.drop(columns=["uncertainty", "model"]), TWO, PatientRule())) == [
        "patient_id", "status", "slides", "tiles", "prob_normal", "prob_tumour", "predicted", "error"
    ]  # fmt: skip
