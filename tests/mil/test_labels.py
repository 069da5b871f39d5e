"""The labels table is taken as it is meant, or refused with its row."""

from pathlib import Path

import pytest

from mil.errors import LabelsError
from mil.labels import read_labels


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return tmp_path / "labels.csv"


def test_slide_without_patient_is_its_own(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "slide_id,label,patient_id,age\na,1,p,50\nb,0,,\nNA,1,p,\n"))
    assert labels.classes == ("0", "1")
    assert labels.table.to_dict("list") == {
        "slide_id": ["a", "b", "NA"], "patient_id": ["p", "b", "p"], "label": ["1", "0", "1"], "target": [1, 0, 1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "classes"),
    [("10 9 2", ("2", "9", "10")), ("b a c", ("a", "b", "c")), ("x 2 10", ("2", "10", "x"))],
)
def test_order_of_classes(tmp_path: Path, labels: str, classes: tuple[str, ...]) -> None:
    rows = "".join(f"s{i},{label}\n" for i, label in enumerate(labels.split()))
    assert read_labels(write(tmp_path, "slide_id,label\n" + rows)).classes == classes


def test_blanks_make_no_other_patient_class_or_fold(tmp_path: Path) -> None:
    text = "slide_id , label,patient_id,fold\na,1,p ,1\n b,1 , p,1 \nc,0,  ,2\n"
    labels = read_labels(write(tmp_path, text))
    assert labels.classes == ("0", "1")
    assert labels.table["slide_id"].tolist() == ["a", "b", "c"]
    assert labels.table["patient_id"].tolist() == ["p", "p", "c"]
    assert labels.table["fold"].tolist() == ["1", "1", "2"]


def test_fold_column_is_kept(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "slide_id,label,fold\na,x,0\nb,y,1\n"))
    assert labels.table["fold"].tolist() == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("slide,label\na,1\n", "lacks the column slide_id; it has slide, label"),
        ("slide_id,diagnosis\na,1\n", "lacks the column label; it has slide_id, diagnosis"),
        ("slide_id,label\na,1\nb,\n", "row 3 of the labels table .* has an empty label; fill it in or delete the row"),
        ("slide_id,label\na,1\n ,0\n", "row 3 .* has an empty slide_id"),
        ("slide_id,label\na,1\nb,0\na,1\n", "row 4 .* has the slide 'a' again; keep one of its rows"),
        ("slide_id,label\na,1\nb,1\n", r"has one class only \(1\); training needs two"),
        ("", "cannot read the labels table"),
        ("slide_id,label,label\na,1,0\n", "has the column 'label' twice"),
        ("slide_id,label\n", "has no rows; add a row a slide"),
    ],
)
def test_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(LabelsError, match=sentence):
        read_labels(write(tmp_path, text))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot read the labels table .*nowhere.csv"):
        read_labels(tmp_path / "nowhere.csv")
