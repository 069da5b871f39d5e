"""What is known before labels are spread: the splits of the run, made again, and no others."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mil.errors import LabelsError, RunError
from mil.known import Known, gather_known, write_wider
from mil.task import Task
from tests.conftest import Trained
from tiling.bags import open_bags


@pytest.fixture
def known(trained: Trained, tmp_path: Path) -> Known:
    """That of a run, and of two copies of bags, one of them of the patient of s00."""
    for name in ("s00", "s01"):
        shutil.copyfile(trained.bags / f"{name}.h5", tmp_path / f"new-{name}.h5")
    (tmp_path / "labels.csv").write_text(trained.labels.read_text() + "new-s00,,p00\nelsewhere,normal,p77\n")
    return gather_known([trained.run, trained.run], tmp_path / "labels.csv", open_bags(tmp_path))


def test_gathered(known: Known, trained: Trained) -> None:
    oof = pd.read_csv(trained.run / "oof.csv", dtype=str)
    slides = known.labels.table["slide_id"]
    assert [sorted(slides.iloc[split.test]) for split in known.splits] == [
        sorted(oof["slide_id"][oof["fold"] == fold]) for fold in ("0", "1")
    ]
    assert known.patient_of == {"new-s00": "p00", "new-s01": "new-s01"}
    assert known.left_out == ["elsewhere"]
    assert known.run_bags == str(trained.bags)


def test_free_are_slides_of_patients_that_a_fold_neither_stops_on_nor_tests(known: Known) -> None:
    for split in known.splits:
        trains = "s00" in known.labels.table["slide_id"].iloc[split.train].tolist()
        assert known.free(split) == (["new-s00", "new-s01"] if trains else ["new-s01"])


def test_runs_that_stop_on_other_slides_are_refused(trained: Trained, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained.run, tmp_path / "other"))
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "valid_share": 0.0}))
    with pytest.raises(RunError, match="differ in their folds or in what they stop on, so that what one has learned"):
        gather_known([trained.run, other], trained.labels, open_bags(trained.bags))
    (other / "config.yaml").write_text(yaml.safe_dump({"seed": 0}))
    with pytest.raises(RunError, match="'valid_share'"):
        gather_known([other], trained.labels, open_bags(trained.bags))


def test_fold_whose_name_would_be_two_is_refused(known: Known, tmp_path: Path) -> None:
    known.splits[0] = known.splits[0]._replace(name="a;b")
    with pytest.raises(LabelsError, match="the fold 'a;b' has a semicolon in its name"):
        write_wider(tmp_path / "wider.csv", known, {}, Task(("normal", "tumour")))


def test_several_labels_are_written_where_they_are_said(known: Known, tmp_path: Path) -> None:
    task = Task(("normal", "tumour"), "any of")
    known.rows["normal"] = known.rows["tumour"] = "1"
    write_wider(tmp_path / "wider.csv", known, {"1": {"new-s01": np.array([0.05, np.nan])}}, task)
    table = pd.read_csv(tmp_path / "wider.csv", dtype=str, keep_default_na=False)
    last = table.iloc[-1].to_dict()
    assert last["slide_id"] == last["patient_id"] == "new-s01"
    assert [last[name] for name in ("normal", "tumour", "prob_normal", "prob_tumour", "pseudo_fold")] == [
        "0", "", "0.05", "", "1"
    ]  # fmt: skip
