"""Pseudo labels are read as they are meant, each for its fold, or refused with their row."""

from pathlib import Path

import numpy as np
import pytest

from mil.errors import LabelsError
from mil.folds import make_folds, make_splits
from mil.labels import Labels, read_labels
from mil.settings import TableSpec
from mil.task import ANY_OF

OWN = ["a,p,x,0,1,,,", "b,q,y,0,,,,", "c,r,x,1,,,,", "d,s,y,1,,,,", "e,t,x,2,,,,", "f,u,y,2,0,,,"]
PSEUDO = ["g,p,x,,,0,.75,.25", "g,p,y,,,2,.25,.75", "h,h,y,,,0,0,1"]
HEADER = "slide_id,patient_id,label,fold,valid_in,pseudo_fold,prob_x,prob_y"


def read(folder: Path, *rows: str, header: str = HEADER, spec: TableSpec | None = None) -> Labels:
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return read_labels(folder / "labels.csv", spec)


def test_rows_of_a_slide_become_one(tmp_path: Path) -> None:
    """Wherever they stand in the table."""
    labels = read(tmp_path, PSEUDO[0], *OWN, *PSEUDO[1:])
    assert labels.soft is not None
    assert (len(labels), labels.table["slide_id"].tolist()) == (6, [*"abcdef"])
    assert labels.soft.table.to_dict("list") == {"slide_id": ["g", "h"], "patient_id": ["p", "h"]}
    assert labels.soft.folds == ("0", "2")
    expected = [[[0.75, 0.25], [0.25, 0.75]], [[0, 1], [np.nan, np.nan]]]
    np.testing.assert_array_equal(labels.soft.chances_UFK, expected)
    assert [labels.soft.of_fold(name).tolist() for name in "012"] == [[0, 1], [], [0]]
    assert labels.slides["slide_id"].tolist() == [*"abcdefgh"]


def test_split_has_the_pseudo_labels_of_its_own_fold_to_train_on_and_nowhere_else(tmp_path: Path) -> None:
    labels = read(tmp_path, *OWN, *PSEUDO)
    splits = make_splits(labels, make_folds(labels, 5, 0), 0.2, 0)
    assert [split.soft.tolist() for split in splits] == [[6, 7], [], [6]]
    assert [split.valid.tolist() for split in splits] == [[5], [0], []]
    assert [split.train.tolist() for split in splits] == [[2, 3, 4], [1, 4, 5], [0, 1, 2, 3]]
    assert [split.test.tolist() for split in splits] == [[0, 1], [2, 3], [4, 5]]
    nothing_aside = make_splits(labels, make_folds(labels, 5, 0), 0, 0)
    assert [split.train.tolist() for split in nothing_aside] == [[2, 3, 4, 5], [0, 1, 4, 5], [0, 1, 2, 3]]


def test_what_a_fold_learns(tmp_path: Path) -> None:
    labels = read(tmp_path, *OWN, *PSEUDO)
    learned = labels.learned(np.array([2, 5]), np.array([6, 7]), "0")
    assert learned.tolist() == [[1, 0], [0, 1], [0.75, 0.25], [0, 1]]
    assert labels.learned(np.array([0, 2]), np.array([6]), "2").tolist() == [[1, 0], [1, 0], [0.25, 0.75]]
    assert labels.learned(np.array([2, 5]), np.array([], int), "1").tolist() == [0, 1]  # as without pseudo labels


def test_several_labels_may_be_known_in_part(tmp_path: Path) -> None:
    header = "slide_id,x,y,fold,pseudo_fold,prob_x,prob_y"
    rows = ["a,1,0,0,,,", "b,0,1,0,,,", "c,1,0,1,,,", "d,0,1,1,,,", "e,1,,,1,.9,"]
    labels = read(tmp_path, *rows, header=header, spec=TableSpec(label_columns=("x", "y")))
    assert labels.task.kind == ANY_OF
    learned = labels.learned(np.array([0]), np.array([4]), "1")
    np.testing.assert_array_equal(learned, [[1, 0], [0.9, np.nan]])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["g,g,x,,,0,.7,.2"], r"row 8 of .* \(prob_x '.7', prob_y '.2'\); numbers from 0 to 1 are needed, with sum 1"),
        (["g,g,x,,,0,1.5,-.5"], "row 8 of .* numbers from 0 to 1"),
        (["g,g,x,,,0,,"], r"row 8 .*\(prob_x '', prob_y ''\)"),
        (["g,g,x,,,0,nan,1"], "row 8 .*no probabilities"),
        (["g,g,x,,,0,1,0", "g,g,x,,,0,1,0"], "row 9 .* has the slide 'g' again"),
        (["a,p,x,,,2,1,0"], "row 8 of .* is a pseudo label of 'a', which has a label of its own; delete it"),
        (["g,g,x,,,0,1,0", "g,h,x,,,1,1,0"], "says different things of the slide 'g' in its pseudo labels"),
    ],
)
def test_refused(tmp_path: Path, rows: list[str], sentence: str) -> None:
    with pytest.raises(LabelsError, match=sentence):
        read(tmp_path, *OWN, *rows)


def test_refused_without_probabilities_or_folds(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="has pseudo labels but lacks the column 'prob_y' with their probabilities"):
        read(tmp_path, *OWN, *PSEUDO, header=HEADER.replace("prob_y", "other"))
    with pytest.raises(LabelsError, match="pseudo labels, each for one fold .*; so keep the column fold"):
        read(tmp_path, *OWN, *PSEUDO, header=HEADER.replace(",fold", ",other"))
    with pytest.raises(LabelsError, match="--site fold makes others: leave it out"):
        read(tmp_path, *OWN, *PSEUDO, spec=TableSpec(site="fold"))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([*OWN, "g,g,x,,,7,1,0"], "pseudo labels for a fold '7', and there are 0, 1, 2"),
        (["z,z,x,0,5,,,", *OWN], "valid_in of the slide 'z' names a fold '5', and there are 0, 1, 2"),
        (["z,z,x,0,1;0,,,", *OWN], "the slide 'z' tests fold 0 and is to stop it too"),
    ],
)
def test_refused_for_folds_that_there_are_not(tmp_path: Path, rows: list[str], sentence: str) -> None:
    labels = read(tmp_path, *rows)
    with pytest.raises(LabelsError, match=sentence):
        make_folds(labels, 5, 0)


def test_validation_that_is_given_needs_folds_and_leaves_all_classes(tmp_path: Path) -> None:
    rows = ["a,p,x,0,1,,,", "b,q,y,0,,,,", "c,r,x,1,,,,", "d,s,y,1,0,,,"]
    labels = read(tmp_path, *rows)
    with pytest.raises(LabelsError, match="valid_in leaves fold 0 no slide of the label 'y' to train on; name fewer"):
        make_splits(labels, make_folds(labels, 5, 0), 0.2, 0)
    labels = read(tmp_path, *rows, header=HEADER.replace(",fold", ",other"))
    with pytest.raises(LabelsError, match="a column valid_in and no column fold"):
        make_folds(labels, 2, 0)
