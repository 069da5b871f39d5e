"""Dask's workers as jobs of a real Slurm."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TILING_FLAGS, CohortFiles
from tests.slurm.test_array import finish, queue
from tests.tiling.test_workers import act, refs
from tiling import __main__ as tile
from tiling.cluster import run_on_dask
from tiling.errors import InputError, SlideError
from tiling.sources import SlideRef


@pytest.fixture(autouse=True)
def one_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The pretended nodes meet on loopback."""
    import dask
    import dask_jobqueue  # noqa: F401  # its defaults must be there before the test's own

    monkeypatch.chdir(tmp_path)
    with dask.config.set({"jobqueue.slurm.interface": "lo"}):
        yield
    finish()


def slow(slide: SlideRef) -> str:
    time.sleep(0.2)
    return slide.slide_id


def test_slide_that_kills_its_process_is_the_only_failure() -> None:
    slides = refs(*(f"s{index}" for index in range(20)), "killer", "hang", *(f"t{index}" for index in range(20)))
    results = {slide.slide_id: result for slide, result in run_on_dask(act, slides, "slurm", 2, time_limit_s=5)}
    killed, hung = results.pop("killer"), results.pop("hang")
    assert isinstance(killed, SlideError)
    assert "killed the process that read it" in str(killed)
    assert isinstance(hung, SlideError)
    assert "took longer than 5 s" in str(hung)
    assert results == {name: name.upper() for name in results}
    assert len(results) == 40


def test_cancelled_job_is_replaced() -> None:
    slides, cancelled, results = refs(*(f"s{index}" for index in range(60))), "", []
    for _, result in run_on_dask(slow, slides, "slurm", 2):
        results.append(result)
        if len(results) == 10:
            cancelled = queue().split()[0]
            subprocess.run(["scancel", cancelled], check=True)
    assert sorted(map(str, results)) == sorted(slide.slide_id for slide in slides)
    assert cancelled


def test_command_gives_the_bytes_of_a_local_run(cohort: CohortFiles, bags: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    assert tile.main([str(cohort.slides), "--out", str(out), *TILING_FLAGS, "--dask", "slurm", "--jobs", "2"]) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.h5")} == {
        path.name: path.read_bytes() for path in bags.glob("*.h5")
    }


def test_job_that_slurm_refuses_is_said() -> None:
    import dask

    with (
        dask.config.set({"jobqueue.slurm.queue": "nowhere"}),
        pytest.raises(InputError, match=r"sbatch does not take jobs \(.*invalid partition.*under jobqueue\.slurm in"),
    ):
        list(run_on_dask(act, refs("a"), "slurm", 1))
