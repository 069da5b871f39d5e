"""`python -m mil.pseudo` as a user calls it, and what comes of a wider labels table in a training."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import train
from mil.cohort import gather
from mil.doctor import examine
from mil.errors import LabelsError
from mil.folds import make_folds, make_splits
from mil.labels import read_labels
from mil.leaks import refuse_leaks
from mil.pseudo import judge, main
from mil.recipe import Recipe
from mil.task import Task
from tests.conftest import Trained
from tiling.features import write_features

FLAGS = ["--folds", "2", "--epochs", "2", "--device", "cpu", "--lr", "1e-2"]
nan = np.nan


class Files(NamedTuple):
    """Features of slides a00 to a19, all in one folder, the even ones near one place and the odd ones near another.

    The first twelve are labelled and have a run.
    """

    features: Path
    labels: Path
    run: Path


def rows(*unlabelled: str) -> str:
    labelled = [f"a{index:02d},p{index // 2 * 2 + index % 2:02d},{'xy'[index % 2]},4{index}" for index in range(12)]
    return "\n".join(["slide_id,patient_id,label,age", *labelled, *unlabelled]) + "\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, random = tmp_path_factory.mktemp("pseudo"), np.random.default_rng(0)
    (folder / "features").mkdir()
    for index in range(20):
        features = random.normal([9 * (index % 2), 9 * (1 - index % 2), 0, 0], 0.5, (3, 4))
        write_features(folder / "features" / f"a{index:02d}.h5", features.astype(np.float32))
    (folder / "labels.csv").write_text(rows())
    paths = ["--bags", str(folder / "features"), "--labels", str(folder / "labels.csv"), "--out", str(folder / "run")]
    assert train.main([*paths, *FLAGS, "--pooling", "avg", "--numeric", "age"]) == 0
    return Files(folder / "features", folder / "labels.csv", folder / "run")


def widened(files: Files, folder: Path, *unlabelled: str, flags: tuple[str, ...] = ()) -> pd.DataFrame:
    """The wider table, as text, of a labels table with these rows of unlabelled slides too."""
    (folder / "labels.csv").write_text(rows(*unlabelled))
    words = ["--run", str(files.run), "--bags", str(files.features), "--labels", str(folder / "labels.csv")]
    assert main([*words, "--out", str(folder / "wider.csv"), "--device", "cpu", "--neighbors", "3", *flags]) == 0
    return pd.read_csv(folder / "wider.csv", dtype=str, keep_default_na=False)


def test_every_unlabelled_slide_gets_the_label_of_its_place_in_each_fold(files: Files, tmp_path: Path) -> None:
    table = widened(files, tmp_path)
    assert list(table) == [
        "slide_id", "patient_id", "label", "age", "fold", "valid_in", "pseudo_fold", "prob_x", "prob_y"
    ]  # fmt: skip
    own, pseudo = table[table["pseudo_fold"] == ""], table[table["pseudo_fold"] != ""]
    folds = pd.read_csv(files.run / "folds.csv", dtype=str)
    assert own["slide_id"].tolist() == [f"a{index:02d}" for index in range(12)]
    assert own["fold"].tolist() == folds["fold"].tolist()
    assert (own["prob_x"] == "").all()
    names = [f"a{index}" for index in range(12, 20)]
    assert pseudo["slide_id"].tolist() == names * 2
    assert pseudo["pseudo_fold"].tolist() == ["0"] * 8 + ["1"] * 8
    assert pseudo["label"].tolist() == ["x", "y"] * 8
    assert (pseudo["fold"] == "").all()
    assert (pseudo["prob_y"].astype(float).round() == [0, 1] * 8).all()


def test_validation_is_that_of_the_run(files: Files, tmp_path: Path) -> None:
    """Whatever seed and share the next training has."""
    widened(files, tmp_path)
    first, wider = read_labels(files.labels), read_labels(tmp_path / "wider.csv")
    before = make_splits(first, make_folds(first, 2, 0), 0.2, 0)
    after = make_splits(wider, make_folds(wider, 5, 7), 0.4, 7)
    for one, other in zip(before, after, strict=True):
        for name in ("train", "valid", "test"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_slide_of_a_labelled_patient_is_bound_to_the_side_of_that_patient(files: Files, tmp_path: Path) -> None:
    """It is learned from by the folds that train on the patient, and by no other."""
    own = widened(files, tmp_path).iloc[:12].set_index("patient_id")
    trains = {patient: {"0", "1"} - {row["fold"], row["valid_in"]} for patient, row in own.iterrows()}
    one = next(patient for patient, folds in trains.items() if folds)
    none = next(patient for patient, folds in trains.items() if not folds)
    table = widened(files, tmp_path, f"a12,{one},,70", f"a14,{none},,", "a13,q,,71")
    pseudo = table.iloc[12:].set_index("slide_id")
    assert {*pseudo.loc[["a12"], "pseudo_fold"]} == trains[one]
    assert "a14" not in pseudo.index
    assert {*pseudo.loc[["a13"], "pseudo_fold"]} == {"0", "1"}
    assert {*pseudo.loc["a13", "patient_id"]} == {"q"}
    assert {*pseudo.loc["a13", "age"]} == {"71"}
    assert {*pseudo.loc["a15", "age"]} == {""}


def test_test_and_validation_slides_have_no_part_in_what_a_fold_learns(files: Files, tmp_path: Path) -> None:
    """Their bags may be anything."""
    before = widened(files, tmp_path)
    own = before.iloc[:12]
    away = own["slide_id"][(own["fold"] == "0") | (own["valid_in"] == "0")]
    changed = files._replace(features=Path(shutil.copytree(files.features, tmp_path / "features")))
    for name in away:
        write_features(
            changed.features / f"{name}.h5", np.random.default_rng(1).normal(0, 9, (2, 4)).astype(np.float32)
        )
    after = widened(changed, tmp_path)
    of_fold = [table[table["pseudo_fold"] == "0"].reset_index(drop=True) for table in (before, after)]
    pd.testing.assert_frame_equal(*of_fold)


def test_trained_on_by_its_fold_alone(files: Files, tmp_path: Path) -> None:
    """Pseudo labels of fold 0 change what it says, and not a digit of what fold 1 says; nobody is tested on them."""
    table = widened(files, tmp_path)
    said = []
    for name, kept in (("none", table.iloc[:12]), ("some", table[table["pseudo_fold"] != "1"])):
        kept.to_csv(tmp_path / f"{name}.csv", index=False)
        paths = ["--bags", str(files.features), "--labels", str(tmp_path / f"{name}.csv")]
        assert train.main([*paths, "--out", str(tmp_path / name), *FLAGS, "--pooling", "avg"]) == 0
        said.append(pd.read_csv(tmp_path / name / "oof.csv", dtype=str))
    first, second = said
    assert first["slide_id"].tolist() == second["slide_id"].tolist() == [f"a{index:02d}" for index in range(12)]
    assert ((first["prob_x"] == second["prob_x"]) == (first["fold"] == "1")).all()
    pseudo = pd.read_csv(tmp_path / "some" / "pseudo.csv", dtype=str)
    assert pseudo["slide_id"].tolist() == [f"a{index}" for index in range(12, 20)]
    assert not (tmp_path / "none" / "pseudo.csv").exists()
    assert "valid_in" in pd.read_csv(tmp_path / "some" / "folds.csv")
    paths = ["--bags", str(files.features), "--out", str(tmp_path / "some"), "--resume", *FLAGS, "--pooling", "avg"]
    assert train.main([*paths, "--labels", str(tmp_path / "some.csv")]) == 0
    assert train.main([*paths, "--labels", str(tmp_path / "none.csv")]) == 2


def test_spread_again_from_a_run_on_a_wider_table(files: Files, tmp_path: Path) -> None:
    """The labelled slides' sides stay, and so does the table's form."""
    table = widened(files, tmp_path)
    paths = ["--bags", str(files.features), "--labels", str(tmp_path / "wider.csv"), "--out", str(tmp_path / "run")]
    assert train.main([*paths, *FLAGS, "--pooling", "max", "--balance", "sampling", "--numeric", "age"]) == 0
    words = ["--run", str(tmp_path / "run"), "--bags", str(files.features), "--labels", str(tmp_path / "wider.csv")]
    assert main([*words, "--out", str(tmp_path / "again.csv"), "--device", "cpu", "--neighbors", "3"]) == 0
    again = pd.read_csv(tmp_path / "again.csv", dtype=str, keep_default_na=False)
    assert list(again) == list(table)
    pd.testing.assert_frame_equal(again.iloc[:12], table.iloc[:12])


def test_patient_on_two_sides_is_refused(files: Files, tmp_path: Path) -> None:
    """Whoever edits the table."""
    table = widened(files, tmp_path)
    tested = table["patient_id"][table["fold"] == "0"].iloc[0]
    table.loc[(table["slide_id"] == "a12"), "patient_id"] = tested
    table.to_csv(tmp_path / "edited.csv", index=False)
    cohort = gather(read_labels(tmp_path / "edited.csv"), files.features, skip_missing=False)
    splits = make_splits(cohort.labels, make_folds(cohort.labels, 2, 0), 0.2, 0)
    with pytest.raises(LabelsError, match=f"and 'a12' of the patient '{tested}' are on two sides of the split of fold"):
        refuse_leaks(cohort, splits)


def test_slide_that_a_fold_learns_from_is_not_one_that_it_tests(files: Files, tmp_path: Path) -> None:
    """Under another name: the same vectors. A fold that learns nothing of it does not mind."""
    table = widened(files, tmp_path)
    features = Path(shutil.copytree(files.features, tmp_path / "features"))
    tested = table.iloc[:12]["slide_id"][table["fold"] == "0"].iloc[0]
    shutil.copyfile(features / f"{tested}.h5", features / "a12.h5")
    cohort = gather(read_labels(tmp_path / "wider.csv"), features, skip_missing=False)
    splits = make_splits(cohort.labels, make_folds(cohort.labels, 2, 0), 0.2, 0)
    with pytest.raises(LabelsError, match=f"the slides '{tested}' and 'a12' .* 3 vectors of features in common"):
        refuse_leaks(cohort, splits)
    refuse_leaks(cohort, [splits[0]._replace(soft=splits[0].soft[1:])])


def test_doctor_and_missing_bags(files: Files, tmp_path: Path) -> None:
    widened(files, tmp_path)
    report = examine(files.features, tmp_path / "wider.csv", Recipe.of(folds=2, device="cpu"))
    assert report.healthy
    assert "         pseudo labels: of 8 slides, 8 in a fold" in report.lines
    features = Path(shutil.copytree(files.features, tmp_path / "features"))
    (features / "a15.h5").unlink()
    labels = read_labels(tmp_path / "wider.csv")
    with pytest.raises(LabelsError, match="1 of the slides with pseudo labels have no bag in .* the first is 'a15'"):
        gather(labels, features, skip_missing=False)
    cohort = gather(labels, features, skip_missing=True)
    assert cohort.labels.soft is not None
    assert (len(cohort.bags), len(cohort.labels.soft), cohort.unlabelled) == (19, 7, [])


def test_bag_that_is_damaged_costs_one_slide(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    features = Path(shutil.copytree(files.features, tmp_path / "features"))
    (features / "a15.h5").write_bytes(b"nothing")
    words = ["--run", str(files.run), "--bags", str(features), "--labels", str(files.labels), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "wider.csv")]) == 1
    assert "failed: a15: " in capsys.readouterr().err
    assert "a15" not in pd.read_csv(tmp_path / "wider.csv")["slide_id"].tolist()


@pytest.mark.parametrize(
    ("labels", "flags", "sentence"),
    [
        (rows().replace("a03,p03,y", "a03,p03,x"), [], "says another label of 'a03' than the run"),
        (rows().replace("a03,p03,y", "a03,other,y"), [], "says another patient_id of 'a03' than the run"),
        (rows().replace("a03,p03,y,43\n", ""), [], "has no row of 'a03', from which the run"),
        (rows(*(f"a{index},,x," for index in range(12, 20))), [], "every bag in .* has a label"),
        (rows(), ["--confidence", "2"], "--confidence must be from 0 to 1, not 2.0"),
        (rows(), ["--out", "{folder}/labels.csv"], "is the labels table itself"),
        (rows(), ["--run", "{run}", "{other}"], "'.*' is not finished|no such run"),
    ],
)
def test_refused(
    files: Files, tmp_path: Path, labels: str, flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    words = ["--run", str(files.run), "--bags", str(files.features), "--labels", str(tmp_path / "labels.csv")]
    flags = [flag.format(folder=tmp_path, run=files.run, other=tmp_path) for flag in flags]
    assert main([*words, "--out", str(tmp_path / "wider.csv"), "--device", "cpu", *flags]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert pd.Series([error]).str.contains(sentence).all()
    assert not (tmp_path / "wider.csv").exists()


@pytest.mark.parametrize("network", ["trained", "trained_chipnet"])
def test_runs_on_tiles_and_on_overviews(
    network: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """From bags elsewhere than the run's; of two runs on the same splits it is one table."""
    found: Trained = request.getfixturevalue(network)
    (tmp_path / "more").mkdir()
    for name in ("s00", "s01"):
        shutil.copyfile(found.bags / f"{name}.h5", tmp_path / "more" / f"new-{name}.h5")
    words = ["--bags", str(tmp_path / "more"), "--labels", str(found.labels), "--device", "cpu"]
    runs = [str(found.run)] * 2
    assert main(["--run", *runs, *words, "--out", str(tmp_path / "wider.csv"), "--confidence", "0"]) == 0
    assert "pseudo labels of 2 unlabelled slides" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "wider.csv")
    assert table["slide_id"].tolist()[12:] == ["new-s00", "new-s01"] * 2


def test_judged() -> None:
    """Of several labels only where they are known and said."""
    chances = np.array([[0.9, 0.1], [nan, nan], [0.2, 0.8]])
    assert judge(Task(("x", "y")), chances, np.array([0, 1, 0])) == (3, 2, 1)
    several = Task(("x", "y"), "any of")
    chances = np.array([[0.9, nan], [0.1, 0.9]])
    assert judge(several, chances, np.array([[1, 0], [nan, 0]])) == (3, 2, 1)
