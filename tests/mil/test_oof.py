"""Out-of-fold predictions of runs and tables, and when they may be put together."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mil.errors import LabelsError, RunError
from mil.oof import read_oof_table, read_run, read_sources
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
