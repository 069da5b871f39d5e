"""Which pixels of a low-resolution picture of a slide are tissue: neither glass, nor pen, nor black, nor dust.

Haematoxylin and eosin absorb green most, so stained tissue is coloured with green as its weakest channel, and its
distance from grey (chroma) tells it from glass, dust, bubbles and scanner borders, whatever their brightness.

This is done for every slide, on a million pixels: it works on planes of bytes, by tables and histograms.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

_BRIGHT = 200  # of 255: glass is brighter than this in every channel
_BLACK = 60  # of 255: a pixel whose brightest channel is below is black ink or the scanner's border
_CHROMA_RANGE = (14, 30)  # of 255: where Otsu's threshold may lie, so that a bare slide does not split its noise
_PEN_SATURATION = 9, 20  # chroma relative to the strongest channel: green and blue ink is purer than any counterstain
_PURE_SATURATION = 3, 4  # red ink is purer than blood, and a fluorescent dye than any stain
_PURE_REACH_PX = 3  # how far the soft edge of a pure stroke goes

_BYTES = np.arange(256)


class Planes(NamedTuple):
    """An RGB picture, its channels, its strongest and its weakest channel and their distance; each uint8 (H, W)."""

    rgb: Image.Image
    red: np.ndarray
    green: np.ndarray
    blue: np.ndarray
    strongest: np.ndarray
    weakest: np.ndarray
    chroma: np.ndarray


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Bool (H, W), True on stained tissue, of an RGB uint8 (H, W, 3) picture at about 2 to 40 µm per pixel."""
    white = whiten(planes(Image.fromarray(rgb)))
    excluded = pen_mask(white) | (white.strongest < _BLACK)
    threshold = chroma_threshold(_histogram(white.chroma, ~excluded))
    return _opened((white.chroma > threshold) & ~excluded)


def planes(picture: Image.Image) -> Planes:
    """The planes of an RGB picture."""
    red, green, blue = (np.asarray(channel) for channel in picture.split())
    strongest = np.maximum(np.maximum(red, green), blue)
    weakest = np.minimum(np.minimum(red, green), blue)
    return Planes(picture, red, green, blue, strongest, weakest, strongest - weakest)


def whiten(picture: Planes) -> Planes:
    """The picture with its glass, where it shows any, scaled to white."""
    bright = picture.weakest > _BRIGHT
    if not bright.any():
        return picture
    # Glass passes more green than the palest tissue does.
    glassy = bright & (picture.green >= _quantile(_histogram(picture.green, bright), 0.9))
    channels = (picture.red, picture.green, picture.blue)
    glass = (_quantile(_histogram(channel, glassy), 0.5) for channel in channels)
    tables = [np.minimum(_BYTES * (255.0 / level), 255).astype(np.uint8) for level in glass]
    return planes(picture.rgb.point(np.concatenate(tables).tolist()))


def pen_mask(white: Planes) -> np.ndarray:
    """Bool (H, W), True on coloured ink, and fluorescence, of a whitened picture; black ink is merely dark."""
    return _cold_ink(white) | _pure_ink(white)


def _cold_ink(white: Planes) -> np.ndarray:
    """Green and blue ink; it grows from its pure core into its washed-out edge, which a counterstain does not have."""
    cold = (white.green > white.red) & (white.chroma > _CHROMA_RANGE[0])
    core = cold & _saturated(white, *_PEN_SATURATION)
    return ndimage.binary_propagation(core, mask=cold) if core.any() else core


def _pure_ink(white: Planes) -> np.ndarray:
    """Red and blue of one channel alone, and the soft edge of such strokes."""
    pure = _saturated(white, *_PURE_SATURATION)
    if pure.any():
        red, green, blue = (channel.astype(np.int16) for channel in (white.red, white.green, white.blue))
        pure &= (red > 2 * np.maximum(green, blue)) | (blue > 2 * np.maximum(red, green))
    return ndimage.binary_dilation(pure, iterations=_PURE_REACH_PX) if pure.any() else pure


def _saturated(white: Planes, share: int, of: int) -> np.ndarray:
    """Where chroma is more than `share` / `of` of the strongest channel."""
    return white.chroma * np.uint16(of) > white.strongest * np.uint16(share)


def chroma_threshold(counts: np.ndarray) -> float:
    """Otsu's threshold (Otsu 1979, eq. 18) of a histogram (256,), kept within the range where tissue begins."""
    if not counts.any():
        return float(_CHROMA_RANGE[1])
    below, mass = np.cumsum(counts), np.cumsum(counts * _BYTES)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(np.clip(np.nanargmax(np.nan_to_num(between)), *_CHROMA_RANGE))


def _histogram(channel: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How often each value of a uint8 (H, W) channel occurs where the bool (H, W) mask is True; int64 (256,)."""
    return np.array(Image.fromarray(channel).histogram(Image.fromarray(mask.view(np.uint8))))


def _quantile(counts: np.ndarray, share: float) -> float:
    """The quantile of a histogram (256,), interpolated as numpy does."""
    upto = np.cumsum(counts)
    rank = share * (int(upto[-1]) - 1)
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
