"""The labels table is taken as it is meant, or refused with its row."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mil.errors import LabelsError, RunError, SettingsError
from mil.labels import numeric, read_labels, read_table
from mil.run_folder import read_text
from mil.settings import TableSpec
from mil.task import Task
from tiling.output import write_table


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return tmp_path / "labels.csv"


def test_slide_without_patient_is_its_own(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "slide_id,label,patient_id,age\na,1,p,50\nb,0,,\nNA,1,p,\n"))
    assert labels.task.classes == ("0", "1")
    assert labels.table.to_dict("list") == {
        "slide_id": ["a", "b", "NA"], "patient_id": ["p", "b", "p"], "label": ["1", "0", "1"], "target": [1, 0, 1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ("nan 10 inf 2", ("2", "10", "inf", "nan")),
        ("10 9 2", ("2", "9", "10")),
        ("b a c", ("a", "b", "c")),
        ("x 2 10", ("2", "10", "x")),
    ],
)
def test_order_of_classes(tmp_path: Path, labels: str, classes: tuple[str, ...]) -> None:
    rows = "".join(f"s{i},{label}\n" for i, label in enumerate(labels.split()))
    assert read_labels(write(tmp_path, "slide_id,label\n" + rows)).task.classes == classes


def test_blanks_make_no_other_patient_class_or_fold(tmp_path: Path) -> None:
    text = "slide_id , label,patient_id,fold\na,1,p ,1\n b,1 , p,1 \nc,0,  ,2\n"
    labels = read_labels(write(tmp_path, text))
    assert labels.task.classes == ("0", "1")
    assert labels.table["slide_id"].tolist() == ["a", "b", "c"]
    assert labels.table["patient_id"].tolist() == ["p", "p", "c"]
    assert labels.table["fold"].tolist() == ["1", "1", "2"]


def test_fold_column_is_kept(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "slide_id,label,fold\na,x,0\nb,y,1\n"))
    assert labels.table["fold"].tolist() == ["0", "1"]


def test_site_column_gives_the_folds(tmp_path: Path) -> None:
    """It goes before a column fold, may be the patients', and is text whatever it looks like."""
    path = write(tmp_path, "slide_id,label,hospital,fold,patient_id\na,x,01,0,p\nb,y, 1,1,\n")
    labels = read_labels(path, TableSpec(site="hospital"))
    assert (labels.table["fold"].tolist(), labels.fold_from) == (["01", "1"], "hospital")
    assert labels.at(np.array([1])).fold_from == "hospital"
    assert read_labels(path, TableSpec(site="patient_id")).table["fold"].tolist() == ["p", "b"]
    assert list(labels.table) == ["slide_id", "patient_id", "label", "target", "fold"]
    with pytest.raises(LabelsError, match="lacks the column centre"):
        read_labels(path, TableSpec(site="centre"))
    path = write(tmp_path, "slide_id,label,hospital\na,x,A\nb,y,\nc,y,\n")
    with pytest.raises(LabelsError, match=r"row 3 of .* has an empty hospital; fill it in .* \(rows 4 too\)"):
        read_labels(path, TableSpec(site="hospital"))


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
        (
            "a,b\n1,2,3\n",
            "cannot read the labels table .*row 2 has 3 cells and the header 2.; give a CSV with slide_id, label$",
        ),
        ("slide_id,label,label\na,1,0\n", "has the column 'label' twice"),
        ("slide_id,label\na,1\nb\n", "row 3 has 1 cells and the header 2"),
        ("slide_id,label\na,1\nb,\0\n", "it has a zero byte"),
        ("slide_id,label\n", "has no rows; add a row a slide"),
    ],
)
def test_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(LabelsError, match=sentence):
        read_labels(write(tmp_path, text))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot read the labels table .*nowhere.csv"):
        read_labels(tmp_path / "nowhere.csv")


class TestSeveralLabels:
    TEXT = "slide_id,mutated,necrotic,age\na,1,0,50\nb,0.0,1.0,\nc,1,,7\n"
    SPEC = TableSpec(label_columns=("mutated", "necrotic"))

    def test_as_meant(self, tmp_path: Path) -> None:
        labels = read_labels(write(tmp_path, self.TEXT), self.SPEC)
        assert labels.task == Task(("mutated", "necrotic"), "any of")
        np.testing.assert_array_equal(labels.targets, [[1, 0], [0, 1], [1, np.nan]])
        assert labels.table["label"].tolist() == ["mutated", "necrotic", "mutated"]
        assert labels.strata.to_dict("list") == {
            "mutated 0": [False, True, False], "mutated 1": [True, False, True],
            "necrotic 0": [True, False, False], "necrotic 1": [False, True, False],
        }  # fmt: skip
        np.testing.assert_array_equal(labels.at(np.array([2, 0])).targets, [[1, np.nan], [1, 0]])

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                TEXT + "d,2,0,\n",
                "row 5 of the labels table .* has '2' in the label column mutated; give 1, 0, or nothing",
            ),
            (TEXT + "d,yes,0,\n", "row 5 .* has 'yes' in the label column mutated"),
            (TEXT + "d,,,3\n", "row 5 .* has no label that is known"),
            (TEXT.replace("b,0.0", "b,1"), "the label column 'mutated' of .* does not have both 0 and 1; leave it out"),
            ("slide_id,mutated\na,1\n", "lacks the column necrotic; it has slide_id, mutated"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, sentence: str) -> None:
        with pytest.raises(LabelsError, match=sentence):
            read_labels(write(tmp_path, text), self.SPEC)


class TestOneVsNormal:
    TEXT = "slide_id,diagnosis\na,tumour\nb,normal\nc,adenoma\n"

    def test_as_meant(self, tmp_path: Path) -> None:
        labels = read_labels(write(tmp_path, self.TEXT), TableSpec(label_columns=("diagnosis",), normal="normal"))
        assert labels.task == Task(("adenoma", "normal", "tumour"), "one vs normal", "normal")
        assert (labels.task.logits, labels.task.normal_index) == (2, 1)
        assert labels.targets.tolist() == [2, 1, 0]

    def test_no_such_class(self, tmp_path: Path) -> None:
        spec = TableSpec(label_columns=("diagnosis",), normal="healthy")
        with pytest.raises(LabelsError, match="--normal 'healthy' is no label of .*; it has adenoma, normal, tumour"):
            read_labels(write(tmp_path, self.TEXT), spec)


def test_metadata_columns_are_kept_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "slide_id,label,age,site,more\na,x,50,colon,1\nb,y,,,2\n")
    table = read_labels(path, TableSpec(categorical=("site",), numeric=("age",))).table
    assert list(table) == ["slide_id", "patient_id", "label", "target", "site", "age"]
    assert table[["site", "age"]].to_numpy().tolist() == [["colon", "50"], ["", ""]]
    with pytest.raises(LabelsError, match="row 2 of the labels table .* has 'colon' in the numeric column site; give"):
        read_labels(path, TableSpec(numeric=("site",)))
    with pytest.raises(LabelsError, match="lacks the column sex"):
        read_labels(path, TableSpec(categorical=("sex",)))


@pytest.mark.parametrize("text", ["inf", "nan", "1,5", "x", "1e31", "-1e308", "9" * 400])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(LabelsError, match=f"row 3 of a table has '{text}' in the numeric column age"):
        numeric(pd.Series(["1", text], name="age"), "a table")
    assert numeric(pd.Series(["1e2", ""], name="age"), "a table").tolist()[0] == 100


def test_table_of_slides(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, " slide_id,a\n x , 1\n"), "metadata table", ("slide_id", "a"))
    assert table.to_dict("list") == {"slide_id": ["x"], "a": ["1"]}
    with pytest.raises(LabelsError, match="row 3 of the metadata table .* has the slide 'x' again"):
        read_table(write(tmp_path, "slide_id\nx\nx\n"), "metadata table", ("slide_id",))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"label_columns": ()}, "--label-columns needs a column"),
        ({"label_columns": ("a", "b"), "normal": "x"}, "--normal goes with one label column"),
        ({"label_columns": ("a", "a")}, "the column 'a' is named twice"),
        ({"categorical": ("a",), "numeric": ("a",)}, "the column 'a' is named twice"),
        ({"label_columns": ("a",), "numeric": ("a",)}, "the column 'a' is no metadata: it says what the slide is"),
        ({"site": "label"}, "--site 'label' is a label column"),
        ({"site": "a", "categorical": ("a",)}, "the column 'a' is no metadata beside --site"),
        ({"categorical": ("patient_id",)}, "the column 'patient_id' is no metadata"),
    ],
)
def test_columns_that_cannot_be(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        TableSpec(**wrong)  # type: ignore[arg-type]


def test_names_that_a_spreadsheet_would_run_come_back(tmp_path: Path) -> None:
    """The folds.csv of a run is a labels table too, and its columns of metadata are called as they were."""
    header = ["slide_id", "patient_id", "label", "fold", "-age", "=site"]
    rows = [["=a", "@p", "+", "-x", "-1", "=b"], ["'=b", "-q", "-", "@y", "+2.5", "'=c"]]
    write_table(tmp_path / "folds.csv", header, rows)
    table = read_labels(tmp_path / "folds.csv", TableSpec(categorical=("=site",), numeric=("-age",))).table
    assert table[header].to_numpy().tolist() == rows
    assert read_text(tmp_path / "folds.csv", *header).to_numpy().tolist() == rows


def test_a_table_of_a_run_with_one_name_twice(tmp_path: Path) -> None:
    for text, sentence in (
        ("slide_id,a,a\nx,1,2\n", "has the column 'a' twice"),
        ("slide_id,a\nx,1\nx,2\n", "has the slide 'x' twice"),
    ):
        (tmp_path / "folds.csv").write_text(text)
        with pytest.raises(RunError, match=sentence):
            read_text(tmp_path / "folds.csv", "slide_id")
