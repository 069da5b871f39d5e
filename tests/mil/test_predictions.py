"""The table of predictions: exact digits, a row for every slide, cells that no spreadsheet runs."""

from pathlib import Path

import numpy as np
import pytest

from mil.errors import TableError
from mil.predictions import (
    failed_row,
    prediction_row,
    read_predictions,
    read_rows,
    score_columns,
    score_row,
    uncertainty_of,
    write_predictions,
    write_rows,
)
from mil.task import ANY_OF, Task

TASK = Task(("0", "1"))
ROWS = [
    score_row("0007", "p", TASK, "abc", 16, np.array([1 / 3, 2 / 3]), 0.1),
    failed_row("b", "=q", TASK, "abc", np.array([0.25, 0.75]), "cut short, copy it again"),
]


def test_scores(tmp_path: Path) -> None:
    write_predictions(tmp_path / "scores.csv", ROWS)
    assert (tmp_path / "scores.csv").read_text() == (
        "slide_id,patient_id,status,tiles,prob_0,prob_1,predicted,uncertainty,model,error\n"
        "0007,p,ok,16,0.3333333333333333,0.6666666666666666,1,0.1,abc,\n"
        'b,\'=q,failed,0,0.25,0.75,,,abc,"cut short, copy it again"\n'
    )
    assert read_rows(tmp_path / "scores.csv") == ROWS
    table, probabilities = read_predictions(tmp_path / "scores.csv", TASK.classes)
    assert table["slide_id"].tolist() == ["0007"]
    np.testing.assert_array_equal(probabilities, [[1 / 3, 2 / 3]])


def test_out_of_fold(tmp_path: Path) -> None:
    rows = [
        prediction_row("a", "p", TASK, 16, np.array([0.1, 0.9]), label="1", fold="0"),
        prediction_row("b", "b", TASK, error="no tissue", label="0", fold=""),
    ]
    write_predictions(tmp_path / "oof.csv", rows)
    assert (tmp_path / "oof.csv").read_text() == (
        "slide_id,patient_id,label,fold,status,tiles,prob_0,prob_1,predicted,error\n"
        "a,p,1,0,ok,16,0.1,0.9,1,\n"
        "b,b,0,,failed,0,,,,no tissue\n"
    )


@pytest.mark.parametrize("name", ["=1+1", "@x", "-a", "a\rb", "z\nw", "\tx", "'=1", "'", "-1", " a ", 'say "so"', "肾"])
def test_names_come_back(tmp_path: Path, name: str) -> None:
    task = Task((name, "other"))
    rows = [score_row(name, name, task, "abc", 2, np.array([0.1 + 0.2, 0.7]), None)]
    write_rows(tmp_path / "scores.csv", score_columns(task), rows)
    assert read_rows(tmp_path / "scores.csv") == rows
    table, chances = read_predictions(tmp_path / "scores.csv", task.classes)
    assert table["predicted"].tolist() == ["other"]
    assert chances.tolist() == [[0.1 + 0.2, 0.7]]


def test_name_that_is_no_text_is_escaped_everywhere() -> None:
    assert score_row("a\udce9", "\udce9", TASK, "", 1, np.array([0.5, 0.5]))["slide_id"] == "a\\udce9"
    assert failed_row("a\udce9", "\udce9", TASK, "", np.array([0.5, 0.5]), "x")["patient_id"] == "\\udce9"


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "scores.csv", score_columns(TASK), [])
    assert (tmp_path / "scores.csv").read_text().count(",") == 9
    assert read_rows(tmp_path / "scores.csv") == []


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"slide_id,tiles\na,b\n", b'slide_id\n"a', b"slide_id,tiles\na\n"]
)
def test_what_is_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(TableError, match="cannot read the table .*scores.csv"):
        read_rows(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("name", "cell"),
    [("prob_0", "nan"), ("prob_0", "inf"), ("prob_0", "1.1"), ("prob_0", "-0.1"), ("tiles", "9" * 400), ("tiles", "-1"),
     ("uncertainty", "nan")],
)  # fmt: skip
def test_numbers_that_cannot_be(tmp_path: Path, name: str, cell: str) -> None:
    (tmp_path / "scores.csv").write_text(f"slide_id,{name}\na,{cell}\n")
    with pytest.raises(TableError, match=f"the column '{name}' has '{cell[:40]}', which it cannot have"):
        read_rows(tmp_path / "scores.csv")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("slide_id,slide_id\na,b\n")
    with pytest.raises(TableError, match="two of its columns have the same name"):
        read_rows(tmp_path / "scores.csv")


def test_table_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match="is no table of predictions of these classes"):
        read_predictions(tmp_path / "scores.csv", ("0", "1"))


class TestUncertainty:
    def test_of_the_class_that_is_predicted(self) -> None:
        members = np.array([[0.2, 0.7, 0.1], [0.4, 0.5, 0.1]])
        assert uncertainty_of(members, np.array([0.3, 0.6, 0.1]), Task(("a", "b", "c"))) == pytest.approx(0.1)
        assert uncertainty_of(members, np.array([0.3, 0.1, 0.6]), Task(("a", "b", "c"))) == 0

    def test_of_several_labels_the_largest(self) -> None:
        members = np.array([[0.2, 0.9], [0.6, 0.8]])
        assert uncertainty_of(members, np.array([0.4, 0.85]), Task(("a", "b"), ANY_OF)) == pytest.approx(0.2)

    def test_members_that_agree_and_that_cannot_agree_less(self) -> None:
        assert uncertainty_of(np.array([[0.3, 0.7]] * 4), np.array([0.3, 0.7]), TASK) == 0
        assert uncertainty_of(np.array([[0, 1], [1, 0]]), np.array([0.5, 0.5]), TASK) == 0.5

    def test_one_member_has_no_spread(self) -> None:
        assert uncertainty_of(np.array([[0.3, 0.7]]), np.array([0.3, 0.7]), TASK) is None
