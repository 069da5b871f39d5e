"""The grid of a slide, a score for each of its cells, and the choice of the best: arithmetic on arrays alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

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
    columns = math.ceil(max(1, round(width0_px / downsample)) / size_px)
    rows = math.ceil(max(1, round(height0_px / downsample)) / size_px)
    x0, y0 = (width0_px - columns * side0_px) // 2, (height0_px - rows * side0_px) // 2
    return Grid(x0, y0, side0_px, columns, rows)


def per_cell(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Array (rows, columns, pixels a cell, channels) of a picture whose size is a multiple of the grid's."""
    cell_h, cell_w = image.shape[0] // grid.rows, image.shape[1] // grid.columns
    cells = image.reshape(grid.rows, cell_h, grid.columns, cell_w, -1).swapaxes(1, 2)
    return cells.reshape(grid.rows, grid.columns, cell_h * cell_w, -1)


def tissue_share(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: the share of each cell that is tissue."""
    return per_cell(mask, grid)[..., 0].mean(axis=2)


def tissue_darkness(rgb: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: darkness summed over tissue pixels alone, so that ink and borders add none."""
    darkness = (765 - rgb.sum(axis=2, dtype=np.int64)) * mask
    cells = per_cell(darkness, grid)[..., 0]
    return cells.sum(axis=2) / (765 * cells.shape[2])


def darkness(rgb: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: darkness over all pixels, which ranks as the published recipe's pixel sum."""
    return tissue_darkness(rgb, np.ones_like(mask), grid)


def uniform(rgb: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Float (rows, columns) in 0 to 1: scores whose best k lie evenly among the cells with tissue, for every k.

    They are the golden-ratio sequence over those cells in the order of the rows.
    """
    has_tissue = tissue_share(mask, grid) > 0
    order = np.cumsum(has_tissue).reshape(has_tissue.shape)
    return np.where(has_tissue, (order * _GOLDEN) % 1.0, 0.0)


Rank = Callable[[np.ndarray, np.ndarray, Grid], np.ndarray]
RANKS: dict[str, Rank] = {"tissue": tissue_darkness, "darkness": darkness, "uniform": uniform}


def choose(scores: np.ndarray, tissue: np.ndarray, instances: int, min_tissue: float) -> Choice:
    """The best `instances` cells of those with at least `min_tissue` tissue; ties go to the upper, then left cell."""
    flat_scores, flat_tissue = scores.ravel(), tissue.ravel()
    allowed = np.flatnonzero((flat_tissue >= min_tissue) & (flat_tissue > 0))
    best = allowed[np.argsort(-flat_scores[allowed], kind="stable")][:instances]
    return Choice(best, flat_scores[best], flat_tissue[best])
