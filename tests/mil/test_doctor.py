"""All that stands in the way is found at once, and nothing is written."""

import re
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mil.doctor import examine
from mil.recipe import Recipe, TrainSpec
from mil.report import Report, some
from mil.settings import ModelSpec, TableSpec
from tests.conftest import CohortFiles
from tiling.bag import read_bag, write_bag
from tiling.errors import BagError
from tiling.features import write_features

RECIPE = Recipe(
    model=ModelSpec(backbone="test_resnet", train_px=32), train=TrainSpec(folds=2, device="cpu", precision="fp32")
)


@pytest.fixture
def folder(bags: Path, tmp_path: Path) -> Path:
    """A copy of the bags to spoil."""
    return Path(shutil.copytree(bags, tmp_path / "bags"))


def train(**changes: object) -> Recipe:
    return replace(RECIPE, train=replace(RECIPE.train, **changes))


def test_nothing_wrong(cohort: CohortFiles, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    report = examine(folder, cohort.labels, RECIPE)
    assert report.problems == []
    text = str(report)
    for line in (
        "labels   12 slides of 12 patients\n         normal: 6 slides of 6 patients\n         tumour: 6 slides",
        "bags     12, each of 6 tiles of 32 px",
        "fold train valid  test  normal  tumour\n            0 4 (4) 2 (2) 6 (6)       3       3",
        "leaks    none",
        "model    test_resnet on 32 px",
        "memory   a step of 4 bags with 24 instances needs about ",
        "for the steps of an epoch of 4 slides",
        "cache    0 MB of tiles at 32 px",
        "- 'normal' has 6 patients: intervals will be wide",
        "nothing stands in the way of this training",
    ):
        assert line in text
    assert sorted(folder.rglob("*")) == before


def test_all_problems_at_once(cohort: CohortFiles, folder: Path) -> None:
    (folder / "s00.h5").unlink()
    (folder / "s02.h5").write_bytes(b"nothing")
    shutil.copy(folder / "s01.h5", folder / "s03.h5")
    recipe = replace(train(folds=9), model=ModelSpec(backbone="resnet81", train_px=32))
    report = examine(folder, cohort.labels, recipe)
    assert not report.healthy
    expected = "'s00' (its bag is gone)", "s02.h5' is not a complete bag", "4 patients, fewer than the 9", "'resnet81'"
    for problem, words in zip(report.problems, expected, strict=True):
        assert words in problem


def test_missing_and_unlabelled_bags_are_named(cohort: CohortFiles, folder: Path) -> None:
    (folder / "s00.h5").rename(folder / "other.h5")
    report = examine(folder, cohort.labels, train(skip_missing=True))
    assert report.healthy
    named = (
        "         1 labelled slides have none:\n         s00: its bag is gone\n         1 bags have no label and are"
    )
    assert f"{named} not used: other" in str(report)


def test_leaks_and_slides_that_count_twice(cohort: CohortFiles, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "s01.h5", folder / "s03.h5")
    shutil.copy(folder / "s04.h5", folder / "s07.h5")
    labels, rows = (
        tmp_path / "labels.csv",
        cohort.labels.read_text().replace("s07,tumour,p07", "s07,tumour,p04").split(),
    )
    labels.write_text("\n".join(f"{row},{fold}" for row, fold in zip(rows, ["fold", *"AABBAABABBAB"], strict=True)))
    report = examine(folder, labels, RECIPE)
    (problem,) = report.problems
    assert problem.startswith("the slides 's01' and 's03' of the patients 'p01' and 'p03' have the same overview, and")
    assert [note for note in report.notes if "count twice" in note] == [
        "the slides 's04' and 's07' have the same overview, and are labelled normal and tumour; they are always on one "
        "side, but count twice"
    ]


@pytest.mark.parametrize("place", [0, 2, 5])
def test_damaged_tile(cohort: CohortFiles, folder: Path, place: int) -> None:
    """Of which a header says nothing."""
    bag = read_bag(folder / "s05.h5")
    assert bag.tiles is not None
    write_bag(folder / "s05.h5", replace(bag, tiles=(*bag.tiles[:place], b"no picture", *bag.tiles[place + 1 :])))
    bag = read_bag(folder / "s06.h5")
    write_bag(folder / "s06.h5", replace(bag, overview=b"no picture"))
    report = examine(folder, cohort.labels, RECIPE)
    assert [problem.partition(" cannot be decoded")[0] for problem in report.problems] == [
        f"tile {place} of bag 's05'", "the overview of bag 's06'",
    ]  # fmt: skip


def test_tiles_of_large_bags_are_decoded_here_and_there(
    cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mil.doctor.LOOKED_AT", 4)
    bag = read_bag(folder / "s05.h5")
    assert bag.tiles is not None
    write_bag(folder / "s05.h5", replace(bag, tiles=(*bag.tiles[:2], *[b"no picture"] * 4)))
    report = examine(folder, cohort.labels, RECIPE)
    assert "         of larger ones up to 4 tiles are decoded here, spread over all" in report.lines
    assert [problem.partition(" cannot be decoded")[0] for problem in report.problems] == ["tile 2 of bag 's05'"]


def test_what_training_refuses_of_settings(cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("No module named 'wandb'")

    monkeypatch.setattr("mil.tracking.TRACKERS", {"wandb": SimpleNamespace(check=absent)})
    report = examine(folder, cohort.labels, train(tracker="wandb", decode="gpu"))
    decoder, tracker = report.problems
    assert decoder == "--decode gpu needs a GPU to train on; leave it at auto"
    assert tracker.startswith("--tracker wandb needs a package that is not installed")


def test_too_little_for_a_batch_norm(cohort: CohortFiles, folder: Path) -> None:
    """In the words of the training."""
    (problem,) = examine(folder, cohort.labels, train(instance_chunk=1)).problems
    assert problem.startswith("batch norm has nothing to take a mean of (Expected more than 1 value per channel")
    assert "; raise --batch-size, or --instance-chunk if you gave one, or --train-px" in problem


def test_a_step_that_runs_out_of_memory(cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though there was enough by estimate."""

    def step(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr("mil.doctor.seconds_per_instance", step)
    (problem,) = examine(folder, cohort.labels, RECIPE).problems
    assert problem.startswith("out of memory: a step of 4 bags with 24 tiles of 32 px needs about ")


def test_an_error_that_nobody_foresaw(cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> float:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("mil.doctor.seconds_per_instance", step)
    with pytest.raises(RuntimeError, match="shapes differ"):
        examine(folder, cohort.labels, RECIPE)


@pytest.mark.parametrize(
    ("there", "remedy"),
    [
        (9_000_000, r"9 MB are free on this machine; give --instance-chunk \d+ \(about \d+ MB\), or --batch-size "),
        (2_000_000, "2 MB are free on this machine; take a smaller --train-px or --backbone$"),
    ],
)
def test_too_little_memory(
    cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch, there: int, remedy: str
) -> None:
    monkeypatch.setattr("mil.doctor.available_bytes", lambda device: there)
    (problem,) = examine(folder, cohort.labels, RECIPE).problems
    assert re.match(rf"a step of 4 bags with 24 instances needs about \d+ MB of memory, and {remedy}", problem), problem


def test_too_little_disk(cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache that nobody asked for is not made; one that was asked for has to fit."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mil.doctor.shutil.disk_usage", lambda path: usage(9, 8, 1000))
    report = examine(folder, cohort.labels, RECIPE)
    assert report.healthy
    named = f"a cache of 0 MB does not fit into '{folder}/cache', where 0 MB are free: there will be none, and every"
    assert any(note.startswith(named) for note in report.notes)
    (problem,) = examine(folder, cohort.labels, train(cache=str(tmp_path / "new" / "cache"))).problems
    assert re.match(
        r"a cache of 0 MB does not fit into '.*new/cache/gigabag-tiles', where 0 MB are free; give", problem
    )
    assert not [line for line in examine(folder, cohort.labels, train(cache=None)).lines if line.startswith("cache")]


def test_a_cache_that_training_would_not_make(
    cohort: CohortFiles, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `mil.cache` decides it: none of large tiles, and none over half of what is free, but where it is asked for."""
    usage = namedtuple("usage", "total used free")
    needed = 12 * 6 * 3 * 32**2
    monkeypatch.setattr("mil.doctor.shutil.disk_usage", lambda path: usage(9, 8, 2 * needed - 1))
    (note,) = (note for note in examine(folder, cohort.labels, RECIPE).notes if "cache" in note)
    assert "where 0 MB are free, of which it takes 50% at most unless it is asked for: there will be none" in note
    assert examine(folder, cohort.labels, train(cache=str(tmp_path))).healthy
    monkeypatch.setattr("mil.doctor.shutil.disk_usage", lambda path: usage(9, 8, 2 * needed))
    assert not [note for note in examine(folder, cohort.labels, RECIPE).notes if "cache" in note]
    lines = examine(folder, cohort.labels, RECIPE.but(train_px=513)).lines
    assert "cache    none for tiles of 513 px, which are no faster from a disk than decoded" in lines


def test_worth_knowing(cohort: CohortFiles, folder: Path, tmp_path: Path) -> None:
    rows = cohort.labels.read_text().splitlines()
    sites = ["site", *"AABBAAAABBCA"]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(f"{row},{site}" for row, site in zip(rows, sites, strict=True)))
    recipe = replace(RECIPE, table=TableSpec(site="site"), model=ModelSpec(backbone="test_resnet", train_px=64))
    notes = examine(folder, labels, recipe).notes
    assert "tested on one class alone, and so without an AUC of their own: the folds C" in notes
    assert "tiles of 32 px are enlarged to 64, which shows nothing more; lower --train-px" in notes
    assert "test_resnet starts from random weights; --pretrained or --weights learn sooner" in notes


def test_names_that_would_spoil_a_table(cohort: CohortFiles, folder: Path, tmp_path: Path) -> None:
    labels, long = tmp_path / "labels.csv", f"tumour of {'many ' * 20}words"
    labels.write_text(cohort.labels.read_text().replace("tumour", long).replace("normal", '"nor\nmal"'))
    text = str(examine(folder, labels, RECIPE))
    assert "         nor\\nmal: 6 slides of 6 patients\n         tumour of ma… many words: 6 slides" in text
    assert "fold train valid  test  nor\\nmal  tumour of ma… many words\n" in text


def test_features(cohort: CohortFiles, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for place in range(12):
        features = random.normal(size=(3 + place, 8)).astype(np.float32)
        write_features(tmp_path / f"s{place:02d}.h5", features, encoder="uni")
    text = str(examine(tmp_path, cohort.labels, Recipe(train=RECIPE.train)))
    assert "bags     12, each of 3 to 14 (median 8.5) features (8 of uni)" in text
    assert "model    features, attention pooling: 0.0 million weights, of which 100 % learn" in text
    assert "a step of 4 bags with 50 instances" in text
    assert "cache " not in text
    features[1, 2] = np.nan
    write_features(tmp_path / "s11.h5", features, encoder="uni")
    (problem,) = examine(tmp_path, cohort.labels, Recipe(train=RECIPE.train)).problems
    assert "has values that are no finite numbers" in problem


def test_overviews(cohort: CohortFiles, folder: Path) -> None:
    """A damaged tile does not matter to ChipNet, a damaged overview does."""
    recipe = replace(RECIPE, model=ModelSpec(arch="chipnet", backbone="test_resnet", overview_px=1056))
    first, second = (read_bag(folder / f"s0{place}.h5") for place in (0, 1))
    write_bag(folder / "s00.h5", replace(first, tiles=(b"nothing", *(first.tiles or ())[1:])))
    report = examine(folder, cohort.labels, recipe)
    assert report.problems == []
    text = str(report)
    for line in (
        "bags     12, each of 1 overview of the slide\n",
        "model    ChipNet of test_resnet, maps of 33 x 33 chips, ",
        "memory   a step of 4 bags with 4 instances needs about ",
        "- overviews are stored with at most 1024 px and enlarged to 1056, which shows nothing more",
    ):
        assert line in text
    assert "cache  " not in text
    write_bag(folder / "s01.h5", replace(second, overview=b"nothing"))
    problems = examine(folder, cohort.labels, recipe).problems
    assert len(problems) == 1
    assert "the overview of bag 's01' cannot be decoded" in problems[0]


def test_what_leaves_nothing_to_look_at(cohort: CohortFiles, tmp_path: Path) -> None:
    (problem,) = examine(tmp_path, tmp_path / "none.csv", RECIPE).problems
    assert problem.startswith("cannot read the labels table")
    (problem,) = examine(tmp_path / "none", cohort.labels, RECIPE).problems
    assert problem.startswith("no such folder of bags")
    (problem,) = examine(tmp_path, cohort.labels, RECIPE).problems
    assert problem.startswith("no slide of the labels table has a bag")


def test_report() -> None:
    report = Report(["a line"], [], ["a note"])
    assert report.attempt(lambda: 3) == 3
    assert str(report) == "a line\n\nworth knowing:\n- a note\n\nnothing stands in the way of this training"

    def damaged() -> None:
        raise BagError("it is damaged")

    assert report.attempt(damaged) is None
    assert not report.healthy
    assert str(report).endswith("\n\none problem:\n1. it is damaged")
    report.attempt(damaged)
    assert str(report).endswith("\n\n2 problems:\n1. it is damaged\n2. it is damaged")
    with pytest.raises(ZeroDivisionError):
        report.attempt(lambda: 1 // 0)


def test_some_of_many() -> None:
    assert some(["a", "b"]) == ["a", "b"]
    assert some([*"abcdefghijkl"]) == [*"abcdefghij", "… and 2 more"]
