from pathlib import Path

import numpy as np

from benchmarks.catch import Caught, caught, picks_of, read_truth, write_oracle, write_truth
from tests.conftest import NUCLEI, STROMA, paint
from tiling.slide import write_pyramid
from tiling.spec import TileSpec

TRUTH = {"a": frozenset({(0, 0), (64, 0)}), "b": frozenset({(32, 96)})}


def test_truth_comes_back(tmp_path: Path) -> None:
    write_truth(tmp_path / "tiles.csv", TRUTH)
    assert (tmp_path / "tiles.csv").read_text().split() == ["slide_id,x0,y0", "a,0,0", "a,64,0", "b,32,96"]
    assert read_truth(tmp_path / "tiles.csv") == TRUTH


def test_only_the_first_k_count_and_no_more_than_k_are_possible() -> None:
    picks = {"a": [(64, 0), (32, 0), (0, 0)], "b": [(0, 0)], "benign": [(32, 96)]}
    assert caught(picks, TRUTH, 1) == Caught(lesions=1, picked=2, possible=2)
    assert caught(picks, TRUTH, 3) == Caught(lesions=2, picked=4, possible=3)
    assert str(caught(picks, TRUTH, 3)) == "50% / 67%"


def test_oracle_takes_lesions_first_and_fills_up_by_lot(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    for name in ("a", "b"):
        rgb = paint(128, 128, (0, 0, 128, STROMA), (32, 96, 32, NUCLEI))
        write_pyramid(tmp_path / "slides" / f"{name}.tiff", rgb, tile_px=128)
    spec = TileSpec(instances=3, size=32, downsample=1, min_tissue=0)
    truth = {"a": frozenset({(96, 0), (0, 64)})}
    write_oracle(tmp_path / "slides", truth, spec, tmp_path / "bags")
    picks = picks_of(tmp_path / "bags", ("a", "b"))
    assert picks["a"][:2] == [(96, 0), (0, 64)]
    assert [len(set(picks[name])) for name in "ab"] == [3, 3]
    write_oracle(tmp_path / "slides", truth, spec, tmp_path / "again")
    assert picks_of(tmp_path / "again", ("a", "b")) == picks
    assert np.isin(picks["b"], [0, 32, 64, 96]).all()
