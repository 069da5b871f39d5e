"""A bag comes back as it was written, or is refused with a sentence."""

import io
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tiling.bag import Bag, BagHeader, read_bag, read_header, write_bag
from tiling.codec import CODECS, encode_overview
from tiling.errors import BagError

RANDOM = np.random.default_rng(0)


def make_bag(tiles: int = 3, codec: str = "png", mpp: float | None = 0.5) -> Bag:
    """A bag of 16 px tiles of noise."""
    pixels = RANDOM.integers(0, 255, (tiles, 16, 16, 3)).astype(np.uint8)
    header = BagHeader(
        "slide é", "/data/slide é.svs", 12345, 1000, 800, mpp, "aperio",
        {"size": 16, "mpp": None}, codec, tiles, 16, 7.5,
    )  # fmt: skip
    return Bag(
        header,
        tuple(CODECS[codec].encode(tile, 90, 420) for tile in pixels),
        np.arange(tiles) * 16 - 8,
        np.arange(tiles) * 16,
        np.linspace(1, 0, tiles),
        np.full(tiles, 0.5),
        encode_overview(np.full((80, 100, 3), 240, np.uint8)),
    )


@pytest.mark.parametrize("tiles", [1, 3, 16])
@pytest.mark.parametrize("mpp", [0.5, None])
def test_round_trip(tmp_path: Path, tiles: int, mpp: float | None) -> None:
    bag = make_bag(tiles, mpp=mpp)
    write_bag(tmp_path / "a.h5", bag)
    back = read_bag(tmp_path / "a.h5")
    assert back.header == bag.header == read_header(tmp_path / "a.h5")
    assert back.tiles == bag.tiles
    assert back.overview == bag.overview
    for name in ("x0", "y0", "score", "tissue"):
        np.testing.assert_array_equal(getattr(back, name), getattr(bag, name))
        assert getattr(back, name).dtype == getattr(bag, name).dtype
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_same_bag_same_bytes(tmp_path: Path) -> None:
    bag = make_bag()
    write_bag(tmp_path / "a.h5", bag)
    write_bag(tmp_path / "b.h5", bag)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_h5py_and_pillow_alone_can_read_it(tmp_path: Path) -> None:
    bag = make_bag()
    write_bag(tmp_path / "a.h5", bag)
    with h5py.File(tmp_path / "a.h5") as file:
        tile = np.asarray(Image.open(io.BytesIO(file["tiles"][1].tobytes())))
        assert json.loads(file.attrs["spec"]) == {"size": 16, "mpp": None}
    np.testing.assert_array_equal(tile, bag.tile(1))


class TestTile:
    def test_png_is_exact(self) -> None:
        tile = RANDOM.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        codec = CODECS["png"]
        np.testing.assert_array_equal(codec.decode(codec.encode(tile, 1, 420), 0), tile)

    def test_jpeg_is_close(self) -> None:
        y, x = np.mgrid[:64, :64]
        tile = np.stack([x * 2 + 60, y * 2 + 60, x + y + 60], axis=2).astype(np.uint8)
        back = CODECS["jpeg"].decode(CODECS["jpeg"].encode(tile, 90, 420), 0)
        assert np.abs(back.astype(int) - tile).max() <= 6

    @pytest.mark.parametrize("codec", ["png", "jpeg"])
    @pytest.mark.parametrize("px", [None, 16, 12, 8, 5, 40])
    def test_size(self, codec: str, px: int | None) -> None:
        assert make_bag(codec=codec).tile(0, px).shape == (px or 16, px or 16, 3)

    def test_damaged_tile(self) -> None:
        bag = replace(make_bag(codec="jpeg"), tiles=(b"\xff\xd8\xff nonsense",))
        with pytest.raises(BagError, match="tile 0 of bag 'slide é' cannot be decoded"):
            bag.tile(0)


class TestRefused:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="no such bag"):
            read_bag(tmp_path / "a.h5")

    @pytest.mark.parametrize("keep", [0, 100, 2000, -1])
    def test_cut_short(self, tmp_path: Path, keep: int) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        data = (tmp_path / "a.h5").read_bytes()
        (tmp_path / "a.h5").write_bytes(data[:keep])
        with pytest.raises(BagError, match="is not a complete bag"):
            read_bag(tmp_path / "a.h5")

    def test_other_hdf5(self, tmp_path: Path) -> None:
        h5py.File(tmp_path / "a.h5", "w").close()
        with pytest.raises(BagError, match="is an HDF5 file but no bag"):
            read_bag(tmp_path / "a.h5")

    def test_other_version(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file.attrs["format_version"] = 99
        with pytest.raises(BagError, match="has bag format 99, this program reads 1"):
            read_bag(tmp_path / "a.h5")

    @pytest.mark.parametrize("name", ["tiles", "x0", "score", "overview"])
    def test_part_missing(self, tmp_path: Path, name: str) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            del file[name]
        with pytest.raises(BagError, match="is not a complete bag"):
            read_bag(tmp_path / "a.h5")

    @pytest.mark.parametrize(("name", "value"), [("codec", "jxl"), ("spec", "[1]")])
    def test_attributes_of_no_use(self, tmp_path: Path, name: str, value: str) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file.attrs[name] = value
        with pytest.raises(BagError, match="which this program cannot use; delete it and tile its slide"):
            read_bag(tmp_path / "a.h5")

    def test_without_tiles(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag(0))
        with pytest.raises(BagError, match="0 of them"):
            read_bag(tmp_path / "a.h5")

    def test_lengths_differ(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", replace(make_bag(), x0=np.arange(7)))
        with pytest.raises(BagError, match="arrays of different lengths"):
            read_bag(tmp_path / "a.h5")
