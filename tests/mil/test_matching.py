"""When models may be put together, and by which folds they are judged."""

from pathlib import Path

import numpy as np
import pytest

from mil.errors import LabelsError
from mil.matching import gather_sources
from mil.oof import Source, read_oof_table
from tests.mil.test_oof import ROWS, changed, write


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
