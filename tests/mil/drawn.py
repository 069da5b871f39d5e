"""A bag that is made in memory, for what is drawn of it."""

import numpy as np

from tiling.bag import Bag, BagHeader
from tiling.codec import CODECS, encode_overview

GLASS, TISSUE = (244, 242, 245), (190, 90, 160)


def a_bag(
    corners: list[tuple[int, int]], width_px: int = 400, height_px: int = 200, side0_px: int = 50,
    mpp: float | None = 2.0, slide_id: str = "a", tissue: tuple[int, int, int, int] | None = (100, 40, 300, 120),
    tiles: list[np.ndarray] | None = None,
) -> Bag:  # fmt: skip
    """A bag of a slide of glass with a box of tissue (left, top, right, bottom), its overview at half the size."""
    rgb = np.full((height_px // 2, width_px // 2, 3), GLASS, np.uint8)
    if tissue is not None:
        left, top, right, bottom = (edge // 2 for edge in tissue)
        rgb[top:bottom, left:right] = TISSUE
    pictures = tiles or [np.full((16, 16, 3), TISSUE, np.uint8)] * len(corners)
    header = BagHeader(
        slide_id,
        f"{slide_id}.svs",
        1,
        width_px,
        height_px,
        mpp,
        "file",
        "",
        {},
        "png",
        len(corners),
        side0_px,
        2.0,
        1.0,
    )
    encoded = tuple(CODECS["png"].encode(tile, 0, 0) for tile in pictures)
    x0, y0 = np.array(corners, np.int64).reshape(-1, 2).T
    score, share = np.linspace(0.9, 0.1, len(corners)), np.full(len(corners), 0.5)
    return Bag(header, encoded, x0, y0, score, share, encode_overview(rgb))
