"""The table of slides: what the score is, in what order rows stand, which columns there are."""

import pytest

from mil.listing import chances_of, columns, counts, ordered, score_name, score_of
from mil.task import ANY_OF, ONE_VS_NORMAL, Task

TWO, THREE = Task(("normal", "tumour")), Task(("a", "b", "c"))


def row(slide_id: str, *chances: object, task: Task = TWO, **more: object) -> dict[str, object]:
    named = {f"prob_{name}": chance for name, chance in zip(task.classes, chances, strict=True)}
    return {"slide_id": slide_id, "patient_id": slide_id, "status": "ok", "tiles": 3, **named, **more}


@pytest.mark.parametrize(
    ("task", "name", "chances", "score"),
    [
        (TWO, "tumour", (0.3, 0.7), 0.7),
        (Task(("x", "ok"), ONE_VS_NORMAL, "ok"), "x", (0.3, 0.7), 0.3),
        (THREE, "the class predicted", (0.2, 0.5, 0.3), 0.5),
        (Task(("a", "ok", "c"), ONE_VS_NORMAL, "ok"), "not ok", (0.25, 0.25, 0.5), 0.75),
        (Task(("a", "b"), ANY_OF), "the likeliest label", (0.9, 0.7), 0.9),
    ],
)
def test_score(task: Task, name: str, chances: tuple[float, ...], score: float) -> None:
    assert score_name(task) == name
    assert score_of(task, chances) == score


def test_highest_score_first_and_failed_ones_last_whatever_they_are_given() -> None:
    failed = row("a", 0.1, 0.9, status="failed", error="no tissue")  # with the class prior
    found = ordered(TWO, [failed, row("c", 0.6, 0.4), row("d", "0.2", "0.8"), row("b", 0.6, 0.4)])
    assert [each["slide_id"] for each in found] == ["d", "b", "c", "a"]
    assert [each["score"] for each in found] == [0.8, 0.4, 0.4, None]
    assert [each["decided"] for each in found] == ["tumour", "normal", "normal", ""]
    assert counts(TWO, found, "classes") == [("normal", 2), ("tumour", 1)]
    assert counts(TWO, found, "status") == [("failed", 1), ("ok", 3)]


@pytest.mark.parametrize("wrong", ["", None, float("nan"), "high"])
def test_a_row_without_a_probability_has_none(wrong: object) -> None:
    assert chances_of(TWO, row("a", 0.5, wrong)) is None


def test_outcome_heeds_what_is_known() -> None:
    task = Task(("a", "b"), ANY_OF)
    truths = ([True, False], [True, None], [False, None], [None, None])
    found = ordered(task, [row(str(at), 0.9, 0.8, task=task, truth=truth) for at, truth in enumerate(truths)])
    assert [(each["outcome"], each["decided"]) for each in found] == [
        ("wrong", "a;b"), ("right", "a;b"), ("wrong", "a;b"), ("", "a;b"),
    ]  # fmt: skip


def test_columns_that_say_nothing_are_left_out() -> None:
    def keys(task: Task, **more: object) -> list[str]:
        chances = [1 / len(task.classes)] * len(task.classes)
        return [column.key for column in columns(task, ordered(task, [row("s", *chances, task=task, **more)]))]

    assert keys(TWO) == ["score", "decided", "status", "tiles"]
    assert keys(TWO, uncertainty="0.1", patient_id="p") == [
        "score", "decided", "uncertainty", "status", "tiles", "patient_id",
    ]  # fmt: skip
    assert keys(TWO, label="tumour", truth=[False, True], fold="1") == [
        "score", "outcome", "label", "decided", "status", "fold", "tiles",
    ]  # fmt: skip
    assert keys(THREE) == ["score", "decided", "prob_a", "prob_b", "prob_c", "status", "tiles"]
