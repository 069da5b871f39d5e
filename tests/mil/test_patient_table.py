"""A patient's score is the mean of their slides', and a patient without one has a row that says why."""

from pathlib import Path

import numpy as np

from mil.evaluation import Cases, by_patient
from mil.patient_table import patient_rows, write_patients
from mil.predictions import failed_row, score_row
from mil.task import ANY_OF, Task

TASK = Task(("0", "1"))
PRIOR = np.array([0.25, 0.75])


def scored(name: str, patient: str, chance: float, tiles: int = 4) -> dict[str, object]:
    return score_row(name, patient, TASK, "abc", tiles, np.array([chance, 1 - chance]), 0.1)


def failed(name: str, patient: str) -> dict[str, object]:
    return failed_row(name, patient, TASK, "abc", PRIOR, "it is cut short")


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


def test_mean_has_the_digits_of_the_evaluation_whatever_the_order() -> None:
    chances = np.random.default_rng(0).random(7)
    names = [f"s{number}" for number in range(7)]
    rows = [scored(name, "p", chance) for name, chance in zip(names, chances, strict=True)]
    probabilities = np.stack([chances, 1 - chances], axis=1)
    expected = by_patient(Cases(probabilities, np.zeros(7, int), np.full(7, "p"), np.zeros(7, int))).probabilities[0]
    for order in (rows, rows[::-1]):
        (row,) = patient_rows(order, TASK)
        assert [row["prob_0"], row["prob_1"]] == expected.tolist()


def test_several_labels_are_decided_anew() -> None:
    task = Task(("x", "y"), ANY_OF)
    rows = [
        score_row(name, "p", task, "abc", 1, np.array(chances))
        for name, chances in (("a", [0.9, 0.6]), ("b", [0.3, 0.2]))
    ]
    assert patient_rows(rows, task)[0]["predicted"] == "x"


def test_another_rule_is_given_tiles_too() -> None:
    rows = [scored("a", "p", 0.25, 1), scored("b", "p", 0.75, 3)]
    (row,) = patient_rows(rows, TASK, lambda chances_NK, tiles_N: tiles_N @ chances_NK / tiles_N.sum())
    assert row["prob_0"] == 0.625


def test_table(tmp_path: Path) -> None:
    write_patients(tmp_path / "p.csv", [scored("a", "=p", 0.5)], TASK)
    assert (tmp_path / "p.csv").read_text() == (
        "patient_id,status,slides,tiles,prob_0,prob_1,predicted,model,error\n'=p,ok,1,4,0.5,0.5,0,abc,\n"
    )
    write_patients(tmp_path / "p.csv", [], TASK)
    assert (tmp_path / "p.csv").read_text() == "patient_id,status,slides,tiles,prob_0,prob_1,predicted,model,error\n"
