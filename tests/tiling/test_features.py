"""Feature files as CLAM, TRIDENT and STAMP write them, read exactly; what cannot be used is refused in one sentence."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.tiling.test_bag import make_bag
from tiling.bag import BagRef, differing, write_bag, write_merged
from tiling.bags import NO_FILE, open_bags
from tiling.errors import BagError
from tiling.features import FeatureHeader, is_features, read_feature_header, read_features, write_features

FEATURES_NC = np.array([[1.5, -2, 0], [3, 0.25, 7]], np.float32)
COORDS_N2 = np.array([[512, 0], [1024, 4096]])


def make(path: Path, attributes: dict[str, dict[str, Any]] | None = None, **datasets: Any) -> BagRef:
    """A file of these datasets; attributes by dataset, those of the file itself under ''."""
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
        for name, values in (attributes or {}).items():
            (file[name] if name else file).attrs.update(values)
    return BagRef(path)


def made_by_trident(path: Path, side0_px: int = 512, encoder: str = "uni_v1") -> BagRef:
    """As `WSI.extract_patch_features` saves it, for a slide at 40x reduced to 20x."""
    attributes = {
        "features": {"name": "slide", "savetodir": f"/job/20x_256px_0px_overlap/features_{encoder}"},
        "coords": {
            "patch_size": 256, "patch_size_level0": side0_px, "level0_magnification": side0_px * 20 // 256,
            "target_magnification": 20, "overlap": 0, "name": "slide", "savetodir": "/job/20x_256px_0px_overlap",
            "level0_width": 4096, "level0_height": 8192,
        },
    }  # fmt: skip
    return make(path, attributes, features=FEATURES_NC, coords=COORDS_N2)


def made_by_clam(path: Path, batches: int = 2) -> BagRef:
    """As `extract_features_fp.py` saves it: rows are appended batch by batch, a chunk each, without attributes."""
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (0, 3), np.float32, maxshape=(None, 3), chunks=(1, 3))
        coords = file.create_dataset("coords", (0, 2), np.int32, maxshape=(None, 2), chunks=(1, 2))
        for _ in range(batches):
            for dataset, rows in ((features, FEATURES_NC), (coords, COORDS_N2)):
                dataset.resize(len(dataset) + len(rows), axis=0)
                dataset[-len(rows) :] = rows
    return BagRef(path)


def made_by_stamp(path: Path) -> BagRef:
    attributes = {
        "stamp_version": "2.1.0", "extractor": "ctranspath", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224,
        "code_hash": "0a1b2c3d", "feat_type": "tile",
    }  # fmt: skip
    coords_um = np.array([[0, 256], [256, 512]], np.float32)
    return make(path, {"": attributes}, feats=FEATURES_NC.astype(np.float16), coords=coords_um)


class TestRead:
    def test_trident(self, tmp_path: Path) -> None:
        ref = made_by_trident(tmp_path / "TCGA-1.a.h5")
        spec = {"features": 3, "encoder": "uni_v1", "patch_size": 256, "target_magnification": 20}
        assert is_features(ref)
        assert read_feature_header(ref) == FeatureHeader("TCGA-1.a", 2, 3, spec)
        bag = read_features(ref)
        assert bag.header == read_feature_header(ref)
        assert len(bag) == 2
        assert bag.features_NC.dtype == np.float32
        assert bag.features_NC.tolist() == FEATURES_NC.tolist()
        assert bag.coords_N2 is not None
        assert bag.coords_N2.dtype == np.int64
        assert bag.coords_N2.tolist() == COORDS_N2.tolist()
        assert bag.side0_px == 512.0

    def test_clam(self, tmp_path: Path) -> None:
        ref = made_by_clam(tmp_path / "slide.h5")
        assert read_feature_header(ref) == FeatureHeader("slide", 4, 3, {"features": 3, "encoder": None})
        bag = read_features(ref)
        assert bag.features_NC.tolist() == [*FEATURES_NC.tolist(), *FEATURES_NC.tolist()]
        assert bag.coords_N2 is not None
        assert bag.coords_N2.tolist() == [*COORDS_N2.tolist(), *COORDS_N2.tolist()]
        assert bag.side0_px is None

    def test_clam_with_the_attributes_of_its_patches(self, tmp_path: Path) -> None:
        attributes = {"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0])}
        ref = make(tmp_path / "a.h5", {"coords": attributes}, features=FEATURES_NC, coords=COORDS_N2)
        assert read_features(ref).side0_px == 1024.0
        assert read_feature_header(ref).spec == {"features": 3, "encoder": None}

    def test_stamp(self, tmp_path: Path) -> None:
        """Its coordinates are µm, which the file alone cannot turn into pixels."""
        bag = read_features(made_by_stamp(tmp_path / "slide.h5"))
        spec = {"features": 3, "encoder": "ctranspath", "tile_size_um": 256.0, "tile_size_px": 224}
        assert bag.header == FeatureHeader("slide", 2, 3, spec)
        assert bag.features_NC.dtype == np.float32
        assert bag.features_NC.tolist() == FEATURES_NC.tolist()
        assert bag.coords_N2 is None
        assert bag.side0_px is None

    def test_leading_axis_of_one(self, tmp_path: Path) -> None:
        bag = read_features(make(tmp_path / "a.h5", features=FEATURES_NC[None], coords=COORDS_N2[None]))
        assert bag.features_NC.tolist() == FEATURES_NC.tolist()
        assert bag.coords_N2 is not None
        assert bag.coords_N2.tolist() == COORDS_N2.tolist()

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", np.int16, np.uint8])
    def test_types(self, tmp_path: Path, dtype: Any) -> None:
        values = np.array([[1, 2], [250, 0]]).astype(dtype)
        bag = read_features(make(tmp_path / "a.h5", features=values))
        assert bag.features_NC.dtype == np.float32
        assert bag.features_NC.tolist() == [[1, 2], [250, 0]]
        assert bag.coords_N2 is None

    def test_packed(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("features", data=np.zeros((5000, 512), np.float32), compression="gzip")
        assert read_features(BagRef(tmp_path / "a.h5")).features_NC.shape == (5000, 512)


class TestWhichGoTogether:
    def test_scanners_do_not_matter(self, tmp_path: Path) -> None:
        first, other = made_by_trident(tmp_path / "a.h5", 512), made_by_trident(tmp_path / "b.h5", 256)
        assert differing(read_feature_header(first).spec, read_feature_header(other).spec) == []

    def test_encoders_do(self, tmp_path: Path) -> None:
        first, other = made_by_trident(tmp_path / "a.h5"), made_by_trident(tmp_path / "b.h5", encoder="conch_v1")
        assert differing(read_feature_header(first).spec, read_feature_header(other).spec) == ["encoder"]

    def test_channels_and_scales_do(self, tmp_path: Path) -> None:
        write_features(tmp_path / "a.h5", FEATURES_NC, COORDS_N2, patch_size=256, target_magnification=20)
        write_features(tmp_path / "b.h5", FEATURES_NC[:, :2], COORDS_N2, patch_size=256, target_magnification=10)
        specs = [read_feature_header(BagRef(tmp_path / name)).spec for name in ("a.h5", "b.h5")]
        assert differing(*specs) == ["features", "target_magnification"]

    def test_features_and_tiles_do_not(self, tmp_path: Path) -> None:
        spec = read_feature_header(made_by_clam(tmp_path / "a.h5")).spec
        assert "features" in differing(spec, make_bag().header.spec)


class TestWrite:
    def test_round_trip(self, tmp_path: Path) -> None:
        write_features(
            tmp_path / "a.h5", FEATURES_NC, COORDS_N2, encoder="mine", patch_size=256, patch_size_level0=1024.0,
            target_magnification=5,
        )  # fmt: skip
        bag = read_features(BagRef(tmp_path / "a.h5"))
        spec = {"features": 3, "encoder": "mine", "patch_size": 256, "target_magnification": 5}
        assert bag.header == FeatureHeader("a", 2, 3, spec)
        assert bag.features_NC.tolist() == FEATURES_NC.tolist()
        assert bag.coords_N2 is not None
        assert bag.coords_N2.tolist() == COORDS_N2.tolist()
        assert bag.side0_px == 1024.0

    def test_without_coordinates(self, tmp_path: Path) -> None:
        write_features(tmp_path / "a.h5", FEATURES_NC, patch_size=256)
        with h5py.File(tmp_path / "a.h5") as file:
            assert list(file) == ["features"]
            assert dict(file["features"].attrs) == {"patch_size": 256}
        assert read_features(BagRef(tmp_path / "a.h5")).coords_N2 is None

    def test_same_bytes_and_nothing_beside(self, tmp_path: Path) -> None:
        for name in ("a.h5", "b.h5"):
            write_features(tmp_path / name, FEATURES_NC, COORDS_N2, encoder="mine")
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]

    def test_whole_or_not_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            write_features(tmp_path / "a.h5", FEATURES_NC, encoder=object())  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []


class TestIsFeatures:
    def test_of_others(self, tmp_path: Path) -> None:
        assert is_features(made_by_clam(tmp_path / "clam.h5"))
        assert is_features(made_by_stamp(tmp_path / "stamp.h5"))

    def test_not_of_ours(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        write_merged(tmp_path / "all.h5", [("a", make_bag())], [])
        assert not is_features(BagRef(tmp_path / "a.h5"))
        assert not is_features(BagRef(tmp_path / "all.h5", "/bags/a"))
        assert not is_features(make(tmp_path / "patches.h5", coords=COORDS_N2))

    def test_not_openable(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_bytes(b"no HDF5")
        with pytest.raises(BagError, match=r"a.h5' is not a complete HDF5 file .*; delete it and make it again"):
            is_features(BagRef(tmp_path / "a.h5"))


class TestRefused:
    @pytest.mark.parametrize(
        ("datasets", "message"),
        [
            ({"coords": COORDS_N2}, "is an HDF5 file without features; give the folder of the files"),
            ({"features": np.ones(3)}, r"features of the shape \(3,\), expected \(instances, channels\)"),
            ({"features": np.ones((2, 2, 3))}, r"features of the shape \(2, 2, 3\), expected"),
            ({"features": np.ones((1, 1, 2, 3))}, r"features of the shape \(1, 1, 2, 3\), expected"),
            ({"features/inner": FEATURES_NC}, "its features is no dataset"),
            ({"features": np.ones((0, 3))}, r"no instances: its features have the shape \(0, 3\)"),
            ({"feats": np.ones((2, 0))}, r"no instances: its feats have the shape \(2, 0\)"),
            ({"features": np.array([[b"a"]])}, r"features of the type \|S1, expected float16 or float32"),
            ({"features": np.ones((1, 2), complex)}, "features of the type complex128"),
            ({"features": FEATURES_NC, "coords": COORDS_N2[:1]}, r"coords of the shape \(1, 2\) .*expected \(2, 2\)"),
            ({"features": FEATURES_NC, "coords": COORDS_N2.T[0]}, r"coords of the shape \(2,\)"),
            ({"features": FEATURES_NC, "coords": [[0, np.nan], [1, 1]]}, "coords that are no finite numbers"),
        ],
    )
    def test_shapes_and_types(self, tmp_path: Path, datasets: dict[str, Any], message: str) -> None:
        with pytest.raises(BagError, match=message):
            read_features(make(tmp_path / "a.h5", **datasets))

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, value: float, dtype: Any) -> None:
        values = np.ones((5, 3), dtype)
        values[[1, 4], [2, 0]] = value
        ref = make(tmp_path / "a.h5", features=values)
        assert read_feature_header(ref).instances == 5
        with pytest.raises(BagError, match=r"no finite numbers in 2 of 5 instances, the first is 1; extract them"):
            read_features(ref)

    def test_more_than_float32_holds(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="in 1 of 2 instances, the first is 0"):
            read_features(make(tmp_path / "a.h5", features=[[1e300], [1.0]]))

    def test_truncated(self, tmp_path: Path) -> None:
        made_by_clam(tmp_path / "whole.h5")
        data = (tmp_path / "whole.h5").read_bytes()
        (tmp_path / "a.h5").write_bytes(data[: len(data) - 8])
        with pytest.raises(BagError, match=r"not a complete feature file .*truncated.*; delete it and extract"):
            read_features(BagRef(tmp_path / "a.h5"))

    def test_rows_claimed_but_never_written(self, tmp_path: Path) -> None:
        """A writer that dies between making room and filling it leaves rows that HDF5 reads as zeros."""
        ref = made_by_clam(tmp_path / "a.h5")
        with h5py.File(ref.path, "r+") as file:
            file["features"].resize(6, axis=0)
        with pytest.raises(
            BagError, match=r"incomplete: its features of the shape \(6, 3\) would take 72 bytes, and 48"
        ):
            read_feature_header(ref)

    @pytest.mark.parametrize("packing", [None, "gzip"])
    def test_terabytes_in_a_small_file(self, tmp_path: Path, packing: str | None) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("features", (10**9, 1024), np.float32, chunks=(1024, 1024), compression=packing)
            file["features"][0] = 1
        with pytest.raises(BagError, match="would take 4096000000000 bytes"):
            read_features(BagRef(tmp_path / "a.h5"))

    def test_bag_of_tiles(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        with pytest.raises(BagError, match="is an HDF5 file without features"):
            read_feature_header(BagRef(tmp_path / "a.h5"))

    def test_gone(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="no such feature file: "):
            read_features(BagRef(tmp_path / "a.h5"))

    def test_damaged_inside(self, tmp_path: Path) -> None:
        ref = make(tmp_path / "a.h5", features=FEATURES_NC)
        data = ref.path.read_bytes()
        ref.path.write_bytes(data.replace(b"TREE", b"XXXX"))
        with pytest.raises(BagError, match="is not a complete feature file"):
            read_features(ref)


class TestFolder:
    def test_of_trident(self, tmp_path: Path) -> None:
        for name in ("b", "a.1"):
            made_by_trident(tmp_path / f"{name}.h5")
        for name in ("_config_feats_uni_v1.json", "_logs_feats_uni_v1.txt", "c.h5.lock", "d.pt"):
            (tmp_path / name).write_text("")
        bags = open_bags(tmp_path)
        assert list(bags.refs) == ["a.1", "b"]
        assert [read_feature_header(ref).slide_id for ref in bags.refs.values()] == ["a.1", "b"]
        assert bags.why_missing("c") == NO_FILE

    def test_of_clam(self, tmp_path: Path) -> None:
        """The folder that CLAM is given has the files in a folder of their own."""
        (tmp_path / "h5_files").mkdir()
        (tmp_path / "pt_files").mkdir()
        ref = made_by_clam(tmp_path / "h5_files" / "a.h5")
        assert open_bags(tmp_path).refs == open_bags(tmp_path / "h5_files").refs == {"a": ref}
