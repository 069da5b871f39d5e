"""Reselecting makes the bags that tiling would, and reads of slides only what is new."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.chipnet import make_chipnet
from tests.conftest import CohortFiles, make_cohort, paint
from tiling import __main__ as tile
from tiling import merge, reselect
from tiling.bag import read_bag, write_bag
from tiling.errors import BagError
from tiling.manifest import ManifestRow, read_manifest, write_manifest
from tiling.reselect import grid_of
from tiling.slide import write_pyramid
from tiling.spec import TileSpec

FLAGS = ["--size", "32", "--downsample", "1", "--workers", "1"]
pytestmark = pytest.mark.usefixtures("chipnets")


@pytest.fixture
def files(tmp_path: Path) -> CohortFiles:
    """Four slides, the odd ones with a dark square at (64, 64)."""
    return make_cohort(tmp_path, 4)


@pytest.fixture
def tiled(files: CohortFiles, tmp_path: Path) -> Path:
    """Their bags by tissue."""
    assert tile.main([str(files.slides), "--out", str(tmp_path / "bags"), *FLAGS]) == 0
    return tmp_path / "bags"


@pytest.fixture
def chipnet(tmp_path: Path) -> Path:
    """It looks at the upper left, where tissue is."""
    map_GG = np.full((7, 7), 0.001)
    map_GG[1, 1], map_GG[2, 1], map_GG[2, 3] = 4, 2, 1
    return make_chipnet(tmp_path / "chipnet", map_GG, s01="1", s02="0")


def run(*words: object) -> int:
    return reselect.main([*map(str, words), "--workers", "1"])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def corners(path: Path) -> list[tuple[int, int]]:
    bag = read_bag(path)
    return list(zip(bag.x0.tolist(), bag.y0.tolist(), strict=True))


@pytest.mark.parametrize(
    "flags",
    [
        ["--rank", "attention"],
        ["--rank", "attention", "--instances", "3", "--attention-share", "0.5", "--min-distance", "1.5"],
        ["--rank", "attention", "--min-tissue", "0.9"],
        ["--rank", "box"],
    ],
)
@pytest.mark.parametrize("more", [[], ["--codec", "raw", "--train-px", "16"]])
def test_same_bytes_as_tiling(
    files: CohortFiles, chipnet: Path, tmp_path: Path, flags: list[str], more: list[str]
) -> None:
    picking = [*flags, "--chipnet", str(chipnet)]
    assert tile.main([str(files.slides), "--out", str(tmp_path / "old"), "--instances", "4", *FLAGS, *more]) == 0
    instances = [] if {"--instances", "box"} & {*flags} else ["--instances", "4"]
    assert tile.main([str(files.slides), "--out", str(tmp_path / "new"), *instances, *FLAGS, *more, *picking]) == 0
    assert run(tmp_path / "old", "--out", tmp_path / "again", *picking) == 0
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "new")
    assert len(bytes_of(tmp_path / "new")) == 4
    votes = [read_bag(path).header.picked.folds for path in sorted((tmp_path / "new").glob("*.h5"))]  # type: ignore[union-attr]
    assert votes == ["all", "1", "0", "all"]


def test_slides_are_opened_only_for_new_tiles(
    tiled: Path, files: CohortFiles, chipnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old bags have all cells with tissue, so that attention only puts them into another order."""
    shutil.rmtree(files.slides)
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet) == 0
    for path in sorted(tiled.glob("*.h5")):
        old, new = read_bag(path), read_bag(tmp_path / "new" / path.name)
        assert {*corners(path)} == {*corners(tmp_path / "new" / path.name)}
        assert {*(old.tiles or ())} == {*(new.tiles or ())}
    assert corners(tmp_path / "new" / "s01.h5")[:2] == [(32, 32), (64, 32)] != corners(tiled / "s01.h5")[:2]
    # A box is a tile that no bag has.
    assert run(tiled, "--out", tmp_path / "boxes", "--chipnet", chipnet, "--rank", "box") == 1
    rows = read_manifest(tmp_path / "boxes")
    assert [(row.status, row.tiles) for row in rows.values()] == [("failed", 0)] * 4
    assert "no such file (any more)" in rows["s00"].error


def test_slides_that_were_moved(tiled: Path, files: CohortFiles, chipnet: Path, tmp_path: Path) -> None:
    moved = files.slides.rename(tmp_path / "moved")
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, "--rank", "box", "--slides", moved) == 0
    assert read_bag(tmp_path / "new" / "s00.h5").header.slide_path == str(moved / "s00.tiff")


def test_slides_table_says_whose_slides_they_are(tiled: Path, files: CohortFiles, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide_id,path,patient_id\ns03,{files.slides / 's03.tiff'},p1\n")
    chipnet = make_chipnet(tmp_path / "by patient", np.eye(7), p1="4")
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, "--slides", table) == 0
    votes = [read_bag(tmp_path / "new" / f"{name}.h5").header.picked for name in ("s02", "s03")]
    assert [vote and vote.folds for vote in votes] == ["all", "4"]


def test_slides_that_may_be_of_a_patient_of_the_training_are_named(
    tiled: Path, files: CohortFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once by either command, and of slides in folders and tables alike."""
    chipnet = make_chipnet(tmp_path / "chipnet", np.eye(7), s00="0", s01="1", p3="1")
    sentence = (
        "2 of 4 slides are new to the ChipNet run and have no patient_id, so all its folds look at them: s02, s03. If "
        "it was trained on a patient among theirs, give a slides table with slide_id, path and patient_id: only the "
        "fold that has not seen the patient must look\n"
    )
    picking = ["--rank", "attention", "--chipnet", str(chipnet)]
    capsys.readouterr()
    assert tile.main([str(files.slides), "--out", str(tmp_path / "new"), *FLAGS, *picking]) == 0
    assert capsys.readouterr().err.count(sentence) == 1
    assert run(tiled, "--out", tmp_path / "again", *picking) == 0
    assert capsys.readouterr().err.count(sentence) == 1
    table = tmp_path / "slides.csv"
    rows = [f"s02,{files.slides / 's02.tiff'},p2", f"s03,{files.slides / 's03.tiff'},p3"]
    table.write_text("\n".join(["slide_id,path,patient_id", *rows]))
    assert run(tiled, "--out", tmp_path / "known", *picking, "--slides", table) == 0
    assert "new to the ChipNet" not in capsys.readouterr().err
    votes = [read_bag(tmp_path / "known" / f"s0{number}.h5").header.picked for number in range(4)]
    assert [vote and vote.folds for vote in votes] == ["0", "1", "all", "1"]


def test_every_slide_keeps_its_row(tiled: Path, chipnet: Path, tmp_path: Path) -> None:
    (tiled / "s00.h5").unlink()
    (tiled / "s01.h5").write_bytes(b"no bag")
    before = read_manifest(tiled)
    bare = ManifestRow("bare", "/x/bare.svs", "empty", 0, 0.5, "no tissue was found")
    write_manifest(tiled, {**before, "bare": bare})
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet) == 1
    rows = read_manifest(tmp_path / "new")
    assert {name: row.status for name, row in rows.items()} == {
        "bare": "empty", "s00": "failed", "s01": "failed", "s02": "done", "s03": "done",
    }  # fmt: skip
    assert rows["bare"] == bare
    assert rows["s00"].error == "its bag is gone; tile it again"
    assert "s01.h5' is not a complete bag" in rows["s01"].error


def test_takes_up_where_it_stopped(tiled: Path, chipnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    assert run(tiled, "--out", out, "--chipnet", chipnet) == 0
    before = bytes_of(out)
    (out / "s02.h5").unlink()
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert run(tiled, "--out", out, "--chipnet", chipnet) == 0
    assert bytes_of(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_merged_bags_and_shards(tiled: Path, chipnet: Path, tmp_path: Path) -> None:
    assert merge.main([str(tiled), "--out", str(tmp_path / "all.h5")]) == 0
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet) == 0
    for shard in ("1/2", "2/2"):
        assert run(tmp_path / "all.h5", "--out", tmp_path / "parts", "--chipnet", chipnet, "--shard", shard) == 0
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "new")
    assert {path.name for path in (tmp_path / "parts").glob("*.csv")} == {"manifest-1-of-2.csv", "manifest-2-of-2.csv"}


def test_picked_bags_can_be_picked_again(tiled: Path, chipnet: Path, tmp_path: Path) -> None:
    other = make_chipnet(tmp_path / "other", np.eye(7)[::-1])
    assert run(tiled, "--out", tmp_path / "once", "--chipnet", other, "--rank", "box") == 0
    assert run(tmp_path / "once", "--out", tmp_path / "twice", "--chipnet", chipnet) == 0
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet) == 0
    assert bytes_of(tmp_path / "twice") == bytes_of(tmp_path / "new")


def test_scale_by_magnification(files: CohortFiles, chipnet: Path, tmp_path: Path) -> None:
    flags = ["--size", "32", "--magnification", "9", "--workers", "1"]  # 1 µm/px is 10 times: cells of 36 px
    assert tile.main([str(files.slides), "--out", str(tmp_path / "old"), *flags]) == 0
    picking = ["--rank", "attention", "--chipnet", str(chipnet)]
    assert tile.main([str(files.slides), "--out", str(tmp_path / "new"), *flags, *picking]) == 0
    assert run(tmp_path / "old", "--out", tmp_path / "again", *picking) == 0
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "new")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda bag: replace(bag, x0=bag.x0 + 5), "the tiles of bag 's00' do not lie on the grid of its settings"),
        (
            lambda bag: replace(bag, header=replace(bag.header, slide_bytes=7), x0=bag.x0[:1], y0=bag.y0[:1]),
            "arrays of different lengths",
        ),
    ],
)
def test_bags_that_cannot_be(
    tiled: Path, chipnet: Path, tmp_path: Path, spoil: Callable[[object], object], sentence: str
) -> None:
    write_bag(tiled / "s00.h5", spoil(read_bag(tiled / "s00.h5")))  # type: ignore[arg-type]
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet) == 1
    assert sentence in read_manifest(tmp_path / "new")["s00"].error


def test_slide_that_has_changed(tiled: Path, files: CohortFiles, chipnet: Path, tmp_path: Path) -> None:
    write_pyramid(files.slides / "s00.tiff", paint(300, 200), mpp=1.0)
    assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, "--rank", "box") == 1
    assert "is not the file any more that was tiled" in read_manifest(tmp_path / "new")["s00"].error


class TestWrongInput:
    def said(self, capsys: pytest.CaptureFixture[str], *words: object) -> str:
        assert run(*words) == 2
        return capsys.readouterr().err

    def test_without_a_chipnet(self, tiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.said(capsys, tiled, "--out", tmp_path / "new")
        assert "--rank attention needs a ChipNet that looks at the slides; give --chipnet RUN" in said
        assert "no such run" in self.said(capsys, tiled, "--out", tmp_path / "new", "--chipnet", tmp_path / "nothing")
        assert not (tmp_path / "new").exists()

    def test_into_the_same_folder(self, tiled: Path, chipnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "is where the bags are; choose another folder" in self.said(
            capsys, tiled, "--out", tiled, "--chipnet", chipnet
        )

    def test_other_bags_there(
        self, tiled: Path, chipnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = (tiled, "--out", tmp_path / "new", "--chipnet")
        assert run(*words, chipnet) == 0
        other = make_chipnet(tmp_path / "other", np.eye(7))
        assert "s00.h5' was made with another chipnet; choose another --out" in self.said(capsys, *words, other)
        said = self.said(capsys, *words, chipnet, "--attention-share", "0.5")
        assert "s00.h5' was made with another attention_share;" in said
        assert run(*words, other, "--overwrite") == 0

    def test_whole_pictures(
        self, files: CohortFiles, chipnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole = ["--whole", "black", "--size", "32", "--workers", "1"]
        assert tile.main([str(files.slides), "--out", str(tmp_path / "old"), *whole]) == 0
        said = self.said(capsys, tmp_path / "old", "--out", tmp_path / "new", "--chipnet", chipnet)
        assert "has bags of whole pictures, which are one tile each: there is none to pick" in said

    def test_no_bags(self, chipnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty").mkdir()
        said = self.said(capsys, tmp_path / "empty", "--out", tmp_path / "new", "--chipnet", chipnet)
        assert "holds no bags; make them with `python -m tiling`" in said


class TestPathsInBags:
    """They are followed into the folder that has bags and slides, and no further."""

    def with_path(self, bags: Path, path: object) -> None:
        bag = read_bag(bags / "s02.h5")
        write_bag(bags / "s02.h5", replace(bag, header=replace(bag.header, slide_path=str(path))))

    def test_elsewhere(
        self, tiled: Path, files: CohortFiles, chipnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:  # fmt: skip
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        slide = Path(shutil.copy(files.slides / "s02.tiff", elsewhere / "s02.tiff"))
        (files.slides / "link.tiff").symlink_to(slide)
        for path in (slide, files.slides / "link.tiff", files.slides / ".." / ".." / elsewhere.name / "s02.tiff"):
            self.with_path(tiled, path)
            assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, "--rank", "box") == 2
            assert f"the bag 's02' says that its slide is {str(path)!r}, which is not" in capsys.readouterr().err
            assert not (tmp_path / "new").exists()
        given = ["--rank", "box", "--slides", elsewhere]
        assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, *given) == 0
        assert read_bag(tmp_path / "new" / "s02.h5").header.slide_path == str(slide)

    @pytest.mark.parametrize("path", ["/dev/zero", "/etc/passwd", "{bags}/s00.h5"])
    def test_no_slides(
        self, tiled: Path, chipnet: Path, tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.with_path(tiled, path.format(bags=tiled))
        assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, "--rank", "box") == 2
        assert "a path in a bag is followed no further; give --slides" in capsys.readouterr().err

    @pytest.mark.parametrize("path", ["x" * 300, "https://example.org/s02.tiff", "/nowhere/s02.tiff"])
    def test_nothing_there_fails_alone(self, tiled: Path, chipnet: Path, tmp_path: Path, path: str) -> None:
        self.with_path(tiled, path)
        assert run(tiled, "--out", tmp_path / "new", "--chipnet", chipnet, "--rank", "box") == 1
        rows = read_manifest(tmp_path / "new")
        assert [row.status for row in rows.values()] == ["done", "done", "failed", "done"]
        assert "no such file" in rows["s02"].error


def test_bag_that_says_its_slide_has_billions_of_cells(tiled: Path) -> None:
    bag = read_bag(tiled / "s02.h5")
    spec = TileSpec(**bag.header.spec)
    huge = replace(bag, header=replace(bag.header, width_px=2**31 - 1, height_px=2**31 - 1))
    with pytest.raises(BagError, match="says that its slide has more than 100,000,000 cells"):
        grid_of(huge, spec)
