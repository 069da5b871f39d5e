"""The low-resolution picture of a slide by which its tiles are chosen: whole, or a sketch where that takes long."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from tiling.overview import OVERVIEW_PX
from tiling.rank import Grid
from tiling.resample import resize
from tiling.sketch import lattice, lattice_step, sketch
from tiling.slide import Level, Slide
from tiling.tiff import TiledPage
from tiling.tissue import tissue_mask

_MAP_PX = 1280  # the longest side of the picture, in whole pixels a cell
_CELL_PX = (8, 512)  # the fewest and most pixels a cell gets
_SHARE_OF_TILES = 0.5  # bytes that may be decoded for the picture, relative to those of the tiles to be cut
_FREE_BYTES = 48_000_000  # decoded without a thought, in about half a second


class View(NamedTuple):
    """RGB uint8 (rows · cell, columns · cell, 3) of the whole grid, white outside the slide.

    `seen`, bool (rows · cell, columns · cell), is False where pixels were interpolated rather than read; `bytes`, of
    the same size, is what the file needs for the tile that a pixel lies in, all 0 where nothing was interpolated.
    `inside` are the rows and columns that lie on the slide.
    """

    rgb: np.ndarray
    seen: np.ndarray
    bytes: np.ndarray
    cell_px: int
    inside: tuple[slice, slice]

    @property
    def is_sketch(self) -> bool:
        """Whether there was something to interpolate."""
        return bool(self.bytes.max() > 0)

    @property
    def share_seen(self) -> float:
        """The share of the slide that was read and not interpolated."""
        return float(self.seen[self.inside].mean())

    def tissue(self) -> np.ndarray:
        """Bool (rows · cell, columns · cell), True on tissue; the padding would pass for glass, and is left out."""
        mask = np.zeros(self.rgb.shape[:2], bool)
        mask[self.inside] = tissue_mask(self.rgb[self.inside])
        return mask

    def look_closer(self, row: int, column: int, tile: np.ndarray) -> None:
        """Take the pixels of a cell from its tile, RGB uint8 (size, size, 3)."""
        px = self.cell_px
        cell = slice(row * px, (row + 1) * px), slice(column * px, (column + 1) * px)
        self.rgb[cell] = resize(tile, (px, px))
        self.seen[cell] = True


def look(slide: Slide, grid: Grid, instances: int, size_px: int) -> View:
    """The picture of a slide of which `instances` tiles of `size_px` are to be cut.

    Its size follows from the grid, and no slide is enlarged for it. Raises SlideError where it cannot be read.
    """
    cell_px = min(int(np.clip(_MAP_PX // max(grid.columns, grid.rows), *_CELL_PX)), grid.side0_px)
    level, reduction = slide.source_for(grid.side0_px / cell_px)
    if level.tiled is not None:
        step = lattice_step(level.tiled.bytecounts, _budget_bytes(slide, grid, instances, size_px))
        if step > 1:
            return _sketched(slide, grid, cell_px, level, level.tiled, reduction, step)
    width0_px, height0_px = grid.columns * grid.side0_px, grid.rows * grid.side0_px
    out_px = grid.columns * cell_px, grid.rows * cell_px
    rgb = slide.read_region(grid.x0, grid.y0, width0_px, height0_px, out_px)
    return View(rgb, np.ones(rgb.shape[:2], bool), np.zeros(rgb.shape[:2]), cell_px, _inside(slide, grid, cell_px))


def _inside(slide: Slide, grid: Grid, cell_px: int) -> tuple[slice, slice]:
    """The rows and columns of the picture whose pixels lie on the slide altogether, at least one of each."""
    px0 = grid.side0_px / cell_px

    def along(start0: int, length0_px: int, cells: int) -> slice:
        first = min(max(math.ceil(-start0 / px0), 0), cells * cell_px - 1)
        return slice(first, max(first + 1, min(math.floor((length0_px - start0) / px0), cells * cell_px)))

    return along(grid.y0, slide.height_px, grid.rows), along(grid.x0, slide.width_px, grid.columns)


def _budget_bytes(slide: Slide, grid: Grid, instances: int, size_px: int) -> float:
    """How many compressed bytes the picture may cost, by what the tiles will: most of them are full of tissue."""
    level, _ = slide.source_for(grid.side0_px / size_px)
    if level.tiled is None:
        return math.inf
    page = level.tiled
    tile0_px = page.tile_width_px * page.tile_height_px * (slide.width_px / level.width_px) ** 2
    of_tissue = float(np.percentile(page.bytecounts, 95))
    return max(_FREE_BYTES, _SHARE_OF_TILES * instances * grid.side0_px**2 / tile0_px * of_tissue)


def _sketched(slide: Slide, grid: Grid, cell_px: int, level: Level, page: TiledPage, reduction: int, step: int) -> View:
    tile_px = page.tile_width_px // reduction, page.tile_height_px // reduction
    tile0_px = (
        page.tile_width_px * slide.width_px / level.width_px,
        page.tile_height_px * slide.height_px / level.height_px,
    )
    side_px = min(math.ceil(max(tile0_px) * cell_px / grid.side0_px), *tile_px)

    def read(row: int, column: int) -> np.ndarray:
        return slide.read_level(level, reduction, column * tile_px[0], row * tile_px[1], *tile_px)

    decoded = lattice(page.bytecounts.shape, step)
    rgb = sketch(read, page.bytecounts, decoded, side_px)
    px0 = tile0_px[0] / side_px, tile0_px[1] / side_px
    inside = slice(math.ceil(slide.height_px / px0[1])), slice(math.ceil(slide.width_px / px0[0]))
    box, padding = _grid_on(grid, px0, rgb[inside].shape)
    out_px = grid.columns * cell_px, grid.rows * cell_px

    def spread(of_tiles: np.ndarray, outside: float) -> np.ndarray:
        """What is known of each tile, as a picture of the grid."""
        picture = of_tiles.repeat(side_px, axis=0).repeat(side_px, axis=1)[inside]
        padded = Image.fromarray(np.pad(picture, padding, constant_values=outside).astype(np.float32))
        return np.asarray(padded.resize(out_px, Image.Resampling.NEAREST, box))

    rgb = np.pad(rgb[inside], (*padding, (0, 0)), constant_values=255)
    return View(
        resize(rgb, out_px, box).copy(), spread(decoded, True) > 0, spread(page.bytecounts, 0), cell_px,
        _inside(slide, grid, cell_px),
    )  # fmt: skip


def _grid_on(
    grid: Grid, px0: tuple[float, float], shape: tuple[int, ...]
) -> tuple[tuple[float, float, float, float], tuple[tuple[int, int], tuple[int, int]]]:
    """The box (left, top, right, bottom) of the grid on a picture, and the margins that make it lie inside.

    A pixel of the picture, whose shape is (height, width, …), is `px0` (width, height) level-0 pixels large.
    """
    left, top = grid.x0 / px0[0], grid.y0 / px0[1]
    right, bottom = left + grid.columns * grid.side0_px / px0[0], top + grid.rows * grid.side0_px / px0[1]
    before = max(0, math.ceil(-top)), max(0, math.ceil(-left))
    after = max(0, math.ceil(bottom) - shape[0]), max(0, math.ceil(right) - shape[1])
    box = left + before[1], top + before[0], right + before[1], bottom + before[0]
    return box, ((before[0], after[0]), (before[1], after[1]))


def overview_of(picture: np.ndarray, slide: Slide, grid: Grid) -> tuple[np.ndarray, float]:
    """The part of the grid's map that is slide, at most 1024 px long, and its level-0 pixels per pixel."""
    map_px0 = grid.columns * grid.side0_px / picture.shape[1]
    left, top = -grid.x0 / map_px0, -grid.y0 / map_px0
    width, height = slide.width_px / map_px0, slide.height_px / map_px0
    # A cell may reach a pixel or two less far than the slide, where its side was rounded.
    box = (
        max(left, 0.0), max(top, 0.0), min(left + width, picture.shape[1]), min(top + height, picture.shape[0])
    )  # fmt: skip
    downsample = max(max(slide.width_px, slide.height_px) / OVERVIEW_PX, map_px0)
    out_px = (max(1, round(slide.width_px / downsample)), max(1, round(slide.height_px / downsample)))
    return resize(picture, out_px, box), downsample
