"""Where the tiles of a slide lie when a ChipNet picks them: all that follows from its overview and the map on it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tiling.bag import Picked
from tiling.overview import square_of
from tiling.pick import (
    BOX_PX,
    FLAT_BELOW,
    AttentionMap,
    OnMap,
    Rule,
    box_around,
    cells_on,
    choose_by_attention,
    mass_per_cell,
    peakedness,
    square_about,
)
from tiling.rank import BLACK, Choice, Grid, darkness_of, sum_per_cell
from tiling.tissue import tissue_mask

BY_ATTENTION, BY_TISSUE, BY_NOTHING = "attention", "tissue (flat map)", "whole (flat map)"
_EXACT = 9  # decimals of a share, beyond which the sums of cells that are full of tissue differ

Look = Callable[[np.ndarray], AttentionMap]


class Places(NamedTuple):
    """The tiles to cut, best first: the corners of squares in level-0 pixels, int64 (N,), and their side.

    With their scores and tissue shares, float64 (N,), and what is to be said of how they were picked; None where no
    cell has enough tissue, and so nothing was picked.
    """

    x0: np.ndarray
    y0: np.ndarray
    side0_px: int
    score: np.ndarray
    tissue: np.ndarray
    picked: Picked | None


def places_of(overview_rgb: np.ndarray, size0_px: tuple[int, int], grid: Grid, rule: Rule, look: Look) -> Places:
    """The cells of a grid that the rule chooses on a slide of that level-0 size (width, height), by where `look` looks.

    Tissue, and the ranking by it, are those of the overview, RGB uint8 (H, W, 3) of the whole slide. Where the map is
    nearly flat tissue alone decides, and the score is the darkness of tissue in place of the attention mass.
    """
    mask = tissue_mask(overview_rgb)
    tissue = _mean_of_cells(mask, size0_px, grid)
    by_tissue = _mean_of_cells(darkness_of(overview_rgb) * mask / BLACK, size0_px, grid)
    if not ((tissue >= rule.min_tissue) & (tissue > 0)).any():
        none = np.zeros(0)
        return Places(none.astype(np.int64), none.astype(np.int64), grid.side0_px, none, none, None)
    attention = look(overview_rgb)
    peak = _peakedness(attention, mask, size0_px)
    if peak < FLAT_BELOW:
        choice = choose_by_attention(by_tissue, by_tissue, tissue, rule)
    else:
        choice = choose_by_attention(mass_per_cell(attention.map_GG, grid, *size0_px), by_tissue, tissue, rule)
    by = BY_TISSUE if peak < FLAT_BELOW else BY_ATTENTION
    return _on_grid(choice, grid, Picked(attention.run, attention.folds, peak, by))


def place_of_box(overview_rgb: np.ndarray, size0_px: tuple[int, int], look: Look) -> Places:
    """The square about what stands out of the map of a slide of that level-0 size; the whole of it where nothing does.

    Of a square that reaches beyond the slide's `square_of` only the part on it shows something: it is clipped, but
    keeps its shape and its scale. Its score is its attention mass, its tissue share that of the overview.
    """
    mask = tissue_mask(overview_rgb)
    attention = look(overview_rgb)
    peak = _peakedness(attention, mask, size0_px)
    flat = peak < FLAT_BELOW
    found = OnMap(0, 0, BOX_PX, BOX_PX) if flat else square_about(box_around(attention.map_GG))
    square = square_of(*size0_px)
    px0 = square.side0_px / BOX_PX
    side0_px = max(1, round((found.x1 - found.x0) * px0))
    cell = Grid(math.floor(square.x0 + found.x0 * px0), math.floor(square.y0 + found.y0 * px0), side0_px, 1, 1)
    mass, tissue = mass_per_cell(attention.map_GG, cell, *size0_px), _mean_of_cells(mask, size0_px, cell)
    choice = Choice(np.zeros(1, np.int64), mass.ravel(), tissue.ravel())
    by = BY_NOTHING if flat else BY_ATTENTION
    return _on_grid(choice, cell, Picked(attention.run, attention.folds, peak, by))


def note_on(picked: Picked | None) -> str:
    """What the manifest says of a slide of which a ChipNet could not pick the tiles, nothing of others."""
    if picked is None or picked.by == BY_ATTENTION:
        return ""
    instead = "tissue decided" if picked.by == BY_TISSUE else "the tile is the whole slide"
    return f"the map was nearly flat (peakedness {picked.peakedness:.3f}, below {FLAT_BELOW:g}): {instead}"


def _mean_of_cells(values: np.ndarray, size0_px: tuple[int, int], grid: Grid) -> np.ndarray:
    """Float (rows, columns): the mean of values (H, W) over a slide in each whole cell, 0 being what is outside."""
    total, _ = sum_per_cell(values, grid, 0, 0, *size0_px)
    area0_px = size0_px[0] * size0_px[1] / values.size  # of a pixel
    return (total * (area0_px / grid.side0_px**2)).round(_EXACT).clip(0, 1)


def _peakedness(attention: AttentionMap, mask: np.ndarray, size0_px: tuple[int, int]) -> float:
    return peakedness(attention.map_GG, cells_on(mask, *size0_px, len(attention.map_GG)))


def _on_grid(choice: Choice, grid: Grid, picked: Picked) -> Places:
    return Places(*grid.corners0(choice.cells), grid.side0_px, choice.score, choice.tissue, picked)
