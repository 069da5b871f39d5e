"""The colours of heat: even steps for the eye, and for every kind of colour vision."""

import numpy as np
from matplotlib import colormaps

HEAT = "viridis"
NO_ATTENTION = (230, 159, 0)  # tiles that nothing weighs: orange of Okabe and Ito's palette, none of the map's colours


def top_of(shares: np.ndarray) -> float:
    """The end of a scale from 0 for shares of 1: the largest, or twice what each has where they are even."""
    return float(min(1.0, max(shares.max(), 2 / shares.size)))


def rgb_of(shares: np.ndarray) -> list[tuple[int, int, int]]:
    """The colour of each of some numbers (N,) from 0 to 1, as red, green and blue from 0 to 255."""
    return [tuple(rgb) for rgb in colormaps[HEAT](shares, bytes=True)[:, :3].tolist()]
