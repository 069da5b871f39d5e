"""Dask over worker processes on this machine: the same results, and a slide that ends its worker costs only itself."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TILING_FLAGS, CohortFiles
from tests.tiling.test_workers import act, refs
from tiling import __main__ as tile
from tiling.cluster import SETTINGS, run_on_dask
from tiling.errors import InputError, SlideError

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster.scheduler_address


def test_slides_that_end_their_workers_fail_alone(scheduler: str) -> None:
    slides = refs("a", "b", "killer", "c", "wrong", "hang", "d", "homeless", "e")
    results = {slide.slide_id: result for slide, result in run_on_dask(act, slides, scheduler, 2, time_limit_s=2)}
    killed, hung, wrong, homeless = (results.pop(name) for name in ("killer", "hang", "wrong", "homeless"))
    assert results == {name: name.upper() for name in "abcde"}
    assert isinstance(killed, SlideError)
    assert "'killer' killed the process that read it" in str(killed)
    assert isinstance(hung, SlideError)
    assert "'hang' took longer than 2 s" in str(hung)
    assert isinstance(wrong, KeyError)
    assert str(homeless) == "Homeless: this and that"


def test_more_slides_than_are_submitted_at_once(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiling.cluster._WINDOW", 3)
    slides = refs(*(f"s{index}" for index in range(20)))
    assert sorted(result for _, result in run_on_dask(act, slides, scheduler, 2)) == sorted(f"S{i}" for i in range(20))  # type: ignore[type-var]


def test_command_gives_the_bytes_of_a_local_run(
    scheduler: str, cohort: CohortFiles, bags: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.svs").write_text("no slide")
    out = tmp_path / "bags"
    command = [str(cohort.slides), str(tmp_path), "--out", str(out), *TILING_FLAGS, "--dask", scheduler]
    assert tile.main(command) == 1
    assert {path.name: path.read_bytes() for path in out.glob("*.h5")} == {
        path.name: path.read_bytes() for path in bags.glob("*.h5")
    }


def test_no_scheduler() -> None:
    """Nor is anything left of the attempt: a client that waits to be collected may block the next one for ever."""
    before = threading.active_count()
    for address in ("tcp://127.0.0.1:9", "localhost", "nowhere"):
        with pytest.raises(InputError, match=f"no Dask scheduler answers at '{address}' within 5 s; give its address"):
            list(run_on_dask(act, refs("a"), address, 1))
    assert threading.active_count() <= before


def test_no_queueing_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--dask pbs needs the command 'qsub', which is not here"):
        list(run_on_dask(act, refs("a"), "pbs", 1))


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("dask", "distributed")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'gigabag\[dask\]'"):
        list(run_on_dask(act, refs("a"), "tcp://127.0.0.1:9", 1))
