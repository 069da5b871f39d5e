"""Where the tiles and the tissue of a bag lie on its slide, in level-0 pixels."""

import numpy as np
from contourpy import FillType, contour_generator
from PIL import Image

from tiling.bag import Bag
from tiling.overview import square_of
from tiling.tissue import tissue_mask

Polygon = list[np.ndarray]  # closed rings float (n, 2) of x0, y0: the outer one, then those of its holes

_LONGEST_PX = 512  # the mask is followed at this size: finer outlines show nothing more and cost much
_SPECK_PX = 12.0  # pixels of it: smaller pieces and holes are left out


def tile_boxes(bag: Bag) -> np.ndarray:
    """Left, top, right and bottom of each tile, int64 (N, 4): the part of it that is slide."""
    header = bag.header
    right, bottom = bag.x0 + header.side0_px, bag.y0 + header.side0_px
    boxes = np.stack([bag.x0, bag.y0, right, bottom], axis=1)
    return boxes.clip(0, [header.width_px, header.height_px] * 2)


def cell_boxes(bag: Bag, cells: int) -> np.ndarray:
    """Left, top, right and bottom of each cell of a map over the slide's `square_of`, float64 (cells, cells, 4).

    Only the part of a cell that is slide: one beside it has no width, or no height.
    """
    width_px, height_px = bag.header.width_px, bag.header.height_px
    square = square_of(width_px, height_px)
    edges = np.arange(cells + 1) * (square.side0_px / cells)
    x, y = (square.x0 + edges).clip(0, width_px), (square.y0 + edges).clip(0, height_px)
    rows, columns = np.indices((cells, cells))
    return np.stack([x[columns], y[rows], x[columns + 1], y[rows + 1]], axis=-1)


def ranked(bag: Bag, attention: np.ndarray | None) -> np.ndarray:
    """Places of a bag's tiles, int64 (N,): by attention, the most first, or as they are, which is by score."""
    return np.arange(len(bag)) if attention is None else np.argsort(-attention, kind="stable")


def tissue_polygons(bag: Bag) -> list[Polygon]:
    """The outlines of the tissue that `tiling.tissue.tissue_mask` finds on the overview, without specks."""
    return outlines(tissue_mask(bag.overview_rgb()), bag.header.width_px, bag.header.height_px)


def outlines(mask: np.ndarray, width0_px: int, height0_px: int) -> list[Polygon]:
    """The outlines of what is True in a bool (H, W) mask that lies over a whole slide of that level-0 size.

    Straight edges are exact, corners cut by half a pixel of the mask (reduced to 512, where it is larger).
    """
    reduced = _reduced(mask)
    # Beyond the slide there is nothing: so all rings close, and one along the slide's edge runs on it.
    generator = contour_generator(z=np.pad(reduced, 1), fill_type=FillType.OuterOffset)
    scale = np.array([width0_px / reduced.shape[1], height0_px / reduced.shape[0]])
    polygons = []
    for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True):
        rings = np.split(points - 0.5, offsets[1:-1])
        if _area(rings[0]) >= _SPECK_PX:
            kept = [rings[0], *(ring for ring in rings[1:] if _area(ring) >= _SPECK_PX)]
            polygons.append([_lean(ring) * scale for ring in kept])
    return polygons


def _reduced(mask: np.ndarray) -> np.ndarray:
    """The share of True in each pixel of a mask at most 512 pixels long, float64."""
    height, width = mask.shape
    factor = min(1, _LONGEST_PX / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX), np.float64)


def _area(ring: np.ndarray) -> float:
    """The area within a closed ring, whichever way round (the shoelace formula)."""
    x, y = ring.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _lean(ring: np.ndarray) -> np.ndarray:
    """The closed ring without points in the middle of a straight line; the first one stays."""
    step = np.diff(ring, axis=0)
    turns = np.abs(step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0]) > 1e-9
    return ring[np.concatenate([[True], turns, [True]])]
