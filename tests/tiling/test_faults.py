"""What goes wrong outside the program: disks, folders, files that go away, and names nobody should give."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import TILING_FLAGS, CohortFiles
from tests.tiling.test_batch import SPEC, bytes_of
from tiling import __main__ as tile
from tiling import batch
from tiling.errors import SlideError
from tiling.manifest import ManifestRow, read_manifest
from tiling.sources import SlideRef, find_slides
from tiling.status import main as status
from tiling.workers import run_slides

ROOT = Path(__file__).parents[2]
NAMES = [
    "two words", "it's", 'say "so"', "two\nlines", "old\rmac", "tab\there", "ä-肾-🙂", "a,b;c", "-dash", "50%", "#1",
    "$HOME", "a*b?", "[page=1]", "x[y", "back\\slash", "dot.in.name", " blanks ", "n" * 200,
]  # fmt: skip


def on_a_small_disk(folder: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script that mounts what it likes over `folder`, seen by nobody else."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    probe = [*unshare, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a mount namespace (the command unshare, and leave to use it)")
    command = [*unshare, "sh", "-euc", script, "sh", folder, *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    return subprocess.run([str(word) for word in command], env=environ, capture_output=True, text=True, check=False)


def test_full_disk_ends_the_batch_and_a_later_one_goes_on(cohort: CohortFiles, bags: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    script = """
        out=$1 slides=$2 result=$3; shift 3
        mount -t tmpfs -o size=100k tmpfs "$out"
        "$PYTHON" -m tiling "$slides" --out "$out" "$@" && exit 9 || test $? = 2
        ls -A "$out" > "$result/first"
        cp "$out/manifest.csv" "$result"
        mount -o remount,size=50m "$out"
        "$PYTHON" -m tiling "$slides" --out "$out" "$@"
        cp -r "$out" "$result/bags"
    """
    done = on_a_small_disk(tmp_path / "out", script, cohort.slides, tmp_path, *TILING_FLAGS)
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert f"cannot write into '{tmp_path / 'out'}' any more (No space left on device); make room" in errors[0]
    first = (tmp_path / "first").read_text().split()
    assert 1 < len(first) < 13
    assert all(name.endswith(".h5") or name == "manifest.csv" for name in first)
    assert len(read_manifest(tmp_path)) == 12
    assert bytes_of(tmp_path / "bags") == bytes_of(bags)


def test_disk_that_cannot_be_written(cohort: CohortFiles, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    script = """
        out=$1 slides=$2; shift 2
        mount -t tmpfs -o ro tmpfs "$out"
        "$PYTHON" -m tiling "$slides" --out "$out" "$@" && exit 9 || test $? = 2
    """
    done = on_a_small_disk(tmp_path / "out", script, cohort.slides, *TILING_FLAGS)
    assert done.returncode == 0, done.stderr
    assert f"cannot write to the folder '{tmp_path / 'out'}' (Read-only file system); choose another" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_slides_that_cannot_be_written_are_read(cohort: CohortFiles, bags: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    script = """
        slides=$1 from=$2 out=$3; shift 3
        mount --bind "$from" "$slides"
        mount -o remount,bind,ro "$slides"
        "$PYTHON" -m tiling "$slides" --out "$out" "$@"
    """
    done = on_a_small_disk(tmp_path / "slides", script, cohort.slides, tmp_path / "bags", *TILING_FLAGS)
    assert done.returncode == 0, done.stderr
    assert bytes_of(tmp_path / "bags").keys() == bytes_of(bags).keys()


@pytest.fixture
def slides(cohort: CohortFiles, tmp_path: Path) -> list[SlideRef]:
    """Three slides that a test may damage."""
    (tmp_path / "slides").mkdir()
    for name in ("s00", "s01", "s02"):
        shutil.copy(cohort.slides / f"{name}.tiff", tmp_path / "slides")
    return find_slides([tmp_path / "slides"])


def test_slide_that_vanishes_before_it_is_read(slides: list[SlideRef], tmp_path: Path) -> None:
    slides[1].path.unlink()
    rows = batch.tile_batch(slides, SPEC, tmp_path / "bags", partial(run_slides, workers=2))
    assert [row.status for row in rows] == ["done", "failed", "done"]
    assert "s01.tiff" in rows[1].error
    assert rows[1].error.startswith("no such file (any more): ")


def vanish_while_read(how: str, out: Path, slide: SlideRef) -> ManifestRow:
    """The batch's own work on a slide that goes away, or loses its end, once it is open."""
    from tiling import tile as step

    look = step.look

    def and_go(*arguments: object) -> object:
        slide.path.unlink() if how == "unlink" else os.truncate(slide.path, 2000)
        return look(*arguments)  # type: ignore[arg-type]

    if slide.slide_id == "s01":
        step.look = and_go  # type: ignore[assignment]  # in a worker process, which has this slide alone
    try:
        return batch._make_one(partial(batch.bag_of, SPEC), out, slide)
    finally:
        step.look = look


@pytest.mark.parametrize("how", ["unlink", "truncate"])
def test_slide_that_vanishes_while_it_is_read(slides: list[SlideRef], tmp_path: Path, how: str) -> None:
    out = tmp_path / "bags"
    out.mkdir()
    results = run_slides(partial(vanish_while_read, how, out), slides, workers=1)
    rows = {slide.slide_id: result for slide, result in results}
    gone = rows.pop("s01")
    assert isinstance(gone, Exception)
    text = batch._failed(slides[1], gone).error
    assert "s01.tiff" in text
    assert text.startswith("no such file (any more): ") if how == "unlink" else isinstance(gone, SlideError)
    assert [row.status for row in rows.values() if isinstance(row, ManifestRow)] == ["done", "done"]
    assert [path.name for path in sorted(out.iterdir())] == ["s00.h5", "s02.h5"]


def test_names_nobody_should_give(cohort: CohortFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "slides", tmp_path / 'two\nlines "and" 肾'
    folder.mkdir()
    for name in NAMES:
        shutil.copy(cohort.slides / "s00.tiff", folder / f"{name}.tiff")
        (folder / f"{name}bad.svs").write_text("no slide")
    assert tile.main([str(folder), "--out", str(out), *TILING_FLAGS]) == 1
    rows = read_manifest(out)
    assert {name: rows[name].status for name in NAMES} == dict.fromkeys(NAMES, "done")
    assert {rows[f"{name}bad"].status for name in NAMES} == {"failed"}
    assert {path.stem for path in out.glob("*.h5")} == set(NAMES)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    messages = [line.rpartition("\r")[2] for line in captured.err.split("\n")]  # the bar is drawn over
    messages = [line for line in messages if line and not line.startswith("tiling:")]
    assert [line.startswith("failed: ") for line in messages] == [True] * len(NAMES)
    assert status([str(out)]) == 1
    assert f"{len(NAMES)} done, 0 without tissue, {len(NAMES)} failed, 0 missing" in capsys.readouterr().out


def test_name_too_long_for_a_bag_is_a_row(cohort: CohortFiles, tmp_path: Path) -> None:
    (tmp_path / ("n" * 245 + ".tiff")).symlink_to(cohort.slides / "s00.tiff")
    assert tile.main([str(tmp_path / ("n" * 245 + ".tiff")), "--out", str(tmp_path / "bags"), *TILING_FLAGS]) == 1
    row = read_manifest(tmp_path / "bags")["n" * 245]
    assert row.status == "failed"
    assert "File name too long); rename the slide" in row.error
