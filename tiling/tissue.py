"""Which pixels of a low-resolution picture of a slide are tissue: neither glass, nor pen, nor black, nor dust.

Haematoxylin and eosin absorb green most, so stained tissue is coloured with green as its weakest channel, and its
distance from grey (chroma) tells it from glass, dust, bubbles and scanner borders, whatever their brightness.
"""

import numpy as np
from scipy import ndimage

_BRIGHT = 200  # of 255: glass is brighter than this in every channel
_BLACK = 60  # of 255: a pixel whose brightest channel is below is black ink or the scanner's border
_CHROMA_RANGE = (14, 30)  # of 255: where Otsu's threshold may lie, so that a bare slide does not split its noise
_PEN_SATURATION = 0.45  # green and blue ink is purer than any counterstain
_PURE_SATURATION = 0.75  # red ink is purer than blood, and a fluorescent dye than any stain
_PURE_REACH_PX = 3  # how far the soft edge of a pure stroke goes


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Bool (H, W), True on stained tissue, of an RGB uint8 (H, W, 3) picture at about 2 to 40 µm per pixel."""
    white = whiten(rgb)
    strongest, weakest = white.max(axis=2), white.min(axis=2)
    chroma = strongest - weakest
    ink = pen_mask(white, chroma)
    black = strongest < _BLACK
    candidates = chroma[~(ink | black)]
    stained = (chroma > chroma_threshold(candidates)) & ~ink & ~black
    return ndimage.binary_opening(stained, structure=np.ones((2, 2), bool))


def whiten(rgb: np.ndarray) -> np.ndarray:
    """Int16 (H, W, 3): the picture with its glass, where it shows any, scaled to white."""
    weakest = rgb.min(axis=2)
    bright = rgb[weakest > _BRIGHT]
    if len(bright) == 0:
        return rgb.astype(np.int16)
    # Glass passes more green than the palest tissue does.
    green = bright[:, 1]
    glass = np.median(bright[green >= np.percentile(green, 90)], axis=0)
    return np.minimum(rgb * (255.0 / glass), 255).astype(np.int16)


def pen_mask(rgb: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Bool (H, W), True on coloured ink, and fluorescence, of whitened RGB (H, W, 3); black ink is merely dark."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    saturation = chroma / np.maximum(rgb.max(axis=2), 1)
    cold = (green > red) & (chroma > _CHROMA_RANGE[0])
    pure_cold = cold & (saturation > _PEN_SATURATION)
    # Ink grows from its pure core into its washed-out edge; a bluish counterstain has no such core.
    cold_ink = ndimage.binary_propagation(pure_cold, mask=cold)
    one_channel = (red > 2 * np.maximum(green, blue)) | (blue > 2 * np.maximum(red, green))
    pure = one_channel & (saturation > _PURE_SATURATION)
    return cold_ink | ndimage.binary_dilation(pure, iterations=_PURE_REACH_PX)


def chroma_threshold(chroma: np.ndarray) -> float:
    """Otsu's threshold (Otsu 1979, eq. 18) of values in 0 to 255, kept within the range where tissue begins."""
    if chroma.size == 0:
        return float(_CHROMA_RANGE[1])
    counts = np.bincount(chroma.ravel().astype(np.int64), minlength=256)[:256]
    below, mass = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(np.clip(np.nanargmax(np.nan_to_num(between)), *_CHROMA_RANGE))
