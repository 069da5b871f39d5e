"""The same patient, overview or tile on two sides of a split is found, and what says nothing is not taken for one."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mil.cohort import Cohort, gather
from mil.errors import LabelsError
from mil.folds import Folds, Split, make_folds, make_splits
from mil.labels import read_labels
from mil.leaks import Shared, crossing, find_shared, refuse_leaks
from tests.conftest import CohortFiles
from tiling.bag import BagRef, read_bag, write_bag
from tiling.codec import CODECS, encode_overview
from tiling.features import write_features


@pytest.fixture
def folder(bags: Path, tmp_path: Path) -> Path:
    """A copy of the bags to spoil."""
    return Path(shutil.copytree(bags, tmp_path / "bags"))


def gathered(cohort: CohortFiles, folder: Path) -> Cohort:
    return gather(read_labels(cohort.labels), folder, skip_missing=False)


def splits(cohort: Cohort) -> list[Split]:
    return make_splits(cohort.labels, make_folds(cohort.labels, 3, 0), 0.2, 0)


def change(path: Path, **tiles: np.ndarray) -> None:
    """Put RGB pictures in the place of tiles: `t0` is the first."""
    bag = read_bag(path)
    assert bag.tiles is not None
    pictures = list(bag.tiles)
    for name, rgb in tiles.items():
        pictures[int(name[1:])] = CODECS["jpeg"].encode(rgb, 90, 420)
    write_bag(path, replace(bag, tiles=tuple(pictures)))


def refs(folder: Path, *names: str) -> list[BagRef]:
    return [BagRef(folder / f"{name}.h5") for name in names]


NOISE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
WHITE = np.full((32, 32, 3), 255, np.uint8)


def test_slides_of_their_own(cohort: CohortFiles, folder: Path) -> None:
    found = gathered(cohort, folder)
    assert find_shared(found.bags) == []
    refuse_leaks(found, splits(found))


def test_one_slide_under_two_names(cohort: CohortFiles, folder: Path) -> None:
    for copy in ("s03", "s05"):
        shutil.copy(folder / "s01.h5", folder / f"{copy}.h5")
    found = gathered(cohort, folder)
    assert find_shared(found.bags) == [Shared(1, 3, "the same overview"), Shared(1, 5, "the same overview")]
    sentence = (
        r"the slides 's01' and 's0[35]' of the patients 'p01' and 'p0[35]' have the same overview, and would be "
        "learned from and tested on; give both the same patient_id in the labels table, or delete the row of one"
    )
    with pytest.raises(LabelsError, match=sentence):
        refuse_leaks(found, splits(found))


def test_as_one_patient_it_is_no_leak(cohort: CohortFiles, folder: Path) -> None:
    shutil.copy(folder / "s01.h5", folder / "s03.h5")
    found = gathered(cohort, folder)
    found.labels.table.loc[3, "patient_id"] = "p01"
    assert len(find_shared(found.bags)) == 1
    refuse_leaks(found, splits(found))


def test_given_folds_are_named_in_the_remedy(cohort: CohortFiles, folder: Path) -> None:
    shutil.copy(folder / "s00.h5", folder / "s01.h5")
    found = gathered(cohort, folder)
    labels = replace(found.labels, table=found.labels.table.assign(fold=list("ABCABCABCABC")), fold_from="hospital")
    found = found._replace(labels=labels)
    with pytest.raises(LabelsError, match="give both the same patient_id and the same hospital in the labels table"):
        refuse_leaks(found, splits(found))


@pytest.mark.parametrize(
    ("train", "valid", "leaks"), [([0, 1], [2], False), ([0, 2], [1], True), ([0], [2, 1], True)]
)  # fmt: skip
def test_what_lies_on_two_sides(train: list[int], valid: list[int], leaks: bool) -> None:
    """Also where training is stopped; slides that no split has apart may share what they like."""
    split = Split(0, "0", np.array(train), np.array(valid), np.array([3]))
    pairs = [Shared(0, 1, "a tile in common")]
    assert crossing(pairs, [split], 4) == (pairs if leaks else [])


def test_tile_in_common(folder: Path) -> None:
    change(folder / "s01.h5", t2=NOISE)
    change(folder / "s02.h5", t5=NOISE)
    change(folder / "s03.h5", t0=NOISE, t1=NOISE[::-1])
    change(folder / "s04.h5", t0=NOISE[::-1], t3=NOISE)
    shared = find_shared(refs(folder, "s00", "s01", "s02", "s03", "s04"))
    assert shared == [Shared(1, 2, "a tile in common"), Shared(1, 3, "a tile in common"),
                      Shared(1, 4, "a tile in common"), Shared(3, 4, "a tile in common")]  # fmt: skip


def test_flat_tiles_and_overviews_say_nothing(folder: Path) -> None:
    halves = WHITE.copy()
    halves[:, :16] = 20
    for name in ("s00", "s01"):
        change(folder / f"{name}.h5", t0=WHITE, t1=halves)
        flat = encode_overview(np.full((48, 64, 3), 240, np.uint8))
        write_bag(folder / f"{name}.h5", replace(read_bag(folder / f"{name}.h5"), overview=flat))
    assert find_shared(refs(folder, "s00", "s01")) == []
    change(folder / "s00.h5", t1=NOISE)
    change(folder / "s01.h5", t1=NOISE)
    assert find_shared(refs(folder, "s00", "s01")) == [Shared(0, 1, "a tile in common")]


def test_codecs_that_keep_every_pixel_are_compared_by_pixels(folder: Path) -> None:
    for name, codec in (("s00", "png"), ("s01", "raw"), ("s02", "raw")):
        bag = read_bag(folder / f"{name}.h5")
        header = replace(bag.header, codec=codec, spec={**bag.header.spec, "codec": codec})
        pictures = [NOISE if name != "s02" else NOISE // 2] + [bag.tile(place) for place in range(1, 6)]
        tiles = tuple(CODECS[codec].encode(picture, 90, 420) for picture in pictures)
        write_bag(folder / f"{name}.h5", replace(bag, header=header, tiles=tiles))
    assert find_shared(refs(folder, "s00", "s01", "s02")) == [Shared(0, 1, "a tile in common")]


def test_small_copies_stand_for_the_tiles(folder: Path) -> None:
    """They are read in their place, and what says something there counts."""
    for name, first in (("s00", NOISE), ("s01", NOISE), ("s02", WHITE), ("s03", WHITE)):
        bag = read_bag(folder / f"{name}.h5")
        pictures = [first, *(bag.tile(place) for place in range(1, 6))]
        small = tuple(CODECS["jpeg"].encode(picture[::2, ::2], 98, 444) for picture in pictures)
        write_bag(folder / f"{name}.h5", replace(bag, header=replace(bag.header, train_px=16), small=small))
    assert find_shared(refs(folder, "s00", "s01", "s02", "s03")) == [Shared(0, 1, "a tile in common")]


def test_patient_on_two_sides(cohort: CohortFiles, folder: Path) -> None:
    """Whoever made the folds."""
    found = gathered(cohort, folder)
    by_row = Folds(np.arange(12) % 3, ("a", "b", "c"))
    found.labels.table["patient_id"] = [f"p{k // 2}" for k in range(12)]
    sentence = "the slides 's00' and 's01' of the patient 'p0' are on two sides of the split of fold a; put all"
    with pytest.raises(LabelsError, match=sentence):
        refuse_leaks(
            found, [Split(0, "a", np.flatnonzero(by_row.of), np.array([], int), np.flatnonzero(by_row.of == 0))]
        )


class TestFeatures:
    RANDOM = np.random.default_rng(0)

    def write(self, folder: Path, **bags: np.ndarray) -> list[BagRef]:
        for name, features in bags.items():
            write_features(folder / f"{name}.h5", features.astype(np.float32), encoder="x")
        return refs(folder, *bags)

    def test_vectors_in_common(self, tmp_path: Path) -> None:
        a, b, c = (self.RANDOM.normal(size=(5, 4)) for _ in range(3))
        found = self.write(tmp_path, a=a, b=np.concatenate([b, a[3:]]), c=np.concatenate([c, b[:1]]), d=a[:1])
        assert find_shared(found) == [
            Shared(0, 1, "2 vectors of features in common"), Shared(0, 3, "their only vector in common"),
        ]  # fmt: skip

    def test_what_is_blank_says_nothing(self, tmp_path: Path) -> None:
        """Constant vectors; and those of which some bag has two, as of the tiles beside a slide's edge."""
        white, black = self.RANDOM.normal(size=(2, 1, 4))
        blank = np.concatenate([np.zeros((1, 4)), np.full((1, 4), 0.5), white, black])
        bags = {name: np.concatenate([self.RANDOM.normal(size=(3, 4)), blank]) for name in "abc"}
        found = self.write(tmp_path, **bags, d=np.concatenate([blank, blank, self.RANDOM.normal(size=(1, 4))]))
        assert find_shared(found) == []
        assert len(find_shared(found[:3])) == 2

    def test_pairs_beside_a_bag_that_has_a_part_of_what_they_share(self, tmp_path: Path) -> None:
        both, other = self.RANDOM.normal(size=(2, 4)), self.RANDOM.normal(size=(6, 4))
        parts = {"a": [both[:1], other[:2]], "b": [both, other[2:4]], "c": [both, other[4:]]}
        found = self.write(tmp_path, **{name: np.concatenate(rows) for name, rows in parts.items()})
        assert find_shared(found) == [Shared(1, 2, "2 vectors of features in common")]

    def test_many_copies_hang_together(self, tmp_path: Path) -> None:
        """More than pairs are counted of: every copy is named, the first of them with as many as can be."""
        same = self.RANDOM.normal(size=(2, 4))
        found = find_shared(self.write(tmp_path, **{f"s{place:02d}": same for place in range(20)}))
        assert [pair[:2] for pair in found] == [(0, k) for k in range(1, 17)] + [(1, 17), (2, 18), (3, 19)]

    def test_nothing_that_counts(self, tmp_path: Path) -> None:
        """Each vector twice, and constant ones alone."""
        twice = np.repeat(self.RANDOM.normal(size=(2, 4)), 2, axis=0)
        found = self.write(tmp_path, a=twice, b=twice, c=np.zeros((3, 4)), d=np.ones((1, 4)))
        assert find_shared(found) == []
        assert find_shared(found[2:]) == []
