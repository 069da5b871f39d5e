"""Slides and bags are ready in the form that networks take, in order, and never more of them than are allowed for."""

import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CohortFiles
from tiling import ready
from tiling.bag import Bag, read_bag
from tiling.bags import open_bags
from tiling.errors import BagError, InputError
from tiling.features import FEATURES, FeatureBag, write_features
from tiling.overview import OVERVIEWS, squared
from tiling.ready import Ready, Wanted, made_ready, reader, tiler
from tiling.sources import SlideRef, find_slides
from tiling.spec import TileSpec
from tiling.todo import Todo

SPEC = asdict(TileSpec(size=32, longest_edge=None, downsample=1.0, instances=6))


def todo_of(bags: Path) -> Todo:
    return Todo(SlideRef(name, ref.path) for name, ref in open_bags(bags).refs.items())


def test_slides_and_bags_are_ready_alike(cohort: CohortFiles, bags: Path) -> None:
    wanted = Wanted(SPEC, (16,))
    of_bags = list(reader(open_bags(bags), wanted, 2)(todo_of(bags)))
    of_slides = dict(tiler(wanted, None, 2, 60.0)(Todo(find_slides([cohort.slides])[:3])))
    assert [slide.slide_id for slide, _ in of_bags] == [f"s{index:02d}" for index in range(12)]
    found = {slide.slide_id: made for slide, made in of_bags}
    assert len(of_slides) == 3
    for slide, made in of_slides.items():
        other = found[slide.slide_id]
        assert isinstance(made, Ready)
        assert isinstance(other, Ready)
        assert made.instances[16].shape == (6, 3, 16, 16)
        np.testing.assert_array_equal(made.instances[16], other.instances[16])
        assert isinstance(made.bag, Bag)
        assert made.bag.tiles is None
        np.testing.assert_array_equal(made.bag.x0, other.bag.x0)  # type: ignore[union-attr]


def test_those_that_are_drawn_keep_their_tiles(bags: Path) -> None:
    bag = read_bag(bags / "s00.h5")
    made = made_ready(bag, Wanted(SPEC, (16,), drawn=True))
    assert isinstance(made.bag, Bag)
    assert made.bag.tiles == bag.tiles
    np.testing.assert_array_equal(made.instances[16][1], bag.tile(1, 16).transpose(2, 0, 1))


def test_of_networks_that_see_tiles_at_other_sizes_each_has_its_own(bags: Path) -> None:
    ((_, made),) = reader(open_bags(bags), Wanted(SPEC, (8, 24)), 1)(Todo([SlideRef("s00", bags / "s00.h5")]))
    assert isinstance(made, Ready)
    assert {px: tiles.shape for px, tiles in made.instances.items()} == {8: (6, 3, 8, 8), 24: (6, 3, 24, 24)}
    tile = read_bag(bags / "s00.h5").tile(5, 8)
    np.testing.assert_array_equal(made.instances[8][5], tile.transpose(2, 0, 1))


def test_overviews_are_one_square(cohort: CohortFiles, bags: Path) -> None:
    wanted = Wanted({**SPEC, OVERVIEWS: 64}, (64,))
    (slide,) = find_slides([cohort.slides / "s03.tiff"])
    ((_, tiled),) = tiler(wanted, None, 1, 60.0)(Todo([slide]))
    ((_, read),) = reader(open_bags(bags), wanted, 1)(Todo([slide]))
    assert isinstance(tiled, Ready)
    assert isinstance(read, Ready)
    assert tiled.instances[64].shape == (1, 3, 64, 64)
    np.testing.assert_array_equal(tiled.instances[64], read.instances[64])
    expected = squared(read_bag(bags / "s03.h5").overview_rgb(), 64)
    np.testing.assert_array_equal(read.instances[64][0], expected.transpose(2, 0, 1))


def test_features_are_their_own_instances(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", np.arange(12, dtype=np.float32).reshape(3, 4))
    wanted = Wanted({FEATURES: 4, "encoder": None}, (224,))
    ((_, made),) = reader(open_bags(tmp_path), wanted, 1)(todo_of(tmp_path))
    assert isinstance(made, Ready)
    assert isinstance(made.bag, FeatureBag)
    assert len(made.bag) == 3
    np.testing.assert_array_equal(made.instances[224], np.arange(12).reshape(3, 4))


def test_a_bag_made_otherwise_is_an_error_in_its_place(bags: Path) -> None:
    wanted = Wanted({**SPEC, "quality": 12}, (16,))
    ((_, error),) = reader(open_bags(bags), wanted, 1)(Todo([SlideRef("s00", bags / "s00.h5")]))
    assert isinstance(error, BagError)
    assert "was made with another quality than the run was trained on" in str(error)


def test_tiles_that_nobody_can_cut() -> None:
    with pytest.raises(InputError, match="trained on tiles that this version cannot cut"):
        tiler(Wanted({**SPEC, "shape": "round"}, (16,)), None, 1, 60.0)


def test_no_more_is_read_ahead_than_there_are_threads(bags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, lock = [], threading.Lock()
    real = ready.made_ready

    def counted(bag: Bag | FeatureBag, wanted: Wanted) -> Ready:
        with lock:
            begun.append(1)
        return real(bag, wanted)

    monkeypatch.setattr(ready, "made_ready", counted)
    found = reader(open_bags(bags), Wanted(SPEC, (16,)), 2)(todo_of(bags))
    for number in range(1, 5):
        next(found)
        time.sleep(0.1)  # what they could do further, they would do
        assert len(begun) <= number + 2
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bag")]
