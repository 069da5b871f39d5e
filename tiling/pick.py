"""From a map of attention to tiles: the mass in each cell, the choice of cells, the box around what stands out.

A map is float64 (G, G), not negative, and sums to 1 over the slide's `tiling.overview.square_of`. All is arithmetic on
arrays.
"""

import math
from typing import NamedTuple

import numpy as np

from tiling.overview import square_of
from tiling.rank import Choice, Grid, sum_per_cell

FLAT_BELOW = 0.02  # peakedness of a map that says nothing; see docs/tiling.md
BOX_PX = 224  # to which a map is enlarged before a box is drawn on it
_STANDS_OUT = 1.5  # standard deviations above the mean
_EXACT = 12  # decimals of a mass; beyond, sums differ by rounding, and cells that have the same would not tie
_SAME = 1e-9  # of the mean, by which a map must vary at all


class AttentionMap(NamedTuple):
    """Where a ChipNet looks on a slide.

    `map_GG` is float64 (G, G) and sums to 1 over the slide's `square_of`; `folds` says whose map it is: the fold whose
    network had not seen the slide, or "all"; `run` is a hex digest that names the ChipNet run.
    """

    map_GG: np.ndarray
    folds: str
    run: str


class Rule(NamedTuple):
    """How cells are chosen: at most `instances` of those with at least `min_tissue` tissue.

    Of them `attention_share` (0 to 1) by attention and the rest by tissue; centres are at least `min_distance` sides
    of a cell apart.
    """

    instances: int
    min_tissue: float
    attention_share: float = 1.0
    min_distance: float = 0.0


class Box(NamedTuple):
    """A rectangle on a map: its first row and column, and those behind its last."""

    y0: int
    x0: int
    y1: int
    x1: int


class OnMap(NamedTuple):
    """A rectangle on a map, fractional, in the order of images."""

    x0: float
    y0: float
    x1: float
    y1: float


def mass_per_cell(map_GG: np.ndarray, grid: Grid, width0_px: int, height0_px: int) -> np.ndarray:
    """Float64 (rows, columns): the attention in each cell of a slide of that level-0 size.

    Masses add up to what the map has on all cells together: 1 where they cover the whole square.
    """
    square = square_of(width0_px, height0_px)
    total, _ = sum_per_cell(map_GG, grid, square.x0, square.y0, square.side0_px, square.side0_px)
    return total.round(_EXACT)


def peakedness(map_GG: np.ndarray, can_have_GG: np.ndarray) -> float:
    """1 - entropy / log n, 0 for a flat map to 1 for a single cell; n is the number of cells that can have attention.

    Those are the True of `can_have_GG`, bool (G, G), and all that have some. Where there is only one, it is 1.
    """
    cells = np.count_nonzero(can_have_GG | (map_GG > 0))
    if cells < 2:
        return 1.0
    some = map_GG[map_GG > 0]
    some = some / some.sum()
    return float(np.clip(1 + (some * np.log(some)).sum() / math.log(cells), 0, 1))


def cells_on(mask: np.ndarray, width0_px: int, height0_px: int, cells: int) -> np.ndarray:
    """Bool (cells, cells): the cells of a map in which a mask (H, W) over the whole slide is True somewhere."""
    square = square_of(width0_px, height0_px)

    def place(pixels: int, start0: float, length0_px: int) -> np.ndarray:
        middle0 = (np.arange(pixels) + 0.5) * (length0_px / pixels) - start0
        return (middle0 * (cells / square.side0_px)).astype(np.int64)

    rows, columns = np.nonzero(mask)
    out = np.zeros((cells, cells), bool)
    y, x = place(mask.shape[0], square.y0, height0_px), place(mask.shape[1], square.x0, width0_px)
    out[y[rows], x[columns]] = True
    return out


def choose_by_attention(mass: np.ndarray, tissue_score: np.ndarray, tissue: np.ndarray, rule: Rule) -> Choice:
    """The first ⌈share · instances⌉ cells by attention, then the best by tissue of what is left; each (rows, columns).

    Cells of equal mass go by tissue, then the upper and the left one first. Who is too near to one chosen before is
    left out, so that there may be fewer. The score of every chosen cell is its mass.
    """
    by_tissue = np.argsort(-tissue_score, axis=None, kind="stable")
    by_attention = by_tissue[np.argsort(-mass.ravel()[by_tissue], kind="stable")]
    allowed = ((tissue >= rule.min_tissue) & (tissue > 0)).ravel()
    share = math.ceil(round(rule.attention_share * rule.instances, 9))  # 0.07 · 100 is a little more than 7
    chosen: list[int] = []
    for order, most in ((by_attention, share), (by_tissue, rule.instances)):
        chosen = _spread(order[allowed[order]], chosen, most, mass.shape[1], rule.min_distance)
    cells = np.array(chosen, np.int64)
    return Choice(cells, mass.ravel()[cells], tissue.ravel()[cells])


def _spread(order: np.ndarray, chosen: list[int], most: int, columns: int, min_distance: float) -> list[int]:
    """What is chosen, filled up to `most` from cells in their order, none nearer to another than the distance."""
    chosen = list(chosen)
    taken = set(chosen)
    for cell in order.tolist():
        if len(chosen) >= most:
            break
        if cell in taken:
            continue
        rows, across = np.divmod(np.array(chosen, np.int64), columns)
        near = np.hypot(rows - cell // columns, across - cell % columns) < min_distance
        if not near.any():
            chosen.append(cell)
            taken.add(cell)
    return chosen


def enlarged(map_GG: np.ndarray, px: int = BOX_PX) -> np.ndarray:
    """Float64 (px, px): the map enlarged bilinearly, with half-pixel centres (`align_corners=False` elsewhere).

    In numpy, because Pillow interpolates floats in single precision only.
    """
    cells = len(map_GG)
    places = np.clip((np.arange(px) + 0.5) * (cells / px) - 0.5, 0, cells - 1)
    low = np.minimum(places.astype(np.int64), max(cells - 2, 0))
    high, share = np.minimum(low + 1, cells - 1), places - low
    rows = map_GG[low] * (1 - share)[:, None] + map_GG[high] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, high] * share


def box_around(map_GG: np.ndarray, px: int = BOX_PX) -> Box:
    """The box around all that stands out of a map enlarged to `px`: more than mean + 1.5 standard deviations.

    The standard deviation is the population's. Of a map that is the same everywhere it is the whole.
    """
    large = enlarged(map_GG, px)
    above = large > large.mean() + _STANDS_OUT * large.std()
    if np.ptp(large) <= _SAME * large.mean() or not above.any():
        return Box(0, 0, px, px)
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def square_about(box: Box) -> OnMap:
    """The square of a box's longer side about the same centre; it may reach beyond the map."""
    half = max(box.y1 - box.y0, box.x1 - box.x0) / 2
    y, x = (box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2
    return OnMap(x - half, y - half, x + half, y + half)


def clipped(square: OnMap, px: int = BOX_PX) -> OnMap:
    """The part of a rectangle that lies on a map of `px`."""
    return OnMap(*(min(max(each, 0.0), float(px)) for each in square))
