"""A training on tiles that a ChipNet picked has the folds of that ChipNet."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mil.cohort import Cohort, gather
from mil.doctor import examine
from mil.errors import LabelsError
from mil.folds import Folds, make_folds
from mil.labels import read_labels
from mil.recipe import Recipe
from mil.run import train_run
from mil.votes import refuse_known_patients, refuse_other_folds
from tests.conftest import CohortFiles
from tiling.bag import Picked, read_bag, write_bag


@pytest.fixture
def folder(bags: Path, tmp_path: Path) -> Path:
    """A copy of the twelve bags, to be marked."""
    return Path(shutil.copytree(bags, tmp_path / "bags"))


def mark(folder: Path, votes: str, run: str = "abc") -> None:
    """Say of each bag in turn which fold of a ChipNet run picked its tiles: `-` is all of them."""
    for path, vote in zip(sorted(folder.glob("*.h5")), votes, strict=True):
        bag = read_bag(path)
        picked = Picked(run, "all" if vote == "-" else vote, 0.5, "attention")
        write_bag(path, replace(bag, header=replace(bag.header, picked=picked)))


def gathered(cohort: CohortFiles, folder: Path) -> Cohort:
    return gather(read_labels(cohort.labels), folder, skip_missing=False)


def folds(text: str) -> Folds:
    names = tuple(sorted({*text}))
    return Folds(np.array([names.index(each) for each in text]), names)


def test_same_folds_under_other_names(cohort: CohortFiles, folder: Path) -> None:
    mark(folder, "001122001122")
    found = gathered(cohort, folder)
    assert found.votes == list("001122001122")
    assert found.bag_spec["chipnet"] == "abc"
    refuse_other_folds(found, folds("001122001122"))
    refuse_other_folds(found, folds("BBCCAABBCCAA"))


def test_slides_that_all_folds_voted_for_may_be_anywhere(cohort: CohortFiles, folder: Path) -> None:
    mark(folder, "0011--------")
    refuse_other_folds(gathered(cohort, folder), folds("001101010101"))
    refuse_other_folds(gathered(cohort, folder), folds("001122222222"))


def test_one_fold_spread_over_two(cohort: CohortFiles, folder: Path) -> None:
    mark(folder, "000111------")
    sentence = (
        "the tiles of 's00' and 's02' were picked by fold 0 of a ChipNet, and this training has them in two folds, 0 "
        "and 1: tiles would be chosen by networks that have seen what is tested; give the folds.csv of the ChipNet run "
        "as --labels, so that both have the same folds"
    )
    with pytest.raises(LabelsError) as error:
        refuse_other_folds(gathered(cohort, folder), folds("001111111111"))
    assert str(error.value) == sentence


def test_two_folds_in_one(cohort: CohortFiles, folder: Path) -> None:
    mark(folder, "0-1---------")
    sentence = (
        "the tiles of 's00' and 's02' were picked by two folds of a ChipNet, 0 and 1, and this training has both in"
    )
    with pytest.raises(LabelsError, match=f"{sentence} fold A: "):
        refuse_other_folds(gathered(cohort, folder), folds("AAAAAABBBBBB"))


def test_all_folds_for_a_patient_of_whom_one_has_learned_nothing(cohort: CohortFiles, folder: Path) -> None:
    labels = cohort.labels.read_text().replace("p05", "p02")
    (folder.parent / "labels.csv").write_text(labels)
    mark(folder, "0011--------")
    found = gather(read_labels(folder.parent / "labels.csv"), folder, skip_missing=False)
    refuse_other_folds(found, folds("001122222222"))  # the folds are well, if for their patients
    with pytest.raises(LabelsError) as error:
        refuse_known_patients(found)
    assert str(error.value) == (
        "the tiles of 's05' were picked by all folds of a ChipNet, though all but fold 1 have seen its patient, 'p02' "
        "(by 's02'): pick them again with a slides table that has its patient_id as the folds.csv of the ChipNet run "
        "has it"
    )
    recipe = Recipe.of(backbone="test_resnet", train_px=32, folds=2, epochs=1, device="cpu")
    with pytest.raises(LabelsError, match="have seen its patient, 'p02'"):
        train_run(found, folder.parent / "run", recipe)
    problems = examine(folder, folder.parent / "labels.csv", recipe).problems
    assert [problem for problem in problems if "have seen its patient, 'p02'" in problem] != []
    mark(folder, "0-11-1------")
    refuse_known_patients(gather(read_labels(folder.parent / "labels.csv"), folder, skip_missing=False))
    mark(folder, "------------")
    refuse_known_patients(gather(read_labels(folder.parent / "labels.csv"), folder, skip_missing=False))


def test_other_bags_have_no_votes(cohort: CohortFiles, bags: Path) -> None:
    found = gathered(cohort, bags)
    assert found.votes == [None] * 12
    refuse_other_folds(found, folds("010101010101"))
    refuse_known_patients(found)


def test_two_runs_in_one_training(cohort: CohortFiles, folder: Path) -> None:
    mark(folder, "0" * 12)
    bag = read_bag(folder / "s03.h5")
    picked = Picked("def", "0", 0.5, "attention")
    write_bag(folder / "s03.h5", replace(bag, header=replace(bag.header, picked=picked)))
    with pytest.raises(LabelsError, match=r"s00.h5' and '.*s03.h5' were made with different chipnet; make the bags of"):
        gathered(cohort, folder)


def test_training_and_doctor_refuse(cohort: CohortFiles, folder: Path, tmp_path: Path) -> None:
    mark(folder, "0" * 6 + "1" * 6)
    recipe = Recipe.of(backbone="test_resnet", train_px=32, folds=2, epochs=1, device="cpu")
    with pytest.raises(LabelsError, match="were picked by fold 0 of a ChipNet"):
        train_run(gathered(cohort, folder), tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()
    report = examine(folder, cohort.labels, recipe)
    assert [problem for problem in report.problems if "were picked by fold 0 of a ChipNet" in problem] != []


def test_folds_csv_of_a_run_serves_as_labels(cohort: CohortFiles, folder: Path, tmp_path: Path) -> None:
    """As its remedy says; the run here stands for that of a ChipNet."""
    labels = read_labels(cohort.labels)
    named = make_folds(labels, 3, 0).name_of()
    rows = zip(labels.table["slide_id"], labels.table["patient_id"], labels.table["label"], named, strict=True)
    table = tmp_path / "folds.csv"
    table.write_text("\n".join(["slide_id,patient_id,label,fold", *map(",".join, rows)]) + "\n")
    mark(folder, "".join(named))
    given = read_labels(table)
    refuse_other_folds(gather(given, folder, skip_missing=False), make_folds(given, 5, 7))


def test_tiles_of_a_slide_with_a_pseudo_label_are_picked_by_nobody(
    cohort: CohortFiles, folder: Path, tmp_path: Path
) -> None:
    """All but one fold of a ChipNet have seen what is tested."""
    labels = cohort.labels.read_text().splitlines()
    own = [f"{row},{index % 2},,," for index, row in enumerate(sorted(labels[1:-1]))]
    (tmp_path / "labels.csv").write_text(
        "\n".join([f"{labels[0]},fold,pseudo_fold,prob_normal,prob_tumour", *own, "s11,tumour,s11,,0,0,1"]) + "\n"
    )
    found = gather(read_labels(tmp_path / "labels.csv"), folder, skip_missing=False)
    assert (len(found.labels), len(found.bags), len(found.votes)) == (11, 12, 11)
    mark(folder, "-" * 12)
    with pytest.raises(LabelsError, match=r"the tiles of '.*s11.h5' were picked by a ChipNet that learned from slides"):
        gather(read_labels(tmp_path / "labels.csv"), folder, skip_missing=False)
