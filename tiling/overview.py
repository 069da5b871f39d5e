"""A slide's overview as a square, in which a small network looks for what matters, and where the square lies."""

from typing import NamedTuple

import numpy as np

from tiling.resample import resize
from tiling.tissue import tissue_mask

OVERVIEWS = "overviews"  # the setting of a spec that says that whole slides are looked at, and not tiles
# Those settings of the tiler on which the overview of a slide depends, if by little.
OVERVIEW_SETTINGS = ("instances", "size", "min_tissue", "longest_edge", "mpp", "magnification", "downsample", "whole")
OVERVIEW_PX = 1024  # its longer side in a bag, at most
_WHITE = 255


class Square(NamedTuple):
    """A square on a slide, centred on it; level-0 pixels, fractional, and the corner may be negative."""

    x0: float
    y0: float
    side0_px: float


def square_of(width0_px: int, height0_px: int) -> Square:
    """The smallest square that holds a slide of that level-0 size."""
    side0_px = max(width0_px, height0_px)
    return Square((width0_px - side0_px) / 2, (height0_px - side0_px) / 2, side0_px)


def squared(overview_rgb: np.ndarray, px: int) -> np.ndarray:
    """RGB uint8 (px, px, 3) of an overview (H, W, 3): whole, in the middle, and beside it the colour of its background.

    It shows the slide's `square_of`, to within a pixel.
    """
    height, width = overview_rgb.shape[:2]
    scale = px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = np.empty((px, px, 3), np.uint8)
    out[...] = background_of(overview_rgb)
    left, top = (px - size[0]) // 2, (px - size[1]) // 2
    out[top : top + size[1], left : left + size[0]] = resize(overview_rgb, size)
    return out


def background_of(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (3,): the median of what is no tissue in a picture uint8 (H, W, 3), white where all of it is tissue."""
    background = rgb[~tissue_mask(rgb)]
    if not len(background):
        return np.full(3, _WHITE, np.uint8)
    return np.round(np.median(background, axis=0)).astype(np.uint8)
