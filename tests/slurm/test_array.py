"""The array of docs/cluster.md on a real Slurm: the bytes of a local run, whatever is killed in between."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CohortFiles
from tests.slurm.conftest import ROOT
from tiling.manifest import read_manifest
from tiling.status import main as status

FLAGS = ["--size", "32", "--downsample", "1", "--instances", "6"]


@pytest.fixture
def place(cohort: CohortFiles, tmp_path: Path) -> Path:
    """A folder with the script and slides, enough to be interrupted in."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    script = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert script is not None
    (tmp_path / "tile.sh").write_text(script[1])
    (tmp_path / "slides").mkdir()
    for index in range(400):
        (tmp_path / "slides" / f"c{index:03d}.tiff").symlink_to(cohort.slides / f"s{index % 12:02d}.tiff")
    return tmp_path


def submit(place: Path, *arguments: str) -> str:
    """The number of a job."""
    command = ["sbatch", "--parsable", *arguments, "tile.sh", *FLAGS]
    return subprocess.run(command, cwd=place, check=True, capture_output=True, text=True).stdout.strip()


def queue() -> str:
    return subprocess.run(["squeue", "--noheader"], check=True, capture_output=True, text=True).stdout


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


def finish() -> None:
    until(lambda: not queue())


def bags(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place / "bags").glob("*.h5")}


def check_all(place: Path) -> None:
    """Every slide has its bag, as a local run of one process gives it."""
    command = ["python", "-m", "tiling", "slides", "--out", "local", "--shard", "1/1", "--workers", "2", *FLAGS]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    assert len(bags(place)) == 400
    assert bags(place) == {path.name: path.read_bytes() for path in (place / "local").glob("*.h5")}
    assert [*(place / "bags").glob(".*")] == []
    assert {row.status for row in read_manifest(place / "bags").values()} == {"done"}
    assert status([str(place / "bags")]) == 0


def test_array_of_the_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(place)
    finish()
    check_all(place)
    assert {path.name for path in (place / "bags").glob("*.csv")} == {f"manifest-{i}-of-4.csv" for i in (1, 2, 3, 4)}
    assert "shard 3/4: 100 done, 0 without tissue, 0 failed, 0 missing, of 100" in capsys.readouterr().out
    assert "shard 3/4 (element 3 of a Slurm array)" in (place / "tile-3.log").read_text()


def test_requeued_element_goes_on(place: Path) -> None:
    job = submit(place)
    until(lambda: len(bags(place)) > 10)
    subprocess.run(["scontrol", "requeue", f"{job}_2"], check=True)
    finish()
    assert (place / "tile-2.log").read_text().count("shard 2/4") == 2
    check_all(place)


def test_cancelled_array_goes_on_when_it_is_started_again(place: Path) -> None:
    job = submit(place)
    until(lambda: len(bags(place)) > 10)
    subprocess.run(["scancel", job], check=True)
    finish()
    before = bags(place)
    assert len(before) < 400
    assert status([str(place / "bags")]) == 1
    submit(place)
    finish()
    check_all(place)
    assert before.items() <= bags(place).items()


def test_one_element_again_needs_its_shard(place: Path) -> None:
    submit(place, "--array=3")
    finish()
    assert "give --shard I/N" in (place / "tile-3.log").read_text()
    assert not (place / "bags").exists()
    command = ["sbatch", "--array=3", "tile.sh", "--shard", "3/4", *FLAGS]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    finish()
    assert len(bags(place)) == 100
    assert status([str(place / "bags")]) == 1
