"""Slides, bags and labels that are made for the tests, and the folder of real ones, where there is one."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores; read when torch is imported

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tiling.slide import write_pyramid
from tiling.sources import SlideRef

GLASS, STROMA, NUCLEI = (244, 242, 245), (226, 160, 198), (120, 70, 150)


def paint(width_px: int, height_px: int, *squares: tuple[int, int, int, tuple[int, int, int]]) -> np.ndarray:
    """RGB uint8 glass with squares (x, y, side, colour) on it."""
    rgb = np.full((height_px, width_px, 3), GLASS, np.uint8)
    for x, y, side, colour in squares:
        rgb[y : y + side, x : x + side] = colour
    return rgb


class CohortFiles(NamedTuple):
    """A few small slides with labels; the positive ones have a dark square."""

    slides: Path
    labels: Path


def make_cohort(folder: Path, slides: int, patients: int | None = None) -> CohortFiles:
    """Slides s00 … of 256 x 192 px at 1 µm/px with tissue on at least six cells of 32 px; every other is positive."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slides").mkdir()
    random = np.random.default_rng(0)
    rows = ["slide_id,label,patient_id"]
    for index in range(slides):
        positive = index % 2
        rgb = paint(256, 192, (32, 32, 96, STROMA), *([(64, 64, 32, NUCLEI)] if positive else []))
        rgb = np.clip(rgb + random.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
        write_pyramid(folder / "slides" / f"s{index:02d}.tiff", rgb, mpp=1.0, tile_px=128)
        rows.append(f"s{index:02d},{'tumour' if positive else 'normal'},p{index % (patients or slides):02d}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return CohortFiles(folder / "slides", folder / "labels.csv")


TILING_FLAGS = ["--size", "32", "--downsample", "1", "--instances", "6", "--workers", "2"]
TRAIN_FLAGS = ["--backbone", "test_resnet", "--train-px", "32", "--folds", "2", "--epochs", "2", "--device", "cpu"]


class Trained(NamedTuple):
    """What the three commands left behind."""

    slides: Path
    labels: Path
    bags: Path
    run: Path


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortFiles:
    """Twelve slides of twelve patients."""
    return make_cohort(tmp_path_factory.mktemp("cohort"), 12)


@pytest.fixture(scope="session")
def bags(cohort: CohortFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bags of the cohort."""
    from tiling.__main__ import main

    out = tmp_path_factory.mktemp("bags")
    assert main([str(cohort.slides), "--out", str(out), *TILING_FLAGS]) == 0
    return out


@pytest.fixture(scope="session")
def trained(cohort: CohortFiles, bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run trained on the bags of the cohort."""
    from train import main

    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(["--bags", str(bags), "--labels", str(cohort.labels), "--out", str(run), *TRAIN_FLAGS]) == 0
    return Trained(cohort.slides, cohort.labels, bags, run)


@pytest.fixture(scope="session")
def trained_again(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Another run on the same folds, of another network."""
    from train import main

    run = tmp_path_factory.mktemp("runs") / "again"
    paths = ["--bags", str(trained.bags), "--labels", str(trained.labels), "--out", str(run)]
    assert main([*paths, *TRAIN_FLAGS, "--pooling", "max", "--train-px", "16", "--balance", "weights"]) == 0
    return trained._replace(run=run)


@pytest.fixture
def chipnets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in for ChipNet runs (tests.chipnet) wherever one is asked for; slides are worked on in this process."""
    from tests.chipnet import in_place
    from tiling import ready, workers
    from tiling.todo import Todo

    def here(
        task: Callable[[SlideRef], object], slides: Sequence[SlideRef] | Todo, *_: object, **__: object
    ) -> Iterator[object]:
        waiting = slides.waiting if isinstance(slides, Todo) else slides
        return ((slide, workers.attempt(task, slide)) for slide in waiting)

    monkeypatch.setattr(workers, "run_slides", here)
    monkeypatch.setattr(ready, "run_slides", here)
    with in_place():
        yield


@pytest.fixture(scope="session")
def trained_chipnet(cohort: CohortFiles, bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of ChipNet trained on the overviews of the cohort, with maps of 2 x 2."""
    from train import main

    run = tmp_path_factory.mktemp("runs") / "chipnet"
    flags = ["--arch", "chipnet", "--backbone", "test_resnet", "--overview-px", "64", "--folds", "2", "--epochs", "2"]
    paths = ["--bags", str(bags), "--labels", str(cohort.labels), "--out", str(run)]
    assert main([*paths, *flags, "--lr", "1e-2", "--device", "cpu"]) == 0
    return Trained(cohort.slides, cohort.labels, bags, run)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real slides, which is not part of the project."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GIGABAG_TEST_DATA", default))
    if not (folder / "slides" / "labels.csv").exists():
        pytest.skip("no real slides: set GIGABAG_TEST_DATA to a folder with slides/*.svs and slides/labels.csv")
    return folder
