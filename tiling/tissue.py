"""Which pixels of a low-resolution picture of a slide are tissue: neither glass, nor pen, nor black, nor dust.

Haematoxylin and eosin absorb green most, so stained tissue is coloured with green as its weakest channel, and its
distance from grey (chroma) tells it from glass, dust, bubbles and scanner borders, whatever their brightness.

This is done for every slide, on a million pixels: it works on planes of bytes, by tables and histograms.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

_BRIGHT = 200  # of 255: glass is brighter than this in every channel
_BLACK = 60  # of 255: a pixel whose brightest channel is below is black ink or the scanner's border
_CHROMA_RANGE = (14, 30)  # of 255: where Otsu's threshold may lie, so that a bare slide does not split its noise
_PEN_SATURATION = 0.45  # green and blue ink is purer than any counterstain
_PURE_SATURATION = 0.75  # red ink is purer than blood, and a fluorescent dye than any stain
_PURE_REACH_PX = 3  # how far the soft edge of a pure stroke goes

_BYTES = np.arange(256)


class Planes(NamedTuple):
    """The channels of a picture, its strongest and its weakest channel and their distance; each uint8 (H, W)."""

    red: np.ndarray
    green: np.ndarray
    blue: np.ndarray
    strongest: np.ndarray
    weakest: np.ndarray
    chroma: np.ndarray


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Bool (H, W), True on stained tissue, of an RGB uint8 (H, W, 3) picture at about 2 to 40 µm per pixel."""
    white = whiten(planes(rgb[..., 0], rgb[..., 1], rgb[..., 2]))
    excluded = pen_mask(white) | (white.strongest < _BLACK)
    threshold = chroma_threshold(white.chroma[~excluded])
    return _opened((white.chroma > threshold) & ~excluded)


def planes(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> Planes:
    """The planes of a picture given by its channels."""
    red, green, blue = (np.ascontiguousarray(channel) for channel in (red, green, blue))
    strongest = np.maximum(np.maximum(red, green), blue)
    weakest = np.minimum(np.minimum(red, green), blue)
    return Planes(red, green, blue, strongest, weakest, strongest - weakest)


def whiten(picture: Planes) -> Planes:
    """The picture with its glass, where it shows any, scaled to white."""
    bright = picture.weakest > _BRIGHT
    if not bright.any():
        return picture
    # Glass passes more green than the palest tissue does.
    green = picture.green[bright]
    glassy = green >= _quantile(green, 0.9)
    channels = picture[:3]
    glass = (_quantile(channel[bright][glassy], 0.5) for channel in channels)
    tables = (np.minimum(_BYTES * (255.0 / level), 255).astype(np.uint8) for level in glass)
    return planes(*(table[channel] for table, channel in zip(tables, channels, strict=True)))


def pen_mask(white: Planes) -> np.ndarray:
    """Bool (H, W), True on coloured ink, and fluorescence, of a whitened picture; black ink is merely dark."""
    return _cold_ink(white) | _pure_ink(white)


def _cold_ink(white: Planes) -> np.ndarray:
    """Green and blue ink; it grows from its pure core into its washed-out edge, which a counterstain does not have."""
    cold = (white.green > white.red) & (white.chroma > _CHROMA_RANGE[0])
    core = cold & _saturated(white, _PEN_SATURATION)
    return ndimage.binary_propagation(core, mask=cold) if core.any() else core


def _pure_ink(white: Planes) -> np.ndarray:
    """Red and blue of one channel alone, and the soft edge of such strokes."""
    half = np.maximum(_BYTES - 1, 0).astype(np.uint8) // 2  # x > 2 y is y <= half of x
    red = (white.red > 0) & (np.maximum(white.green, white.blue) <= half[white.red])
    blue = (white.blue > 0) & (np.maximum(white.red, white.green) <= half[white.blue])
    pure = (red | blue) & _saturated(white, _PURE_SATURATION)
    return ndimage.binary_dilation(pure, iterations=_PURE_REACH_PX) if pure.any() else pure


def _saturated(white: Planes, least: float) -> np.ndarray:
    return white.chroma > (_BYTES * least).astype(np.uint8)[white.strongest]


def chroma_threshold(chroma: np.ndarray) -> float:
    """Otsu's threshold (Otsu 1979, eq. 18) of uint8 values, kept within the range where tissue begins."""
    if chroma.size == 0:
        return float(_CHROMA_RANGE[1])
    counts = np.bincount(chroma.ravel(), minlength=256)
    below, mass = np.cumsum(counts), np.cumsum(counts * _BYTES)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(np.clip(np.nanargmax(np.nan_to_num(between)), *_CHROMA_RANGE))


def _quantile(values: np.ndarray, share: float) -> float:
    """The quantile of uint8 values, interpolated as numpy does, from their histogram."""
    upto = np.cumsum(np.bincount(values, minlength=256))
    rank = share * (len(values) - 1)
    low, high = np.searchsorted(upto, [int(rank), int(np.ceil(rank))], side="right")
    return float(low + (rank - int(rank)) * (high - low))


def _opened(mask: np.ndarray) -> np.ndarray:
    """The mask without what no square of 2 × 2 pixels fits into."""
    squares = mask[:-1] & mask[1:]
    squares = squares[:, :-1] & squares[:, 1:]
    out = np.zeros_like(mask)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            out[rows, columns] |= squares
    return out
