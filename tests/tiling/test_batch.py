"""Batches: the same bytes whatever the number of workers, nothing done twice, a failure stays with its slide."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.chipnet import in_place, make_chipnet, with_it
from tests.conftest import STROMA, TILING_FLAGS, CohortFiles, make_cohort, paint
from tiling.bag import read_header
from tiling.batch import Results, Runner, tile_batch
from tiling.errors import InputError
from tiling.manifest import ManifestRow, read_manifest
from tiling.picker import open_chipnet
from tiling.shards import Shard
from tiling.slide import write_pyramid
from tiling.sources import SlideRef, find_slides
from tiling.spec import TileSpec
from tiling.workers import run_slides

ROOT = Path(__file__).parents[2]
SPEC = TileSpec(size=32, downsample=1, instances=6)


def on(workers: int) -> Runner:
    return partial(run_slides, workers=workers)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def test_same_bytes_whatever_the_workers(cohort: CohortFiles, tmp_path: Path) -> None:
    slides = find_slides([cohort.slides])
    tile_batch(slides, SPEC, tmp_path / "one", on(1))
    tile_batch(slides[::-1], SPEC, tmp_path / "two", on(2))
    assert len(bytes_of(tmp_path / "one")) == 12
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_same_bytes_whatever_the_shards(cohort: CohortFiles, tmp_path: Path) -> None:
    slides = find_slides([cohort.slides])
    tile_batch(slides, SPEC, tmp_path / "whole", on(2))
    for shard in (Shard(3, 3), Shard(1, 3), Shard(2, 3)):
        tile_batch(shard.pick(slides[::-1]), SPEC, tmp_path / "shards", on(1), shard=shard)
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "shards")
    assert {path.name for path in (tmp_path / "shards").glob("*.csv")} == {
        f"manifest-{number}-of-3.csv" for number in (1, 2, 3)
    }
    assert [*read_manifest(tmp_path / "shards")] != []
    assert {row.status for row in read_manifest(tmp_path / "shards").values()} == {"done"}


def test_chipnet_looks_in_worker_processes(cohort: CohortFiles, tmp_path: Path) -> None:
    """The task travels to them with the path of the run; a note says where its map was flat."""
    slides = find_slides([cohort.slides])[:3]
    spec = replace(SPEC, rank="attention", instances=2)
    with in_place():
        chipnet, flat = (
            open_chipnet(make_chipnet(tmp_path / name, map_GG))
            for name, map_GG in (("dark", None), ("flat", np.ones((7, 7))))
        )

    def run(task: Callable[[SlideRef], ManifestRow], todo: Sequence[SlideRef]) -> Results:
        return run_slides(partial(with_it, task), todo, workers=2)

    rows = tile_batch(slides, spec, tmp_path / "dark bags", run, chipnet=chipnet)
    assert [(row.status, row.tiles, row.note) for row in rows] == [("done", 2, "")] * 3
    assert read_header(tmp_path / "dark bags" / "s01.h5").picked[:2] == (chipnet.digest, "all")  # type: ignore[index]
    rows = tile_batch(slides, spec, tmp_path / "flat bags", run, chipnet=flat)
    note = "the map was nearly flat (peakedness 0.000, below 0.02): tissue decided"
    assert [(row.status, row.error, row.note) for row in rows] == [("done", "", note)] * 3
    assert read_manifest(tmp_path / "flat bags")["s00"].note == note
    (tmp_path / "flat bags" / "manifest.csv").unlink()
    assert [row.note for row in tile_batch(slides, spec, tmp_path / "flat bags", run, chipnet=flat)] == [note] * 3
    with pytest.raises(InputError, match=r"s00.h5' was made with another chipnet; choose another --out"):
        tile_batch(slides, spec, tmp_path / "flat bags", run, chipnet=chipnet)
    with pytest.raises(InputError, match=r"s00.h5' was made with another attention_share; choose another --out"):
        tile_batch(slides, replace(spec, attention_share=0.5), tmp_path / "flat bags", run, chipnet=flat)


class TestOneBatch:
    @pytest.fixture
    def files(self, tmp_path: Path) -> CohortFiles:
        files = make_cohort(tmp_path, 3)
        write_pyramid(files.slides / "bare.tiff", paint(256, 192), mpp=1.0)
        (files.slides / "broken.svs").write_bytes((files.slides / "s00.tiff").read_bytes()[:3000])
        return files

    def test_each_slide_has_a_row(self, files: CohortFiles, tmp_path: Path) -> None:
        out = tmp_path / "bags"
        rows = tile_batch(find_slides([files.slides]), SPEC, out, on(2))
        assert [(row.slide_id, row.status, row.tiles) for row in rows] == [
            ("bare", "empty", 0), ("broken", "failed", 0), ("s00", "done", 6), ("s01", "done", 6), ("s02", "done", 6),
        ]  # fmt: skip
        assert "no tissue" in rows[0].error
        assert "broken.svs' is no slide that can be read" in rows[1].error
        assert {path.name for path in out.iterdir()} == {"manifest.csv", "s00.h5", "s01.h5", "s02.h5"}
        saved = read_manifest(out)
        assert [saved[row.slide_id].error for row in rows] == [row.error for row in rows]

    def test_second_run_makes_only_what_is_missing(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides])
        first = tile_batch(slides, SPEC, out, on(2))
        (out / "s01.h5").unlink()
        (out / "s02.h5").write_bytes(b"half a file")
        kept = (out / "s00.h5").stat().st_mtime_ns
        second = tile_batch(slides, SPEC, out, on(2))
        assert [row.status for row in second] == [row.status for row in first]
        assert (out / "s00.h5").stat().st_mtime_ns == kept
        assert second[2] == first[2]._replace(seconds=round(first[2].seconds, 3))
        assert len(bytes_of(out)) == 3

    def test_rows_of_other_slides_stay_in_the_manifest(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides])
        tile_batch(slides[:3], SPEC, out, on(1))
        tile_batch(slides[3:], SPEC, out, on(1))
        assert list(read_manifest(out)) == ["bare", "broken", "s00", "s01", "s02"]

    def test_every_slide_is_listed_from_the_start(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides])

        def interrupted(task: Callable[[SlideRef], ManifestRow], todo: Sequence[SlideRef]) -> Results:
            assert {row.status for row in read_manifest(out).values()} == {"waiting"}
            yield todo[2], task(todo[2])
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tile_batch(slides, SPEC, out, interrupted)
        rows = read_manifest(out)
        assert [row.status for row in rows.values()] == ["waiting", "waiting", "done", "waiting", "waiting"]
        assert "never tiled" in rows["s01"].error

    def test_what_killed_workers_left_is_swept(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides])

        def killed(task: Callable[[SlideRef], ManifestRow], todo: Sequence[SlideRef]) -> Results:
            dead = subprocess.Popen([sys.executable, "-c", ""])
            dead.wait()
            for slide in todo:
                (out / f".{slide.slide_id}.h5.{socket.gethostname()}.{dead.pid}.tmp").touch()
                yield slide, task(slide)

        tile_batch(slides[2:], SPEC, out, killed)
        assert sorted(path.name for path in out.iterdir()) == ["manifest.csv", "s00.h5", "s01.h5", "s02.h5"]

    def test_manifests_of_other_shards_and_batches_are_kept_right(self, files: CohortFiles, tmp_path: Path) -> None:
        """What an older manifest says of a slide must not come back when that manifest is written again."""
        out, slides = tmp_path / "bags", find_slides([files.slides])
        good = slides[2].path.read_bytes()
        slides[2].path.write_bytes(b"damaged")
        tile_batch(slides, SPEC, out, on(1))
        assert read_manifest(out)["s00"].status == "failed"
        slides[2].path.write_bytes(good)
        shard = Shard(1, 2)
        tile_batch([slides[2]], SPEC, out, on(1), shard=shard)
        assert read_manifest(out)["s00"].status == "done"
        tile_batch([slides[3]], SPEC, out, on(1))
        assert read_manifest(out)["s00"].status == "done"
        assert len(read_manifest(out)) == 5

    def test_other_spec_is_an_error_before_any_work(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides])
        tile_batch(slides[2:3], SPEC, out, on(1))
        before = bytes_of(out)
        other = TileSpec(size=64, downsample=1, instances=5)
        with pytest.raises(InputError, match=r"s00\.h5' was made with another instances, size; .*--overwrite"):
            tile_batch(slides, other, out, on(1))
        assert bytes_of(out) == before
        assert [row.tiles for row in tile_batch(slides[2:3], other, out, on(1), overwrite=True)] == [4]

    @pytest.mark.parametrize(
        ("change", "names"),
        [({"train_px": 16}, "train_px"), ({"codec": "raw"}, "codec"), ({"chroma": 444}, "chroma")],
    )
    def test_other_storage_is_an_error_too(
        self, files: CohortFiles, tmp_path: Path, change: dict[str, object], names: str
    ) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides / "s00.tiff"])
        tile_batch(slides, SPEC, out, on(1))
        with pytest.raises(InputError, match=rf"s00\.h5' was made with another {names}; .*--overwrite"):
            tile_batch(slides, replace(SPEC, **change), out, on(1))  # type: ignore[arg-type]

    def test_other_file_or_mpp_under_the_same_name_is_an_error(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides / "s00.tiff"])
        tile_batch(slides, SPEC, out, on(1))
        with pytest.raises(InputError, match="made from another file or with another mpp"):
            tile_batch([slides[0]._replace(mpp=0.7)], SPEC, out, on(1))
        with pytest.raises(InputError, match="made from another file or with another mpp"):
            tile_batch([slides[0]._replace(path=files.slides / "bare.tiff")], SPEC, out, on(1))

    def test_default_mpp_counts_where_nothing_else_does(self, files: CohortFiles, tmp_path: Path) -> None:
        spec, out = TileSpec(size=32, mpp=1.0, instances=5), tmp_path / "bags"
        write_pyramid(tmp_path / "a.tiff", paint(256, 192, (32, 32, 96, STROMA)))
        sources = [tmp_path / "a.tiff", files.slides / "s00.tiff"]
        rows = tile_batch(find_slides(sources), spec, out, on(1))
        assert [row.status for row in rows] == ["failed", "done"]
        assert "give it in the column mpp of a slides table or as --default-mpp" in rows[0].error
        before = bytes_of(out)
        rows = tile_batch(find_slides(sources, default_mpp=0.5), spec, out, on(1))
        assert [row.status for row in rows] == ["done", "done"]
        assert before.items() <= bytes_of(out).items()
        with pytest.raises(InputError, match=r"a\.h5' was made from another file or with another mpp"):
            tile_batch(find_slides(sources, default_mpp=0.25), spec, out, on(1))

    def test_mpp_of_a_table_that_is_gone_is_not_taken_for_the_files(self, files: CohortFiles, tmp_path: Path) -> None:
        spec, out = TileSpec(size=32, mpp=1.0, instances=5), tmp_path / "bags"
        slides = find_slides([files.slides / "s00.tiff"])
        tile_batch([slides[0]._replace(mpp=0.5)], spec, out, on(1))
        with pytest.raises(InputError, match=r"s00\.h5' was made from another file or with another mpp"):
            tile_batch(find_slides([files.slides / "s00.tiff"], default_mpp=0.5), spec, out, on(1))

    def test_overwriting_a_bag_with_a_failure_removes_it(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides / "s00.tiff"])
        tile_batch(slides, SPEC, out, on(1))
        slides[0].path.write_bytes(slides[0].path.read_bytes()[:3000])
        assert tile_batch(slides, SPEC, out, on(1), overwrite=True)[0].status == "failed"
        assert bytes_of(out) == {}

    def test_name_that_is_not_utf8_costs_no_table(self, files: CohortFiles, tmp_path: Path) -> None:
        odd = Path(os.fsdecode(os.fsencode(files.slides) + b"/lat\xe9.tiff"))
        (files.slides / "s00.tiff").rename(odd)
        rows = tile_batch(find_slides([files.slides]), SPEC, tmp_path / "bags", on(2))
        assert [row.status for row in rows][-2:] == ["done", "done"]
        assert "lat\\udce9" in read_manifest(tmp_path / "bags")

    def test_overwriting_a_bag_with_nothing_removes_it(self, files: CohortFiles, tmp_path: Path) -> None:
        out = tmp_path / "bags"
        tile_batch(find_slides([files.slides / "s00.tiff"]), SPEC, out, on(1))
        now_bare = [SlideRef("s00", files.slides / "bare.tiff")]
        assert tile_batch(now_bare, SPEC, out, on(1), overwrite=True)[0].status == "empty"
        assert bytes_of(out) == {}

    def test_slide_that_has_gone_keeps_its_bag(self, files: CohortFiles, tmp_path: Path) -> None:
        out, slides = tmp_path / "bags", find_slides([files.slides / "s00.tiff"])
        tile_batch(slides, SPEC, out, on(1))
        slides[0].path.unlink()
        assert tile_batch(slides, SPEC, out, on(1))[0].status == "done"

    @pytest.mark.parametrize("out", ["/proc/no/such", "{tmp}/file/bags"])
    def test_folder_that_cannot_be_written(self, files: CohortFiles, tmp_path: Path, out: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot write to the folder"):
            tile_batch(find_slides([files.slides]), SPEC, Path(out.format(tmp=tmp_path)), on(1))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_folder_without_permission(self, files: CohortFiles, tmp_path: Path) -> None:
        out = tmp_path / "locked"
        out.mkdir(mode=0o500)
        with pytest.raises(InputError, match="Permission denied"):
            tile_batch(find_slides([files.slides]), SPEC, out, on(1))


def test_error_nobody_foresaw_is_a_row_too(tmp_path: Path) -> None:
    slides = [SlideRef("a", tmp_path / "a.svs")]
    slides[0].path.touch()
    row = tile_batch(
        slides,
        SPEC,
        tmp_path / "bags",
        lambda *_: ((slide, ZeroDivisionError("division\nby zero")) for slide in slides),
    )[0]
    assert (row.status, row.tiles) == ("failed", 0)
    assert row.error.endswith("a.svs' met an unexpected ZeroDivisionError (division by zero); please report it")


def _heed_interrupts() -> None:
    """A process started in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_sigterm_saves_what_is_done(cohort: CohortFiles, tmp_path: Path) -> None:
    """As a queueing system ends a job."""
    (tmp_path / "slides").mkdir()
    for index in range(600):
        (tmp_path / "slides" / f"c{index:03d}.tiff").symlink_to(cohort.slides / f"s{index % 12:02d}.tiff")
    out = tmp_path / "bags"
    command = [sys.executable, "-m", "tiling", str(tmp_path / "slides"), "--out", str(out), *TILING_FLAGS]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(bytes_of(out)) < 3:
        time.sleep(0.01)
    process.terminate()
    error = process.communicate()[1]
    assert process.returncode == 130
    assert error.endswith("python -m tiling: interrupted\n")
    done = {row.slide_id for row in read_manifest(out).values() if row.status == "done"}
    assert 1 <= len(done) < 600  # the messages of two workers may be under way
    # A worker may have finished a bag whose message was not read any more.
    assert len({Path(name).stem for name in bytes_of(out)} - done) <= 2
    assert list(out.glob(".*")) == []


@pytest.mark.slow
def test_interrupted_twice_ends_at_once_and_goes_on_later(cohort: CohortFiles, tmp_path: Path) -> None:
    """Two Ctrl-C, to the whole group as a terminal sends them: no worker stays, and the rest is made the next time."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for index in range(200):
        (slides / f"c{index:03d}.tiff").symlink_to(cohort.slides / f"s{index % 12:02d}.tiff")
    out = tmp_path / "bags"
    command = [sys.executable, "-m", "tiling", str(slides), "--out", str(out), *TILING_FLAGS]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509  # no thread of ours is running
    )
    while len(list(out.glob("*.h5"))) < 3:
        time.sleep(0.01)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    process.communicate()
    assert process.returncode != 0
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    before = bytes_of(out)
    assert 3 <= len(before) < 200
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = bytes_of(out)
    assert len(after) == 200
    assert {name: after[name] for name in before} == before
    assert list(out.glob(".*")) == []
