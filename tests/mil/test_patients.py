"""Patients' scores by hand, and their table."""

from pathlib import Path

import numpy as np
import pytest

from mil.errors import SettingsError
from mil.evaluation import Cases, by_patient
from mil.patients import PatientRule, patient_rows, patient_scores, refuse_rule, write_patients
from mil.predictions import failed_row, score_row
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
    refuse_rule(PatientRule(), Task(("a", "b", "c")))
    with pytest.raises(SettingsError, match="--patient-rule noisy-or needs to know which"):
        refuse_rule(PatientRule("noisy-or"), Task(("a", "b", "c")))


TASK = Task(("0", "1"))


def scored(name: str, patient: str, chance: float, tiles: int = 4) -> dict[str, object]:
    return score_row(name, patient, TASK, "abc", tiles, np.array([chance, 1 - chance]), 0.1)


def failed(name: str, patient: str) -> dict[str, object]:
    return failed_row(name, patient, TASK, "abc", np.array([0.25, 0.75]), "it is cut short")


def test_rows() -> None:
    rows = [
        scored("c", "q", 0.5),
        scored("a", "p", 0.75, 2),
        failed("b", "p"),
        scored("d", "p", 0.25),
        failed("e", "r"),
    ]
    assert patient_rows(rows, TASK) == [
        {"patient_id": "p", "status": "ok", "slides": 2, "tiles": 6, "prob_0": 0.5, "prob_1": 0.5, "predicted": "0",
         "model": "abc", "error": "1 of 3 slides have no score, the first is 'b': it is cut short"},
        {"patient_id": "q", "status": "ok", "slides": 1, "tiles": 4, "prob_0": 0.5, "prob_1": 0.5, "predicted": "0",
         "model": "abc", "error": ""},
        {"patient_id": "r", "status": "failed", "slides": 0, "tiles": 0, "prob_0": 0.25, "prob_1": 0.75,
         "predicted": "", "model": "abc", "error": "1 of 1 slides have no score, the first is 'e': it is cut short"},
    ]  # fmt: skip
    by_rule = {rule: patient_rows(rows, TASK, rule) for rule in (PatientRule("max"), PatientRule(tile_weights=True))}
    assert [[row["prob_1"] for row in found] for found in by_rule.values()] == [
        [0.75, 0.5, 0.75], [pytest.approx((0.25 * 2 + 0.75 * 4) / 6), 0.5, 0.75],
    ]  # fmt: skip


def test_mean_has_the_digits_of_the_evaluation_whatever_the_order() -> None:
    chances = np.random.default_rng(0).random(7)
    names = [f"s{number}" for number in range(7)]
    rows = [scored(name, "p", chance) for name, chance in zip(names, chances, strict=True)]
    cases = Cases(np.stack([chances, 1 - chances], axis=1), np.zeros(7, int), np.full(7, "p"), np.zeros(7, int))
    expected = by_patient(cases, TASK).probabilities[0]
    for order in (rows, rows[::-1]):
        (row,) = patient_rows(order, TASK)
        assert [row["prob_0"], row["prob_1"]] == expected.tolist()


def test_several_labels_are_decided_anew() -> None:
    rows = [
        score_row(name, "p", LABELS, "abc", 1, np.array(chances))
        for name, chances in (("a", [0.9, 0.6]), ("b", [0.3, 0.2]))
    ]
    assert patient_rows(rows, LABELS)[0]["predicted"] == "x"


def test_table(tmp_path: Path) -> None:
    write_patients(tmp_path / "p.csv", [scored("a", "=p", 0.5)], TASK)
    assert (tmp_path / "p.csv").read_text() == (
        "patient_id,status,slides,tiles,prob_0,prob_1,predicted,model,error\n'=p,ok,1,4,0.5,0.5,0,abc,\n"
    )
    write_patients(tmp_path / "p.csv", [], TASK, PatientRule("noisy-or"))
    assert (tmp_path / "p.csv").read_text() == "patient_id,status,slides,tiles,prob_0,prob_1,predicted,model,error\n"
