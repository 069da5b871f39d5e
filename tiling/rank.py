"""The grid of a slide, a score for each of its cells, and the choice of the best: arithmetic on arrays alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BLACK = 3 * 255  # the darkness of a black pixel

_LEFT_OUT = 64  # a strip this part of a cell wide, all in all, may be left out for the recipe's number of cells
_BINS = 16  # of compressed tiles, by their bytes
_GOLDEN = (math.sqrt(5) - 1) / 2


class Grid(NamedTuple):
    """Square cells that cover a slide, centred on it; level-0 pixels, so the corner may be negative."""

    x0: int
    y0: int
    side0_px: int
    columns: int
    rows: int

    def corners0(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x0 and y0 (int64, level-0 pixels) of cells given by their number, counted along the rows."""
        rows, columns = np.divmod(np.asarray(cells, np.int64), self.columns)
        return self.x0 + columns * self.side0_px, self.y0 + rows * self.side0_px


class Picture(NamedTuple):
    """A low-resolution picture of the whole grid, with the same square of pixels for every cell.

    `rgb` is uint8 (H, W, 3), `tissue` bool (H, W); `seen` (H, W) is True where pixels of the slide were read, and
    False where they were interpolated by `bytes` (H, W), what the file needs for the tile that a pixel lies in.
    """

    rgb: np.ndarray
    tissue: np.ndarray
    seen: np.ndarray
    bytes: np.ndarray


class Choice(NamedTuple):
    """The chosen cells, best first: their numbers along the rows, scores and tissue shares, each (N,)."""

    cells: np.ndarray
    score: np.ndarray
    tissue: np.ndarray


def make_grid(width0_px: int, height0_px: int, downsample: float, size_px: int) -> Grid:
    """The grid of `size_px` tiles on a slide of that level-0 size, reduced by `downsample`.

    As in the published recipe, the reduced slide is padded to whole tiles, half on each side. The side of a cell
    is a whole number of level-0 pixels, so that cells neither overlap nor leave gaps.
    """
    side0_px = max(1, round(size_px * downsample))
    columns, rows = (_cells(length0_px, downsample, size_px, side0_px) for length0_px in (width0_px, height0_px))
    x0, y0 = (width0_px - columns * side0_px) // 2, (height0_px - rows * side0_px) // 2
    return Grid(x0, y0, side0_px, columns, rows)


def _cells(length0_px: int, downsample: float, size_px: int, side0_px: int) -> int:
    """As many cells as the recipe has, or more where their rounded side would leave a strip of the slide out."""
    recipe = math.ceil(max(1, round(length0_px / downsample)) / size_px)
    return max(recipe, math.ceil((length0_px - side0_px / _LEFT_OUT) / side0_px))


def per_cell(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Array (rows, columns, pixels a cell, channels) of a picture whose size is a multiple of the grid's."""
    cell_h, cell_w = image.shape[0] // grid.rows, image.shape[1] // grid.columns
    cells = image.reshape(grid.rows, cell_h, grid.columns, cell_w, -1).swapaxes(1, 2)
    return cells.reshape(grid.rows, grid.columns, cell_h * cell_w, -1)


def tissue_share(tissue: np.ndarray, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: the share of each cell that is tissue."""
    return per_cell(tissue, grid)[..., 0].mean(axis=2)


def tissue_darkness(picture: Picture, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: darkness summed over tissue pixels alone, so that ink and borders add none."""
    return _mean_darkness(picture.rgb, picture.tissue, grid)


def darkness(picture: Picture, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: darkness over all pixels, which ranks as the published recipe's pixel sum."""
    return _mean_darkness(picture.rgb, np.ones_like(picture.tissue), grid)


def _mean_darkness(rgb: np.ndarray, counted: np.ndarray, grid: Grid) -> np.ndarray:
    cells = per_cell(darkness_of(rgb) * counted, grid)[..., 0]
    return cells.sum(axis=2, dtype=np.int64) / (BLACK * cells.shape[2])


def darkness_of(rgb: np.ndarray) -> np.ndarray:
    """Int32 (H, W), 0 for white to BLACK, of an RGB uint8 (H, W, 3) picture."""
    return BLACK - (rgb[..., 0].astype(np.int32) + rgb[..., 1] + rgb[..., 2])


def texture(picture: Picture, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: how much green, which stains absorb, differs from pixel to pixel of tissue.

    Where tissue ends, nothing is compared: an edge is no texture. Pixels that were not seen count as those do that
    compressed alike.
    """
    green = picture.rgb[..., 1].astype(np.int32)
    change = np.zeros(green.shape)
    change[1:-1, 1:-1] = np.abs(green[1:-1, 1:-1] - green[1:-1, 2:]) + np.abs(green[1:-1, 1:-1] - green[2:, 1:-1])
    inside = _all_of_plus(picture.tissue)
    compared = inside & _all_of_plus(picture.seen)
    rest = picture.tissue & ~picture.seen
    if rest.any():
        borders = np.quantile(picture.bytes[compared], np.linspace(0, 1, _BINS + 1)[1:-1]) if compared.any() else []
        bins = np.digitize(picture.bytes, borders)
        count = np.bincount(bins[compared], minlength=_BINS)
        mean = np.bincount(bins[compared], change[compared], minlength=_BINS) / np.maximum(count, 1)
        change[rest] = mean[bins[rest]]
    cells = per_cell(change * (compared | rest), grid)[..., 0]
    return cells.sum(axis=2) / (510 * cells.shape[2])


def _all_of_plus(mask: np.ndarray) -> np.ndarray:
    """Whether a pixel and its four neighbours are all True; never at the border."""
    out = np.zeros_like(mask)
    out[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return out


def uniform(picture: Picture, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: scores whose best k lie evenly among the cells with tissue, for every k.

    They are the golden-ratio sequence over those cells in the order of the rows.
    """
    has_tissue = tissue_share(picture.tissue, grid) > 0
    order = np.cumsum(has_tissue).reshape(has_tissue.shape)
    return np.where(has_tissue, (order * _GOLDEN) % 1.0, 0.0)


def mean_per_cell(score_map: np.ndarray, grid: Grid, width0_px: int, height0_px: int) -> np.ndarray:
    """Float (rows, columns): the mean in each cell of a map (H, W) that lies over a whole slide of that level-0 size.

    A cell that reaches beyond the slide has the mean of its part inside.
    """
    total, area = sum_per_cell(score_map, grid, 0, 0, width0_px, height0_px)
    return total / np.maximum(area, np.finfo(float).tiny)


def sum_per_cell(
    values: np.ndarray, grid: Grid, x0: float, y0: float, width0_px: float, height0_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of a map's values (H, W) in each cell, and how many pixels of the map lie in it; each (rows, columns).

    The map lies over the level-0 rectangle of that corner and size, beyond which there is nothing. A pixel that edges
    of cells cut counts for each by its share, so that the sums of all cells make that of the map where they cover it.
    """
    y = _edges(grid.y0 - y0, grid.side0_px, grid.rows, height0_px, values.shape[0])
    x = _edges(grid.x0 - x0, grid.side0_px, grid.columns, width0_px, values.shape[1])
    # One axis after the other: where there is nothing, the sum is exactly 0.
    total = _between(_between(values, y, axis=0), x, axis=1)
    return total, np.diff(y)[:, None] * np.diff(x)


def _edges(start0: float, side0_px: int, cells: int, length0_px: float, map_px: int) -> np.ndarray:
    """Where the edges of cells lie on the map."""
    return np.clip((start0 + side0_px * np.arange(cells + 1)) * (map_px / length0_px), 0, map_px)


def _between(values: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    """The sums of values along an axis between each two edges, at fractional places."""
    none = np.zeros_like(values.take([0], axis), np.float64)
    sums = np.concatenate([none, values.cumsum(axis, np.float64)], axis)
    low = np.minimum(edges.astype(np.int64), values.shape[axis] - 1)
    share = (edges - low)[:, None] if axis == 0 else edges - low
    before = sums.take(low, axis)
    return np.diff(before + (sums.take(low + 1, axis) - before) * share, axis=axis)


class Rank(NamedTuple):
    """A way to score cells; `looks_closer` says that reading a cell's own pixels makes its score more exact."""

    score: Callable[[Picture, Grid], np.ndarray]
    looks_closer: bool


RANKS = {
    "tissue": Rank(tissue_darkness, True),
    "darkness": Rank(darkness, True),
    "texture": Rank(texture, True),
    "uniform": Rank(uniform, False),
}


def choose(scores: np.ndarray, tissue: np.ndarray, instances: int, min_tissue: float) -> Choice:
    """The best `instances` cells of those with at least `min_tissue` tissue; ties go to the upper, then left cell."""
    flat_scores, flat_tissue = scores.ravel(), tissue.ravel()
    allowed = np.flatnonzero((flat_tissue >= min_tissue) & (flat_tissue > 0))
    best = allowed[np.argsort(-flat_scores[allowed], kind="stable")][:instances]
    return Choice(best, flat_scores[best], flat_tissue[best])
