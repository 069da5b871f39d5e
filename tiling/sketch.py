"""A small picture of a slide from a few of its compressed tiles: for levels that would take too long to decode whole.

Some tiles, on a lattice, are decoded; the others get the colour of decoded tiles near by that compressed to about as
many bytes, for glass, stroma and dense tissue differ in that. This is an interpolation on a bilateral grid (Chen,
Paris and Durand 2007, "Real-time edge-aware image processing with the bilateral grid") whose third axis is bytes.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

_TILE_BYTES = 1500  # what any tile costs besides its bytes, in bytes that could have been decoded meanwhile
_COARSEST = 16  # tiles from one decoded tile to the next, at most
_BINS = 8  # of the logarithm of the bytes
_FEW = 1e-3  # weight of decoded tiles below which a tile has none near by that compressed alike


def lattice_step(bytecounts: np.ndarray, budget_bytes: float) -> int:
    """The least distance of decoded tiles, in tiles, at which they have at most `budget_bytes`; 1 is every tile."""
    steps = range(1, _COARSEST)
    return next((step for step in steps if _cost(bytecounts, step) <= budget_bytes), _COARSEST)


def _cost(bytecounts: np.ndarray, step: int) -> float:
    chosen = bytecounts[lattice(bytecounts.shape, step)]
    return float(chosen.sum()) + _TILE_BYTES * len(chosen)


def lattice(shape: tuple[int, ...], step: int) -> np.ndarray:
    """Bool (tile rows, tile columns), True for tiles `step` apart; every other row of them is shifted by half."""
    row, column = np.indices(shape[:2])
    row = row - min(step // 2, shape[0] - 1)
    column = column - min(step // 2, shape[1] - 1)
    return (row % step == 0) & ((column + row // step % 2 * (step // 2)) % step == 0)


def sketch(
    read: Callable[[int, int], np.ndarray], bytecounts: np.ndarray, decoded: np.ndarray, side_px: int
) -> np.ndarray:
    """RGB uint8 (side · tile rows, side · tile columns, 3), a square of `side_px` for each tile.

    `read(row, column)` gives the pixels of a tile where `decoded` (tile rows, tile columns) is True.
    """
    rows, columns = decoded.shape
    squares = np.zeros((rows, columns, side_px, side_px, 3), np.uint8)
    for row, column in np.argwhere(decoded).tolist():
        squares[row, column] = _shrunk(read(row, column), side_px)
    if not decoded.all():
        colours = fill(squares.mean(axis=(2, 3)), decoded, bytecounts)
        smooth = Image.fromarray(np.round(colours).astype(np.uint8)).resize(
            (columns * side_px, rows * side_px), Image.Resampling.BILINEAR
        )
        between = _as_squares(np.asarray(smooth), rows, columns)
        squares[~decoded] = between[~decoded]
    return squares.swapaxes(1, 2).reshape(rows * side_px, columns * side_px, 3)


def _shrunk(rgb: np.ndarray, side_px: int) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize((side_px, side_px), Image.Resampling.BOX))


def _as_squares(rgb: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return rgb.reshape(rows, rgb.shape[0] // rows, columns, rgb.shape[1] // columns, 3).swapaxes(1, 2)


def fill(colours: np.ndarray, known: np.ndarray, bytecounts: np.ndarray) -> np.ndarray:
    """Colours (rows, columns, 3) where they are `known`, and for the other tiles those of tiles like them near by."""
    known_share = known.mean()
    reach = 0.8 / math.sqrt(known_share)  # tiles; about the distance of known ones
    level = np.log2(bytecounts + 1.0)
    level = (level - level.min()) / max(float(np.ptp(level)), 1.0) * (_BINS - 1)
    shares = np.maximum(0, 1 - np.abs(level - np.arange(_BINS)[:, None, None])).astype(np.float32)  # of each bin
    splat = shares * known
    smoothing = (0.6, reach, reach)
    weight = ndimage.gaussian_filter(splat, smoothing, mode="constant", truncate=3.0)
    near = (shares * weight).sum(axis=0)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    out = colours[tuple(nearest)].astype(np.float32)
    alike = near > _FEW * known_share
    for channel in range(3):
        of_bins = ndimage.gaussian_filter(splat * colours[..., channel], smoothing, mode="constant", truncate=3.0)
        out[alike, channel] = ((shares * of_bins).sum(axis=0) / np.maximum(near, 1e-12))[alike]
    out[known] = colours[known]
    return out
