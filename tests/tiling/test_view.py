"""The picture by which tiles are chosen: the same square for every cell, and true also where it is a sketch."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import STROMA
from tiling.rank import make_grid
from tiling.slide import open_slide, write_pyramid
from tiling.spec import TileSpec
from tiling.synthetic.large import write_large
from tiling.tile import tile_slide
from tiling.view import look, overview_of


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A slide of 20000 x 15000 px with a pyramid (True) and without."""
    folder = tmp_path_factory.mktemp("large")
    for pyramid in (True, False):
        write_large(folder / f"{pyramid}.tiff", 20000, 15000, seed=3, pyramid=pyramid)
    return {pyramid: folder / f"{pyramid}.tiff" for pyramid in (True, False)}


@pytest.fixture(autouse=True)
def thrift(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free on a slide of a gigapixel would be all of these."""
    monkeypatch.setattr("tiling.view._FREE_BYTES", 4_000_000)


SPEC = TileSpec(instances=6, size=256, downsample=4)


@pytest.mark.parametrize(("side_px", "cell_px"), [(256, 16), (1024, 64), (8192, 426)])
def test_every_cell_has_the_same_square(slides: dict[bool, Path], side_px: int, cell_px: int) -> None:
    slide = open_slide(slides[True])
    grid = make_grid(20000, 15000, 1, side_px)
    view = look(slide, grid, 16, side_px)
    assert not view.is_sketch
    assert view.seen.all()
    assert view.cell_px == cell_px
    assert view.rgb.shape == (grid.rows * view.cell_px, grid.columns * view.cell_px, 3)


def test_pyramid_or_not_it_is_the_same_slide(slides: dict[bool, Path]) -> None:
    """Though an eighth of the tiles is decoded at most."""
    grid = make_grid(20000, 15000, 4, 256)
    views = {pyramid: look(open_slide(path), grid, 6, 256) for pyramid, path in slides.items()}
    assert views[False].is_sketch
    assert 0.01 < views[False].seen.mean() < 0.15
    masks = {pyramid: view.tissue() for pyramid, view in views.items()}
    assert (masks[True] & masks[False]).sum() / (masks[True] | masks[False]).sum() > 0.94
    assert np.abs(views[True].rgb.astype(int) - views[False].rgb).mean() < 6


@pytest.mark.parametrize("rank", ["tissue", "darkness", "texture"])
def test_best_tiles_are_found_without_a_pyramid(slides: dict[bool, Path], rank: str) -> None:
    spec = TileSpec(instances=6, size=256, downsample=4, rank=rank)  # type: ignore[arg-type]
    whole, few = (tile_slide(slides[pyramid], spec) for pyramid in (True, False))
    assert whole.header.overview_seen == 1
    assert few.header.overview_seen < 0.25
    assert len(few) == 6
    # Chosen by estimates, they are as good as those chosen in full knowledge, but for a few per cent.
    everything = tile_slide(slides[True], TileSpec(instances=10**6, size=256, downsample=4, rank=rank))  # type: ignore[arg-type]
    score = dict(zip(zip(everything.x0, everything.y0, strict=True), everything.score, strict=True))
    found = [score[corner] for corner in zip(few.x0, few.y0, strict=True)]
    assert min(found) > np.percentile(everything.score, 70)
    assert np.mean(found) > 0.95 * np.mean(whole.score)


def test_sketch_reads_few_tiles(slides: dict[bool, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from tiling.tiff import TiledPage

    decoded = []
    real = TiledPage._tiles

    def counting(page: TiledPage, row: int, columns: range, reduction: int) -> object:
        decoded.extend((row, column) for column in columns)
        return real(page, row, columns, reduction)

    monkeypatch.setattr(TiledPage, "_tiles", counting)
    tile_slide(slides[False], SPEC)
    rows, columns = 15000 // 256 + 1, 20000 // 256 + 1
    assert len(decoded) < 0.25 * rows * columns


@pytest.mark.parametrize(("width_px", "height_px"), [(2048, 1055), (2048, 330), (1090, 2100)])
def test_padding_is_no_glass(tmp_path: Path, width_px: int, height_px: int) -> None:
    """Tinted glass beside the pure white of a long slide's padding would be taken for tissue."""
    rgb = np.full((height_px, width_px, 3), (240, 225, 205), np.uint8)
    top, left = height_px // 3, width_px // 3
    rgb[top : 2 * top, left : 2 * left] = STROMA
    write_pyramid(tmp_path / "a.tiff", rgb, quality=95)
    slide = open_slide(tmp_path / "a.tiff")
    view = look(slide, make_grid(width_px, height_px, 1, 256), 16, 256)
    assert view.tissue().mean() == pytest.approx(top * left * view.cell_px**2 / 256**2 / view.rgb[..., 0].size, rel=0.1)


def test_overview_of_a_sketch_is_the_whole_slide(slides: dict[bool, Path]) -> None:
    pictures = []
    for path in slides.values():
        slide = open_slide(path)
        grid = make_grid(20000, 15000, 3.7, 256)
        picture, downsample = overview_of(look(slide, grid, 6, 256).rgb, slide, grid)
        assert picture.shape == (768, 1024, 3)
        assert downsample == 20000 / 1024
        pictures.append(picture.astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 5
