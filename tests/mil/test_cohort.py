"""Labels and bags that do not match are said aloud."""

import shutil
from pathlib import Path

import pytest

from mil.cohort import gather, match
from mil.errors import LabelsError
from mil.labels import Labels, read_labels
from tests.conftest import TILING_FLAGS, CohortFiles
from tiling import merge
from tiling.bag import BagRef
from tiling.errors import BagError, InputError
from tiling.manifest import NOT_TILED, ManifestRow, write_manifest


@pytest.fixture
def folder(bags: Path, tmp_path: Path) -> Path:
    """A copy of the bags to spoil."""
    return Path(shutil.copytree(bags, tmp_path / "bags"))


@pytest.fixture
def labels(cohort: CohortFiles) -> Labels:
    return read_labels(cohort.labels)


def test_all_match(labels: Labels, folder: Path) -> None:
    found = gather(labels, folder, skip_missing=False)
    assert [ref.path.stem for ref in found.bags] == found.labels.table["slide_id"].tolist()
    assert (found.bag_spec["size"], found.bag_spec["instances"]) == (32, 6)
    assert (len(found.missing), found.unlabelled) == (0, [])


def test_slide_without_a_bag(labels: Labels, folder: Path) -> None:
    (folder / "s03.h5").unlink()
    (folder / "s04.h5").unlink()
    write_manifest(folder, {"s03": ManifestRow("s03", "/x/s03.svs", "failed", 0, 0.0, "it is cut short")})
    with pytest.raises(
        LabelsError, match=r"2 of the labelled slides have no bag .* 's03' \(it is cut short\); tile them"
    ):
        gather(labels, folder, skip_missing=False)
    found = gather(labels, folder, skip_missing=True)
    assert len(found.labels) == len(found.bags) == 10
    assert found.missing[["slide_id", "error"]].to_numpy().tolist() == [
        ["s03", "it is cut short"],
        ["s04", NOT_TILED],
    ]


def test_bag_without_a_label(labels: Labels, folder: Path) -> None:
    shutil.copy(folder / "s00.h5", folder / "other.h5")
    found = gather(labels, folder, skip_missing=False)
    assert found.unlabelled == ["other"]
    assert len(found.bags) == 12


def test_no_slide_has_a_bag(labels: Labels, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="no slide of the labels table has a bag in"):
        gather(labels, tmp_path, skip_missing=True)


def test_class_without_a_bag(labels: Labels, folder: Path) -> None:
    for index in range(1, 12, 2):
        (folder / f"s{index:02d}.h5").unlink()
    with pytest.raises(LabelsError, match="no slide with the label 'tumour' has a bag"):
        gather(labels, folder, skip_missing=True)


def test_missing_folder(labels: Labels, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder of bags: .*nowhere"):
        gather(labels, tmp_path / "nowhere", skip_missing=False)


def test_bags_of_different_specs(labels: Labels, folder: Path, cohort: CohortFiles) -> None:
    from tiling.__main__ import main

    flags = [*TILING_FLAGS, "--overwrite", "--quality", "50"]
    assert main([str(cohort.slides / "s05.tiff"), "--out", str(folder), *flags]) == 0
    with pytest.raises(LabelsError, match=r"the bags '.*s00.h5' and '.*s05.h5' were made with different quality"):
        gather(labels, folder, skip_missing=False)


def test_lossless_bags_of_any_codec_go_together(labels: Labels, cohort: CohortFiles, tmp_path: Path) -> None:
    from tiling.__main__ import main

    slides = sorted(cohort.slides.iterdir())
    flags = ["--out", str(tmp_path), *TILING_FLAGS]
    assert main([*map(str, slides[:6]), *flags, "--codec", "raw", "--quality", "50"]) == 0
    assert main([*map(str, slides[6:]), *flags, "--codec", "webp", "--chroma", "444"]) == 0
    assert len(gather(labels, tmp_path, skip_missing=False).bags) == 12


def test_bags_with_and_without_small_copies(labels: Labels, folder: Path, cohort: CohortFiles) -> None:
    from tiling.__main__ import main

    flags = [*TILING_FLAGS, "--overwrite", "--train-px", "16"]
    assert main([str(cohort.slides / "s05.tiff"), "--out", str(folder), *flags]) == 0
    with pytest.raises(LabelsError, match=r"'.*s05.h5' were made with different train_px; make the bags"):
        gather(labels, folder, skip_missing=False)


def test_merged_file_is_as_good_as_the_folder(labels: Labels, folder: Path, tmp_path: Path) -> None:
    (folder / "s03.h5").unlink()
    write_manifest(folder, {"s03": ManifestRow("s03", "/x/s03.svs", "failed", 0, 0.0, "it is cut short")})
    shutil.copy(folder / "s00.h5", folder / "other.h5")
    merged = tmp_path / "all.h5"
    assert merge.main([str(folder), "--out", str(merged)]) == 0
    one, other = (gather(labels, path, skip_missing=True) for path in (folder, merged))
    assert other.bags[0] == BagRef(merged, "/bags/s00")
    assert (one.bag_spec, one.unlabelled) == (other.bag_spec, other.unlabelled)
    assert one.labels.table.equals(other.labels.table)
    assert one.missing.equals(other.missing)
    with pytest.raises(LabelsError, match=r"the first is 's03' \(it is cut short\)"):
        gather(labels, merged, skip_missing=False)


def test_damaged_bag(labels: Labels, folder: Path) -> None:
    (folder / "s02.h5").write_bytes(b"nothing")
    with pytest.raises(BagError, match=r"s02\.h5' is not a complete bag"):
        gather(labels, folder, skip_missing=False)


def test_all_that_is_wrong_is_found_at_once(labels: Labels, folder: Path, cohort: CohortFiles) -> None:
    from tiling.__main__ import main

    flags = [*TILING_FLAGS, "--overwrite", "--quality", "50"]
    assert main([*(str(cohort.slides / f"s{k:02d}.tiff") for k in (5, 6)), "--out", str(folder), *flags]) == 0
    (folder / "s00.h5").write_bytes(b"nothing")
    (folder / "s02.h5").unlink()
    (folder / "s03.h5").write_bytes(b"nothing")
    found, problems = match(labels, folder, skip_missing=False)
    assert [type(problem) for problem in problems] == [LabelsError, BagError, BagError, LabelsError]
    for problem, words in zip(problems, ("first is 's02'", "s00.h5'", "s03.h5'", "different quality"), strict=True):
        assert words in str(problem)
    assert found is not None
    assert found.labels.table["slide_id"].tolist() == ["s01", "s04", "s07", "s08", "s09", "s10", "s11"]
    assert [ref.path.stem for ref in found.bags] == found.labels.table["slide_id"].tolist()
    assert found.sizes == [6] * 7
