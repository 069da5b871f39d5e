"""Merging changes nothing but the number of files."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from tests.conftest import TILING_FLAGS, CohortFiles
from tests.tiling.test_bag import assert_same, make_bag
from tiling import __main__ as tile
from tiling.bag import Picked, read_bag, write_bag, write_merged
from tiling.bags import open_bags
from tiling.errors import BagError
from tiling.manifest import ManifestRow, read_manifest, write_manifest
from tiling.merge import main

ROOT = Path(__file__).parents[2]
Refusal = Callable[..., str]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".h5"}


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Call the command, which must refuse its input, and give the sentence it does so with."""

    def refuse(*arguments: object) -> str:
        assert run(*arguments) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("python -m tiling.merge: error: ")
        return last

    return refuse


@pytest.fixture
def folder(bags: Path, tmp_path: Path) -> Path:
    """A copy of the bags to spoil."""
    return Path(shutil.copytree(bags, tmp_path / "bags"))


class TestMerge:
    def test_gives_the_same_bags(self, bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "new" / "all.h5"
        assert run(bags, "--out", out) == 0
        assert f"12 bags in {out}, and the reasons of 0 slides that have none" in capsys.readouterr().out
        before, after = open_bags(bags), open_bags(out)
        assert list(after.refs) == [f"s{index:02d}" for index in range(12)]
        assert after.manifest == {name: row._replace(seconds=0.0) for name, row in before.manifest.items()}
        for name, ref in after.refs.items():
            assert_same(read_bag(ref), read_bag(before.refs[name]))
        assert [path.name for path in out.parent.iterdir()] == ["all.h5"]

    def test_same_bags_same_bytes(self, cohort: CohortFiles, bags: Path, tmp_path: Path) -> None:
        """Tiled anew, with another number of workers, in other seconds."""
        assert tile.main([str(cohort.slides), "--out", str(tmp_path / "bags"), *TILING_FLAGS, "--workers", "1"]) == 0
        run(bags, "--out", tmp_path / "a.h5")
        run(tmp_path / "bags", "--out", tmp_path / "b.h5")
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    def test_in_parts_or_at_once(self, bags: Path, folder: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        rows = read_manifest(folder)
        for name in ("s00", "s07"):
            (folder / f"{name}.h5").rename(other / f"{name}.h5")
        write_manifest(other, {name: rows.pop(name) for name in ("s00", "s07")})
        write_manifest(folder, rows)
        run(bags, "--out", tmp_path / "once.h5")
        run(other, "--out", tmp_path / "part.h5")
        assert run(tmp_path / "part.h5", folder, "--out", tmp_path / "parts.h5") == 0
        assert run(tmp_path / "parts.h5", "--out", tmp_path / "again.h5") == 0
        once = (tmp_path / "once.h5").read_bytes()
        assert (tmp_path / "parts.h5").read_bytes() == once == (tmp_path / "again.h5").read_bytes()

    def test_slides_without_a_bag_keep_their_reason(self, folder: Path, tmp_path: Path) -> None:
        bare = ManifestRow("bare", "/x/bare.svs", "empty", 0, 0.25, "no tissue was found, é")
        write_manifest(folder, {**read_manifest(folder), "bare": bare})
        assert run(folder, "--out", tmp_path / "all.h5") == 0
        assert open_bags(tmp_path / "all.h5").manifest["bare"] == bare._replace(seconds=0.0)

    def test_slide_that_failed_elsewhere_is_done(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "first").mkdir()
        write_bag(tmp_path / "first" / "x.h5", read_bag(folder / "s00.h5"))
        failed = {name: ManifestRow(name, "/x", "failed", 0, 0.0, "cut short") for name in ("s00", "lost")}
        write_manifest(tmp_path / "first", failed)
        (tmp_path / "third").mkdir()
        write_bag(tmp_path / "third" / "y.h5", read_bag(folder / "s00.h5"))
        write_manifest(tmp_path / "third", {"x": ManifestRow("x", "/x", "failed", 0, 0.0, "cut short")})
        assert run(tmp_path / "third", tmp_path / "first", "--out", tmp_path / "x.h5") == 0
        assert open_bags(tmp_path / "x.h5").manifest.keys() == {"s00", "lost"}  # x has a bag, of which no row tells
        for number, sources in enumerate(([tmp_path / "first", folder], [folder, tmp_path / "first"])):
            out = tmp_path / f"{number}.h5"
            assert run(*sources, "--out", out) == 0
            manifest = open_bags(out).manifest
            assert (manifest["s00"].status, manifest["lost"].error) == ("done", "cut short")
        assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()

    def test_what_two_chipnets_picked_is_kept_apart(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, chipnet in (("s00", "abc"), ("s01", "def")):
            bag = read_bag(folder / f"{name}.h5")
            (tmp_path / chipnet).mkdir()
            picked = Picked(chipnet, "0", 0.5, "attention")
            write_bag(tmp_path / chipnet / f"{name}.h5", replace(bag, header=replace(bag.header, picked=picked)))
        assert run(tmp_path / "abc", "--out", tmp_path / "one.h5") == 0
        merged = read_bag(open_bags(tmp_path / "one.h5").refs["s00"])
        assert merged.header.picked == Picked("abc", "0", 0.5, "attention")
        assert run(tmp_path / "abc", tmp_path / "def", "--out", tmp_path / "two.h5") == 2
        assert "were made with different chipnet and cannot be used together" in capsys.readouterr().err

    def test_lossless_bags_go_together(self, tmp_path: Path) -> None:
        for name, codec in (("a", "raw"), ("b", "png")):
            bag = make_bag(codec=codec)
            bag.header.spec.update(codec=codec)
            (tmp_path / "bags").mkdir(exist_ok=True)
            write_bag(tmp_path / "bags" / f"{name}.h5", bag)
        assert run(tmp_path / "bags", "--out", tmp_path / "all.h5") == 0
        assert {read_bag(ref).header.codec for ref in open_bags(tmp_path / "all.h5").refs.values()} == {"raw", "png"}


class TestSplit:
    def test_gives_the_same_bytes(self, folder: Path, tmp_path: Path) -> None:
        bare = ManifestRow("bare", "/x/bare.svs", "empty", 0, 0.25, "no tissue was found")
        write_manifest(folder, {**read_manifest(folder), "bare": bare})
        run(folder, "--out", tmp_path / "all.h5")
        assert run(tmp_path / "all.h5", "--split", tmp_path / "again") == 0
        assert contents(tmp_path / "again") == contents(folder)
        rows = {name: row._replace(seconds=0.0) for name, row in read_manifest(folder).items()}
        assert read_manifest(tmp_path / "again") == rows

    @pytest.mark.parametrize("codec", ["jpeg", "webp", "raw"])
    def test_with_small_copies(self, tmp_path: Path, codec: str) -> None:
        (tmp_path / "bags").mkdir()
        write_bag(tmp_path / "bags" / "a.h5", make_bag(codec=codec, train_px=8))
        run(tmp_path / "bags", "--out", tmp_path / "all.h5")
        assert run(tmp_path / "all.h5", "--split", tmp_path / "again") == 0
        assert contents(tmp_path / "again") == contents(tmp_path / "bags")
        assert [path.name for path in (tmp_path / "again").iterdir()] == ["a.h5"]

    def test_bag_of_another_version_of_the_program_stays_its(self, folder: Path, tmp_path: Path) -> None:
        with h5py.File(folder / "s03.h5", "r+") as file:
            file.attrs["software"] = "gigabag 0.0.1"
        run(folder, "--out", tmp_path / "all.h5")
        run(tmp_path / "all.h5", "--split", tmp_path / "again")
        assert read_bag(tmp_path / "again" / "s03.h5").header.software == "gigabag 0.0.1"

    def test_bags_that_are_there(self, refusal: Refusal, bags: Path, folder: Path) -> None:
        (folder / "s00.h5").unlink()
        before = contents(folder)
        assert "has 11 of the bags already, the first is 's01'" in refusal(bags, "--split", folder)
        assert contents(folder) == before
        assert run(bags, "--split", folder, "--overwrite") == 0
        assert contents(folder) == contents(bags)


class TestRefused:
    def test_damaged_bags_are_named_and_nothing_is_written(
        self, refusal: Refusal, folder: Path, tmp_path: Path
    ) -> None:
        (folder / "s02.h5").write_bytes((folder / "s02.h5").read_bytes()[:-1])
        found = refusal(folder, "--out", tmp_path / "all.h5")
        assert "s02.h5' is not a complete bag" in found
        (folder / "s09.h5").write_bytes(b"")
        for flag in ("--out", "--split"):
            found = refusal(folder, flag, tmp_path / "all.h5")
            assert "2 bags are damaged ('s02', 's09'), and of the first: " in found
            assert "s02.h5' is not a complete bag" in found
        assert [path.name for path in tmp_path.iterdir()] == ["bags"]

    def test_damage_that_shows_late(self, refusal: Refusal, folder: Path, tmp_path: Path) -> None:
        with h5py.File(folder / "s05.h5", "r+") as file:
            del file["score"]
        assert "s05.h5' is not a complete bag" in refusal(folder, "--out", tmp_path / "all.h5")
        assert [path.name for path in tmp_path.iterdir()] == ["bags"]

    def test_different_specs(self, refusal: Refusal, folder: Path, cohort: CohortFiles, tmp_path: Path) -> None:
        flags = [*TILING_FLAGS, "--overwrite", "--quality", "50", "--train-px", "16"]
        assert tile.main([str(cohort.slides / "s05.tiff"), "--out", str(folder), *flags]) == 0
        found = refusal(folder, "--out", tmp_path / "all.h5")
        assert "s00.h5' and " in found
        assert "s05.h5' were made with different quality, train_px and cannot be used together" in found
        assert not (tmp_path / "all.h5").exists()

    def test_two_bags_of_one_name(self, refusal: Refusal, bags: Path, folder: Path, tmp_path: Path) -> None:
        assert "two bags have the name 's00'" in refusal(bags, folder, "--out", tmp_path / "all.h5")

    @pytest.mark.parametrize("limit", [1_000, 30_000, 60_000])
    def test_disk_that_is_full(self, bags: Path, tmp_path: Path, limit: int) -> None:
        """A limit on the size of files stands in for it; HDF5 itself would crash at some of them."""
        code = (
            "import resource, sys; from tiling.merge import main; "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main(sys.argv[1:]))"
        )
        out = tmp_path / "all.h5"
        done = subprocess.run(
            [sys.executable, "-c", code, str(bags), "--out", str(out)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].endswith(f"error: '{out}': File too large; check path and disk")
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_file_that_exists(self, refusal: Refusal, bags: Path, tmp_path: Path) -> None:
        (tmp_path / "all.h5").write_text("precious")
        assert "exists; choose another --out, or --overwrite it" in refusal(bags, "--out", tmp_path / "all.h5")
        assert (tmp_path / "all.h5").read_text() == "precious"
        assert run(bags, "--out", tmp_path / "all.h5", "--overwrite") == 0
        assert len(open_bags(tmp_path / "all.h5").refs) == 12

    def test_wrong_input(self, refusal: Refusal, bags: Path, folder: Path, tmp_path: Path) -> None:
        out = ("--out", tmp_path / "all.h5")
        (tmp_path / "empty").mkdir()
        assert "give either --out" in refusal(bags)
        assert "give either --out" in refusal(bags, *out, "--split", tmp_path / "new")
        assert "no such folder of bags" in refusal(tmp_path / "none", *out)
        assert "empty' holds no bags" in refusal(tmp_path / "empty", *out)
        assert "is one bag; give its folder" in refusal(bags / "s00.h5", *out)
        assert "is a folder; give the name of a file" in refusal(bags, "--out", tmp_path)
        assert "would lie among the bags" in refusal(folder, "--out", folder / "all.h5")
        assert "cannot write to the folder '/proc/x'" in refusal(bags, "--out", "/proc/x/all.h5")
        assert "cannot write to the folder '/proc/x'" in refusal(bags, "--split", "/proc/x")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bags", "empty"]

    def test_nothing_lands_elsewhere(self, tmp_path: Path) -> None:
        write_merged(tmp_path / "all.h5", [("QQQQQQQ", make_bag())], [])
        data = (tmp_path / "all.h5").read_bytes()
        (tmp_path / "all.h5").write_bytes(data.replace(b"QQQQQQQ", b"../evil"))
        before = sorted(tmp_path.rglob("*"))
        assert run(tmp_path / "all.h5", "--split", tmp_path / "new" / "split") == 2
        assert sorted(tmp_path.rglob("*")) == before

    def test_manifest_of_a_stranger(self, tmp_path: Path) -> None:
        rows = [{"slide_id": "../a", "path": "/x", "status": "failed", "tiles": 0, "error": ""}]
        write_merged(tmp_path / "all.h5", [("a", make_bag())], rows)
        with pytest.raises(BagError, match="a row has the slide_id '../a', which cannot be the name of a file"):
            open_bags(tmp_path / "all.h5")
