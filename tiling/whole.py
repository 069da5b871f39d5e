"""A whole picture as one tile, for photographs: no part of them is background, and none is left out."""

from typing import Any, NamedTuple

import numpy as np

from tiling.overview import OVERVIEW_PX
from tiling.rank import Choice, Grid
from tiling.resample import resize
from tiling.slide import Slide

PADDINGS: dict[str, dict[str, Any]] = {  # for numpy.pad
    "black": {"constant_values": 0},
    "white": {"constant_values": 255},
    "edge": {"mode": "edge"},
}


class Whole(NamedTuple):
    """The only cell of a grid, and its picture.

    `tile` is RGB uint8 (size, size, 3), `overview` RGB uint8 (H, W, 3) the same without padding, of whose pixels each
    is `overview_downsample` level-0 pixels large.
    """

    choice: Choice
    tile: np.ndarray
    overview: np.ndarray
    overview_downsample: float


def whole_picture(slide: Slide, grid: Grid, size_px: int, padding: str) -> Whole:
    """The picture that fills a grid of one cell on its longer side, its shape kept, and `padding` beside it.

    The picture is read and reduced once. Score and tissue share of the cell are the share of it that is picture.
    Raises SlideError where it cannot be read.
    """
    assert grid.columns == grid.rows == 1, "a whole picture has one cell"
    width, height = (
        max(1, round(length0_px * size_px / grid.side0_px)) for length0_px in (slide.width_px, slide.height_px)
    )
    picture = slide.read_whole((width, height))
    left, top = (size_px - width) // 2, (size_px - height) // 2
    margins = ((top, size_px - height - top), (left, size_px - width - left), (0, 0))
    tile = np.pad(picture, margins, **PADDINGS[padding])
    share = np.array([width * height / size_px**2])
    longest0_px = max(slide.width_px, slide.height_px)
    downsample = max(longest0_px / OVERVIEW_PX, grid.side0_px / size_px, 1.0)
    overview_px = max(1, round(slide.width_px / downsample)), max(1, round(slide.height_px / downsample))
    return Whole(Choice(np.zeros(1, np.int64), share, share), tile, resize(picture, overview_px), downsample)
