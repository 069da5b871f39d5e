"""Out-of-fold predictions of runs and tables, and when they may be put together."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mil.errors import LabelsError, RunError
from mil.oof import Source, gather_sources, read_oof_table, read_run, read_sources
from tests.conftest import Trained

ROWS = [  # id, label, patient, fold, one, two
    ("a", "0", "p", "0", "0.1", "0.2"), ("b", "1", "p", "0", "0.7", "1"), ("c", "1", "q", "1", "0.6", "0.5"),
    ("d", "0", "r", "1", "0.3", "0"), ("e", "0", "s", "0", "0.2", "0.2"), ("f", "1", "t", "1", "0.9", "0.8"),
]  # fmt: skip
COLUMNS = ["id", "label", "patient", "fold", "one", "two"]


def write(folder: Path, rows: list[tuple[str, ...]] = ROWS, columns: list[str] = COLUMNS, name: str = "oof") -> Path:
    path = folder / f"{name}.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def changed(place: int, column: str, value: str) -> list[tuple[str, ...]]:
    rows = [list(row) for row in ROWS]
    rows[place][COLUMNS.index(column)] = value
    return [tuple(row) for row in rows]


class TestTable:
    def test_a_column_is_a_model(self, tmp_path: Path) -> None:
        one, two = read_sources(write(tmp_path))
        assert (one.name, two.name, one.run) == ("one", "two", None)
        assert two.probabilities.tolist() == [[0.8, 0.2], [0, 1], [0.5, 0.5], [1, 0], [0.8, 0.2], [1 - 0.8, 0.8]]
        assert one.labels.task.classes == ("0", "1")
        assert one.labels.table["patient_id"].tolist() == ["p", "p", "q", "r", "s", "t"]
        assert one.labels.targets.tolist() == [0, 1, 1, 0, 0, 1]
        assert one.tiles.tolist() == [1] * 6

    def test_columns_of_classes_are_one_model(self, tmp_path: Path) -> None:
        rows = [("a", "x", "0", "0.5", "0.25", "0.25", "inf"), ("b", "y", "1", "0", "1", "0", "4")]
        rows += [("c", "z", "0", "0.1", "0.1", "0.8", "5")]
        columns = ["slide_id", "label", "fold", "prob_x", "prob_y", "prob_z", "tiles"]
        (found,) = read_oof_table(write(tmp_path, rows, columns, "mine"))
        assert (found.name, found.tiles.tolist()) == ("mine", [1, 4, 5])
        assert found.probabilities[0].tolist() == [0.5, 0.25, 0.25]
        assert found.labels.table["patient_id"].tolist() == ["a", "b", "c"]

    def test_oof_csv_of_a_run(self, trained: Trained, tmp_path: Path) -> None:
        (found,) = read_oof_table(Path(shutil.copy(trained.run / "oof.csv", tmp_path)))
        of_run = read_run(trained.run)
        same = found.at(of_run.labels.table["slide_id"].tolist())
        np.testing.assert_array_equal(same.probabilities, of_run.probabilities)
        assert same.tiles.tolist() == of_run.tiles.tolist() == [6] * 12

    @pytest.mark.parametrize(
        ("rows", "columns", "sentence"),
        [
            (changed(1, "one", "1.5"), COLUMNS, r"has for the slide 'b' no probability of one: .* \(so in 1 rows\)"),
            (changed(1, "two", ""), COLUMNS, "has for the slide 'b' no probability of two"),
            (changed(0, "label", "2"), COLUMNS, r"has 3 classes; give a table a model, with the columns \['prob_0'"),
            (changed(0, "label", ""), COLUMNS, "needs a label in every row"),
            ([row[:4] for row in ROWS], COLUMNS[:4], "has no column with the probabilities of a model"),
            ([row[1:] for row in ROWS], COLUMNS[1:], "lacks the column slide_id"),
        ],
    )
    def test_refused(self, tmp_path: Path, rows: list[tuple[str, ...]], columns: list[str], sentence: str) -> None:
        with pytest.raises(LabelsError, match=sentence):
            read_oof_table(write(tmp_path, rows, columns))


class TestRun:
    def test_has_the_rows_of_its_oof(self, trained: Trained) -> None:
        found = read_run(trained.run)
        table = pd.read_csv(trained.run / "oof.csv").set_index("slide_id").loc[found.labels.table["slide_id"]]
        assert found.probabilities[:, 1].tolist() == table["prob_tumour"].tolist()
        assert found.fold_of.tolist() == table["fold"].astype(str).tolist()
        assert (found.balance, found.run) == ("none", trained.run)

    def test_balance(self, trained_again: Trained) -> None:
        assert read_run(trained_again.run).balance == "balanced"

    def test_oof_of_other_slides(self, trained: Trained, tmp_path: Path) -> None:
        run = Path(shutil.copytree(trained.run, tmp_path / "run"))
        lines = (run / "oof.csv").read_text().splitlines()
        (run / "oof.csv").write_text("\n".join(lines[:-1]) + "\n")
        with pytest.raises(RunError, match="oof.csv and folds.csv of the run .* do not fit"):
            read_run(run)


def tables(folder: Path, *of_rows: list[tuple[str, ...]]) -> list[Source]:
    return [
        source for place, rows in enumerate(of_rows) for source in read_oof_table(write(folder, rows, name=f"{place}"))
    ]


class TestGather:
    def test_same_folds_by_other_names(self, tmp_path: Path) -> None:
        renamed = [(*row[:3], "xy"[int(row[3])], *row[4:]) for row in ROWS]
        found = gather_sources(tables(tmp_path, ROWS, renamed[::-1]))
        assert [source.name for source in found.sources] == ["one", "two", "one (2)", "two (2)"]
        assert found.members_RNK.shape == (4, 6, 2)
        np.testing.assert_array_equal(found.members_RNK[:2], found.members_RNK[2:])
        assert (found.folds.of.tolist(), found.folds.names, found.dealt) == ([0, 0, 1, 1, 0, 1], ("0", "1"), False)
        assert found.left_out == 0

    def test_other_folds_are_dealt_anew_by_patient(self, tmp_path: Path) -> None:
        rows = [*ROWS, ("g", "0", "u", "1", "0.3", "0.3"), ("h", "1", "v", "0", "0.7", "0.7")]
        other = [(*row[:3], "01"[row[2] in "pu"], *row[4:]) for row in rows]
        found = gather_sources(tables(tmp_path, rows, other))
        assert found.dealt
        table = found.labels.table.assign(fold=found.folds.of)
        assert (table.groupby("patient_id")["fold"].nunique() == 1).all()
        assert set(found.folds.of) == {0, 1}

    def test_only_slides_that_all_have(self, tmp_path: Path) -> None:
        found = gather_sources(tables(tmp_path, [*ROWS, ("g", "1", "u", "1", "0.9", "0.9")], ROWS))
        assert (len(found.labels), found.left_out) == (6, 1)

    def test_labels_of_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "labels.csv").write_text(
            "slide_id,label,patient_id\n" + "".join(f"{r[0]},{r[1]},{r[2]}\n" for r in ROWS[:4])
        )
        found = gather_sources(tables(tmp_path, changed(0, "label", "1")), tmp_path / "labels.csv")
        assert found.labels.targets.tolist() == [0, 1, 1, 0]
        assert found.left_out == 2

    @pytest.mark.parametrize(
        ("rows", "sentence"),
        [
            (changed(0, "label", "1"), "the slide 'a' has one label in one and another in one .2.; .* --labels"),
            (changed(0, "fold", "1"), "one .2. tested slides of the patient 'p' in the folds 1 and 0: .* patient_id"),
            (changed(2, "patient", "r"), "the slides of the patient 'r' of one .2. are of the patients 'q' and 'r'"),
            ([(f"x{row[0]}", *row[1:]) for row in ROWS], "no slide is in all of one, two, one .2., two .2."),
            (
                [(row[0], {"0": "no", "1": "yes"}[row[1]], *row[2:]) for row in ROWS],
                "one .2. has one of the classes no, yes, and the others or the labels one of 0, 1; give runs of one",
            ),
        ],
    )
    def test_refused(self, tmp_path: Path, rows: list[tuple[str, ...]], sentence: str) -> None:
        with pytest.raises(LabelsError, match=sentence):
            gather_sources(tables(tmp_path, ROWS, rows))

    def test_one_fold_or_a_class_in_one_fold(self, tmp_path: Path) -> None:
        with pytest.raises(LabelsError, match="all slides are of one fold"):
            gather_sources(tables(tmp_path, [(*row[:3], "0", *row[4:]) for row in ROWS]))
        by_label = [(*row[:2], row[0], row[1], *row[4:]) for row in ROWS]
        with pytest.raises(LabelsError, match="without the fold 0 no slide of the label '0' is left"):
            gather_sources(tables(tmp_path, by_label))
