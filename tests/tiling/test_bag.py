"""A bag comes back as it was written, or is refused with a sentence."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tiling.bag import (
    NO_TILES,
    Bag,
    BagHeader,
    Picked,
    differing,
    merged_ref,
    read_bag,
    read_header,
    read_merged,
    software,
    write_bag,
    write_merged,
)  # fmt: skip
from tiling.codec import CODECS, encode_overview
from tiling.errors import BagError
from tiling.resample import resize

RANDOM = np.random.default_rng(0)


def make_bag(tiles: int = 3, codec: str = "png", mpp: float | None = 0.5, train_px: int | None = None) -> Bag:
    """A bag of 16 px tiles of noise, its small copies brighter, so that they can be told apart."""
    pixels = RANDOM.integers(0, 255, (tiles, 16, 16, 3)).astype(np.uint8)
    header = BagHeader(
        "slide é", "/data/slide é.svs", 12345, 1000, 800, mpp, "file" if mpp else "", "aperio",
        {"size": 16, "mpp": None}, codec, tiles, 16, 7.5, 0.25, train_px,
    )  # fmt: skip

    def encode(tile: np.ndarray) -> bytes:
        return CODECS[codec].encode(tile, 90, 420)

    small = train_px and tuple(encode(resize(tile, (train_px, train_px)) // 2 + 128) for tile in pixels)
    return Bag(
        header,
        tuple(map(encode, pixels)),
        np.arange(tiles) * 16 - 8,
        np.arange(tiles) * 16,
        np.linspace(1, 0, tiles),
        np.full(tiles, 0.5),
        encode_overview(np.full((80, 100, 3), 240, np.uint8)),
        small or None,
    )


def assert_same(bag: Bag, other: Bag) -> None:
    """Both have the same header, pictures and arrays."""
    for name in ("header", "tiles", "small", "overview"):
        assert getattr(bag, name) == getattr(other, name), name
    for name in ("x0", "y0", "score", "tissue"):
        np.testing.assert_array_equal(getattr(bag, name), getattr(other, name))
        assert getattr(bag, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("tiles", [1, 3, 16])
@pytest.mark.parametrize("mpp", [0.5, None])
@pytest.mark.parametrize("codec", ["jpeg", "webp", "png", "raw"])
@pytest.mark.parametrize("train_px", [8, None])
def test_round_trip(tmp_path: Path, tiles: int, mpp: float | None, codec: str, train_px: int | None) -> None:
    bag = make_bag(tiles, codec, mpp, train_px)
    write_bag(tmp_path / "a.h5", bag)
    back = read_bag(tmp_path / "a.h5")
    assert_same(back, bag)
    assert back.header == read_header(tmp_path / "a.h5")
    assert (len(back), back.header.software) == (tiles, software())
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


def test_h5py_alone_can_read_raw_tiles(tmp_path: Path) -> None:
    bag = make_bag(codec="raw", train_px=8)
    write_bag(tmp_path / "a.h5", bag)
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["tiles"].shape, file["tiles"].dtype) == ((3, 16, 16, 3), np.uint8)
        assert (file["tiles"].chunks, file["small"].chunks) == ((1, 16, 16, 3), (1, 8, 8, 3))
        np.testing.assert_array_equal(file["tiles"][1], bag.tile(1))
        np.testing.assert_array_equal(file["small"][2], bag.tile(2, 8))
        assert file["small"].attrs["px"] == 8


class TestSmallCopies:
    def test_serve_up_to_their_size(self) -> None:
        bag = make_bag(codec="raw", train_px=8)
        assert bag.tiles is not None
        assert bag.small is not None
        tile, small = (CODECS["raw"].decode(each[1], 0) for each in (bag.tiles, bag.small))
        np.testing.assert_array_equal(bag.tile(1, 8), small)
        np.testing.assert_array_equal(bag.tile(1, 5), resize(small, (5, 5)))
        np.testing.assert_array_equal(bag.tile(1, 9), resize(tile, (9, 9)))
        np.testing.assert_array_equal(bag.tile(1), tile)

    @pytest.mark.parametrize("codec", ["jpeg", "raw"])
    def test_alone_are_read_where_they_serve(self, tmp_path: Path, codec: str) -> None:
        whole = make_bag(codec=codec, train_px=8)
        write_bag(tmp_path / "a.h5", whole)
        assert_same(read_bag(tmp_path / "a.h5", 9), whole)
        assert_same(read_bag(tmp_path / "a.h5", 8), replace(whole, tiles=None))
        np.testing.assert_array_equal(read_bag(tmp_path / "a.h5", 6).tile(0, 6), whole.tile(0, 6))

    @pytest.mark.parametrize("codec", ["jpeg", "raw"])
    def test_neither_they_nor_tiles_are_read_for_the_overview(self, tmp_path: Path, codec: str) -> None:
        whole = make_bag(codec=codec, train_px=8)
        write_bag(tmp_path / "a.h5", whole)
        assert_same(read_bag(tmp_path / "a.h5", NO_TILES), replace(whole, tiles=None, small=None))

    def test_are_not_needed(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        assert read_bag(tmp_path / "a.h5", 8).small is None
        assert read_bag(tmp_path / "a.h5", 8).tile(0, 8).shape == (8, 8, 3)


JPEG = {"size": 16, "codec": "jpeg", "quality": 90, "chroma": 420, "train_px": None}
MANIFEST = [{"slide_id": "bare", "path": "/x/bare.svs", "status": "empty", "tiles": 0, "error": "no tissue"}]


class TestDiffering:
    @pytest.mark.parametrize(
        ("change", "names"),
        [
            ({}, []),
            ({"size": 8, "quality": 80}, ["quality", "size"]),
            ({"chroma": 444}, ["chroma"]),
            ({"train_px": 8}, ["train_px"]),
            ({"codec": "raw"}, ["chroma", "codec", "quality"]),
            ({"new": 1}, ["new"]),
        ],
    )
    def test_what_makes_other_pixels(self, change: dict[str, object], names: list[str]) -> None:
        assert differing(JPEG, {**JPEG, **change}) == names

    def test_lossless_codecs_are_one(self) -> None:
        raw = {**JPEG, "codec": "raw"}
        assert differing(raw, {**raw, "codec": "webp", "quality": 50, "chroma": 444}) == []
        assert differing(raw, {**raw, "codec": "png", "train_px": 8}) == ["train_px"]


class TestMerged:
    def test_round_trip(self, tmp_path: Path) -> None:
        bags = {"ü b": make_bag(2), "a\udce9": make_bag(codec="raw", train_px=8)}
        write_merged(tmp_path / "all.h5", bags.items(), MANIFEST)
        assert read_merged(tmp_path / "all.h5") == (sorted(bags), MANIFEST)
        for name, bag in bags.items():
            assert_same(read_bag(merged_ref(tmp_path / "all.h5", name)), bag)
        assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]

    def test_group_has_the_structure_of_a_bag(self, tmp_path: Path) -> None:
        bag = make_bag(train_px=8)
        write_bag(tmp_path / "a.h5", bag)
        write_merged(tmp_path / "all.h5", [("a", bag)], MANIFEST)
        with h5py.File(tmp_path / "a.h5") as alone, h5py.File(tmp_path / "all.h5") as merged:
            group = merged["bags/a"]
            assert (merged.attrs["format"], merged.attrs["format_version"]) == ("gigabag-merged", 1)
            assert dict(group.attrs) == dict(alone.attrs)
            assert {(name, each.shape, each.dtype) for name, each in group.items()} == {
                (name, each.shape, each.dtype) for name, each in alone.items()
            }
            assert json.loads(merged["manifest"][()]) == MANIFEST

    def test_what_fails_leaves_nothing(self, tmp_path: Path) -> None:
        def bags() -> Iterator[tuple[str, Bag]]:
            yield "a", make_bag()
            raise BagError("no more")

        with pytest.raises(BagError, match="no more"):
            write_merged(tmp_path / "all.h5", bags(), [])
        assert list(tmp_path.iterdir()) == []

    def test_bag_that_is_not_in_it(self, tmp_path: Path) -> None:
        write_merged(tmp_path / "all.h5", [("a", make_bag())], [])
        with pytest.raises(BagError, match=r"'b' in '.*all\.h5' is not a complete bag .*; merge the bags again"):
            read_bag(merged_ref(tmp_path / "all.h5", "b"))

    def test_one_bag_is_no_merged_file(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        with pytest.raises(BagError, match=r"a\.h5' is one bag; give its folder, or a file that"):
            read_merged(tmp_path / "a.h5")

    def test_merged_file_is_no_bag(self, tmp_path: Path) -> None:
        write_merged(tmp_path / "all.h5", [("a", make_bag())], [])
        with pytest.raises(BagError, match="is an HDF5 file but no bag"):
            read_bag(tmp_path / "all.h5")


class TestTile:
    @pytest.mark.parametrize("codec", ["png", "jpeg", "webp", "raw"])
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

    def test_small_copies_are_fewer(self, tmp_path: Path) -> None:
        bag = make_bag(train_px=8)
        write_bag(tmp_path / "a.h5", replace(bag, small=(bag.small or ())[:2]))
        with pytest.raises(BagError, match="arrays of different lengths"):
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


def test_bag_says_who_picked_its_tiles(tmp_path: Path) -> None:
    bag = make_bag()
    assert bag.header.made == bag.header.spec
    picked = replace(bag, header=replace(bag.header, picked=Picked("0123abcd", "site é", 0.25, "attention")))
    write_bag(tmp_path / "a.h5", picked)
    assert_same(read_bag(tmp_path / "a.h5"), picked)
    assert read_header(tmp_path / "a.h5").made == {"size": 16, "mpp": None, "chipnet": "0123abcd"}
    with h5py.File(tmp_path / "a.h5") as file:
        said = {name: file.attrs[name] for name in file.attrs if name.startswith("picked")}
    assert said == {
        "picked_run": "0123abcd", "picked_folds": "site é", "picked_peakedness": 0.25, "picked_by": "attention",
    }  # fmt: skip
    assert differing(bag.header.made, picked.header.made) == ["chipnet"]


def spoilt(path: Path, change: Callable[[h5py.File], object]) -> str:
    """Why a bag cannot be read any more after a change."""
    write_bag(path, make_bag(train_px=8))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(BagError) as caught:
        read_bag(path)
    return str(caught.value)


def replaced(name: str, value: object) -> Callable[[h5py.File], object]:
    """Puts another dataset in the place of one, with its attributes."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = value
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            file[name].attrs.update(attributes)

    return change


class TestOfStrangers:
    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("x0", np.array([b"a"] * 3), "its x0 has the shape (3,) and type |S1, expected a number a tile"),
            ("x0", np.zeros(3), "its x0 has the shape (3,) and type float64"),
            ("y0", np.zeros((3, 2), int), "its y0 has the shape (3, 2) and type int64"),
            ("y0", np.array([0, 0, 2001]), "it has tiles far outside its slide of 1000 × 800 px"),
            ("x0", np.array([0, -1001, 0]), "it has tiles far outside its slide of 1000 × 800 px"),
            ("x0", np.array([2**63 - 1] * 3), "it has tiles far outside its slide of 1000 × 800 px"),
            ("score", np.array([1, np.nan, 0]), "it has scores that are no finite numbers"),
            ("tissue", np.array([0.5, 1.1, 0]), "shares of tissue that are not from 0 to 1"),
            ("tissue", np.array([0.5, np.nan, 0]), "shares of tissue that are not from 0 to 1"),
            ("overview", h5py.Empty("u1"), "its overview holds nothing"),
            ("overview", np.zeros(3), "its overview has the shape (3,) and type float64, which is no JPEG"),
            ("tiles", 3, "has tiles of codec 'png', 0 of them"),
            ("tiles", h5py.SoftLink("/small"), "its tiles is a link, and links are not followed"),
            (
                "overview",
                h5py.ExternalLink("other.h5", "/overview"),
                "its overview is a link, and links are not followed",
            ),
        ],
    )
    def test_datasets(self, tmp_path: Path, name: str, value: object, sentence: str) -> None:
        said = spoilt(tmp_path / "a.h5", replaced(name, value))
        assert sentence in said
        assert said.endswith("; delete it and tile its slide again")

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("width_px", -5, "its width_px is -5, expected a whole number from 1 to 2147483647"),
            ("height_px", 0, "its height_px is 0"),
            ("side0_px", 2**40, "its side0_px is 1099511627776"),
            ("side0_px", 1.5, "its side0_px is 1.5, expected a whole number"),
            ("slide_bytes", -1, "its slide_bytes is -1"),
            ("mpp", "abc", "its mpp is no number"),
            ("mpp", np.inf, "its mpp is inf, which is no number of µm per pixel"),
            ("mpp", -1.0, "its mpp is -1.0, which is no number of µm per pixel"),
            ("slide_path", "x" * 10**6, "its slide_path is a text of 1000000 bytes, of 4096 at most"),
            ("slide_path", np.bytes_(b"a\0b"), "its slide_path has a zero in its text"),
            ("vendor", 3, "its vendor is no text"),
            ("spec", "[" * 50_000, "is not a complete bag ("),
            ("spec", '{"size": "16"}', "its spec has the size '16', expected a whole number from 1 to 8192"),
            ("spec", '{"size": 100000}', "its spec has the size 100000, expected a whole number from 1 to 8192"),
            ("spec", '{"instances": true}', "its spec has the instances True, expected a whole number"),
            ("spec", '{"codec": []}', "its spec has the setting 'codec', which bags of tiles do not have so"),
            ("spec", '{"features": 3}', "its spec has the setting 'features', which bags of tiles do not have so"),
        ],
    )
    def test_attributes(self, tmp_path: Path, name: str, value: object, sentence: str) -> None:
        said = spoilt(tmp_path / "a.h5", lambda file: file.attrs.create(name, value))
        assert sentence in said
        assert len(said) < 1000

    @pytest.mark.parametrize(
        ("where", "name", "value"),
        [
            ("overview", "downsample", 0),
            ("overview", "downsample", np.nan),
            ("overview", "seen", 2),
            ("small", "px", 0),
        ],
    )
    def test_attributes_of_datasets(self, tmp_path: Path, where: str, name: str, value: float) -> None:
        said = spoilt(tmp_path / "a.h5", lambda file: file[where].attrs.create(name, value))
        assert f"the {name} of its {where} is {value}, expected a" in said

    @pytest.mark.parametrize("name", ["..", "../evil", "a/b"])
    def test_name_in_a_merged_file(self, tmp_path: Path, name: str) -> None:
        """h5py makes no such links, but files have them."""
        write_merged(tmp_path / "all.h5", [("Q" * len(name), make_bag())], [])
        data = (tmp_path / "all.h5").read_bytes()
        assert data.count(b"Q" * len(name)) == 1
        (tmp_path / "all.h5").write_bytes(data.replace(b"Q" * len(name), name.encode()))
        with pytest.raises(BagError, match=f"has a bag of the name '{name}', which cannot be the name of a file"):
            read_merged(tmp_path / "all.h5")

    @pytest.mark.parametrize("rows", ["{}", "[1]", "[" * 10**5, '"a"', "no"])
    def test_manifest_in_a_merged_file(self, tmp_path: Path, rows: str) -> None:
        write_merged(tmp_path / "all.h5", [("a", make_bag())], [])
        with h5py.File(tmp_path / "all.h5", "r+") as file:
            del file["manifest"]
            file["manifest"] = rows
        with pytest.raises(BagError, match="is not a complete merged file"):
            read_merged(tmp_path / "all.h5")

    @pytest.mark.parametrize("codec", ["jpeg", "png", "webp"])
    def test_picture_of_another_size_is_not_decoded(self, codec: str) -> None:
        other = CODECS[codec].encode(np.zeros((24, 16, 3), np.uint8), 90, 420)
        bag = replace(make_bag(1, codec), tiles=(other,))
        for px in (None, 8):
            with pytest.raises(
                BagError, match=r"tile 0 .* cannot be decoded \(it has 16 × 24 px, expected a side of 16\)"
            ):
                bag.tile(0, px)

    def test_raw_tiles_of_another_size(self, tmp_path: Path) -> None:
        bag = make_bag(1, "raw")
        write_bag(tmp_path / "a.h5", replace(bag, header=replace(bag.header, spec={"size": 8})))
        with pytest.raises(
            BagError, match=r"its tiles have the shape \(1, 16, 16, 3\) and type uint8, which are no tiles"
        ):
            read_bag(tmp_path / "a.h5")

    def test_overview_that_claims_to_be_large(self) -> None:
        large = CODECS["jpeg"].encode(np.zeros((8, 4104, 3), np.uint8), 90, 420)
        with pytest.raises(BagError, match="it has 4104 × 8 px, and an overview at most 4096 each"):
            replace(make_bag(1), overview=large).overview_rgb()
