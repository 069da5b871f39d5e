"""What a network is given of a bag, as arrays: its tiles, or its overview as a square."""

import numpy as np

from tiling.bag import Bag
from tiling.overview import squared


def tiles_NCHW(bag: Bag, px: int) -> np.ndarray:
    """The tiles of a bag, best first, as uint8 (N, 3, px, px); raises BagError where one cannot be decoded."""
    tiles = np.empty((len(bag), 3, px, px), np.uint8)
    for index, tile in enumerate(tiles):
        tile[...] = bag.tile(index, px).transpose(2, 0, 1)
    return tiles


def square_1CHW(overview_rgb: np.ndarray, px: int) -> np.ndarray:
    """Uint8 (1, 3, px, px): an overview RGB uint8 (H, W, 3) as ChipNet sees it (see tiling.overview)."""
    return squared(overview_rgb, px).transpose(2, 0, 1)[None].copy()
