"""What a model looked at: the slide's overview with its tiles and their attention, and the tiles themselves."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from mil.panels import save
from tiling.bag import Bag

COLOURS = "viridis"  # even steps for the eye, and for every kind of colour vision
_STRIP = 8  # tiles shown beside the overview
_NO_ATTENTION = "#e69f00"
_SCALE_BARS_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


def draw_attention(path: Path, bag: Bag, attention: np.ndarray | None, title: str) -> None:
    """Draw the overview with the outline of each tile in the colour of its attention, and the tiles that count most.

    `attention` (N,) sums to 1 over the bag's tiles; None for a pooling without one: tiles then stand in their order.
    """
    order = np.argsort(-attention, kind="stable") if attention is not None else np.arange(len(bag))
    colours = ScalarMappable(Normalize(0, None if attention is None else float(attention.max())), COLOURS)
    shades = colours.to_rgba(attention) if attention is not None else [_NO_ATTENTION] * len(bag)
    figure = plt.figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1), squeeze=False)[0]
    axis = left.subplots()
    _draw_overview(axis, bag, shades)
    axis.set_title(title, fontsize="medium", parse_math=False)
    if attention is not None:
        bar = left.colorbar(colours, ax=axis, shrink=0.6, location="bottom", pad=0.02)
        bar.set_label(f"attention (even would be {1 / len(bag):.3f})")
    cells = right.subplots(_STRIP // 2, 2).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, index in zip(cells, order, strict=False):
        cell.imshow(bag.tile(int(index), 256))
        cell.add_patch(Rectangle((0, 0), 255, 255, fill=False, linewidth=4, edgecolor=shades[index]))
        cell.set_title(
            f"tile {index}" + (f": {attention[index]:.3f}" if attention is not None else ""), fontsize="small"
        )
    save(figure, path)


def _draw_overview(axis: Axes, bag: Bag, shades: Any) -> None:
    picture, scale = bag.overview_rgb(), bag.header.overview_downsample
    axis.imshow(picture)
    axis.set_axis_off()
    side = bag.header.side0_px / scale
    inset = 0.03 * side  # so that neighbours do not cover each other's outline
    for x0, y0, shade in zip(bag.x0, bag.y0, shades, strict=True):
        # The part of a tile that is slide: an outline beyond the picture would not be seen.
        x, y = x0 / scale, y0 / scale
        left, top = max(x, 0) + inset, max(y, 0) + inset
        width, height = min(x + side, picture.shape[1]) - inset - left, min(y + side, picture.shape[0]) - inset - top
        axis.add_patch(Rectangle((left, top), width, height, fill=False, linewidth=2.5, edgecolor=shade))
    if bag.header.mpp is not None:
        _draw_scale_bar(axis, picture.shape, bag.header.mpp * scale)


def _draw_scale_bar(axis: Axes, shape: tuple[int, ...], um_per_px: float) -> None:
    height, width = shape[:2]
    fitting = [um for um in _SCALE_BARS_UM if um / um_per_px <= width / 4]
    if fitting:
        length, y = fitting[-1] / um_per_px, height * 0.97
        axis.plot([width * 0.03, width * 0.03 + length], [y, y], color="black", linewidth=3, solid_capstyle="butt")
        label = f"{fitting[-1] / 1000:g} mm" if fitting[-1] >= 1000 else f"{fitting[-1]} µm"
        axis.text(width * 0.03 + length / 2, y - height * 0.015, label, ha="center", va="bottom", fontsize="small")
