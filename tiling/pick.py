"""Tiles picked by attention."""

from typing import NamedTuple

import numpy as np


class AttentionMap(NamedTuple):
    """Where a ChipNet looks on a slide: `map_GG` float64 sums to 1 over the slide's `square_of`.

    `folds` names the fold whose model was asked, or is `all`; `run` is a hex digest that names the run.
    """

    map_GG: np.ndarray
    folds: str
    run: str
