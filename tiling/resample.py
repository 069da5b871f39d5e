"""One way to change the size of a picture, for regions of a slide and for tiles on their way to a network."""

import numpy as np
from PIL import Image


def resize(
    rgb: np.ndarray, out_px: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """RGB uint8 of size `out_px` (width, height) from the fractional `box` (left, top, right, bottom) of `rgb`."""
    left, top, right, bottom = box or (0, 0, rgb.shape[1], rgb.shape[0])
    reduces = (right - left) * (bottom - top) >= out_px[0] * out_px[1]
    # Hamming is as sharp as bicubic when reducing, at the price of bilinear; it rings when it enlarges.
    method = Image.Resampling.HAMMING if reduces else Image.Resampling.BICUBIC
    image = Image.fromarray(rgb)  # a gap of 2 would be faster, but shifts by up to a pixel
    return np.asarray(image.resize(out_px, method, (left, top, right, bottom), reducing_gap=3.0))
