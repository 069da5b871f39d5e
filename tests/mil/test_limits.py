"""What a model is not for follows from its run, without one line that is not so."""

from pathlib import Path

from mil.card import About, ClassRow
from mil.limits import limits_of
from mil.task import ANY_OF, Task


def made(task: Task, *counts: int, **more: object) -> About:
    """Of a run on `counts` slides of each class, a patient each."""
    said = About(Path("run"), "Run", "run", task, [], **more)  # type: ignore[arg-type]
    said.classes = [ClassRow(name, count, count, {}) for name, count in zip(task.classes, counts, strict=True)]
    said.slides = said.patients = sum(counts)
    return said


def test_few_patients_are_said_where_they_are_few() -> None:
    task = Task(("normal", "tumour"))
    assert "It learned from 199 slides of 199 patients" in " ".join(limits_of(made(task, 170, 29), {}))
    assert "Patients of these classes are too few to know how it does on them: tumour (29)." in limits_of(
        made(task, 170, 29), {}
    )
    assert not [line for line in limits_of(made(task, 170, 30), {}) if "too few" in line or "are few" in line]


def test_labels_are_no_classes() -> None:
    assert "Every slide gets any of these labels, or none" in limits_of(made(Task(("x", "y"), ANY_OF), 1, 1), {})[1]


def test_probabilities_hold_for_the_shares_they_are_meant_for() -> None:
    task = Task(("normal", "tumour"))
    of_training, corrected = (
        next(line for line in limits_of(made(task, 3, 1, prior=prior), {}) if line.startswith("Its probabilities"))
        for prior in (None, (0.9, 0.1))
    )
    assert of_training == (
        "Its probabilities hold where classes are as frequent as in its training (normal 75%, tumour 25%); elsewhere "
        "they have to be corrected."
    )
    assert "as they were corrected for (normal 90%, tumour 10%)" in corrected
    assert corrected.endswith("The figures here are of the labelled slides, which have other shares.")
