"""The picture of a slide: its overview with tissue and tiles, its map, and the tiles that count most, as a strip."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from mil.arrangement import GAP, MARGIN, NARROWEST_PANEL, Arrangement, Box, arrange
from mil.canvas import HALO, Canvas
from mil.colours import HEAT, NO_ATTENTION, top_of
from mil.shapes import Polygon, ranked, tile_boxes
from tiling.bag import Bag
from tiling.overview import square_of

_TILE_PX = 384  # to which a tile of the strip is reduced
_FILL, _MAP_ALPHA, _OVERLAY_ALPHA = 0.3, 0.5, 0.5
_OUTLINE_IN = 1.4 / 72
_SMALL_TILE_IN = 0.2  # a number would hide a smaller one
_ORANGE = tuple(value / 255 for value in NO_ATTENTION)


class Overlay(NamedTuple):
    """Heat (T, h, w) to lie over the first tiles of the strip, in colours from 0 to `top`: what it is, and its unit."""

    name: str
    what: str
    unit: str
    heat_THW: np.ndarray
    top: float
    even: float | None = None


class Content(NamedTuple):
    """What is known of a slide: outlines of tissue, attention (N,), map (G, G) of its square, overlays of the strip.

    Attention and map each sum to 1, and are None where there are none.
    """

    tissue: list[Polygon]
    attention: np.ndarray | None = None
    map_GG: np.ndarray | None = None
    overlays: tuple[Overlay, ...] = ()


def strip_length(tiles: int, overlays: int) -> int:
    """How many tiles of a bag the strip shows."""
    return min(tiles, 8 if overlays < 2 else 5)


def draw_slide(path: Path, bag: Bag, content: Content, lines: tuple[str, str, str]) -> None:
    """Draw a slide as PNG, whole or not at all; `lines` are its name, what is predicted, and what else there is to say.

    Tiles are outlined and filled in the colour of their attention, or all in orange where there is none.
    """
    order = ranked(bag, content.attention)
    shown = order[: strip_length(len(bag), len(content.overlays))]
    panels, views = 1 + (content.map_GG is not None), 1 + len(content.overlays)
    plan = arrange(bag.header.width_px / bag.header.height_px, panels, len(shown), views)
    canvas = Canvas(plan.width, plan.height)
    for line, top, size, weight in zip(lines, (0.2, 0.47, 0.71), (13, 11, 9), ("bold", None, None), strict=True):
        canvas.text(MARGIN, top, line, plan.width - 2 * MARGIN, fontsize=size, weight=weight, va="top")
    colours = colours_of(bag, content.attention)
    overview = bag.overview_rgb()
    _draw_overview(canvas, plan.panels[0], bag, content, overview, colours, order, len(shown))
    if content.map_GG is not None:
        _draw_map(canvas, plan.panels[1], bag, pale(overview), content.map_GG, content.tissue)
    _draw_strip(canvas, plan, bag, content, shown, colours)
    canvas.save(path)


def colours_of(bag: Bag, attention: np.ndarray | None) -> np.ndarray:
    """The colour of each tile, RGBA float (N, 4)."""
    if attention is None:
        return np.tile((*_ORANGE, 1.0), (len(bag), 1))
    return np.asarray(ScalarMappable(Normalize(0, top_of(attention)), HEAT).to_rgba(attention))


def pale(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a picture in light greys, on which colours can be read."""
    grey = 70 + rgb.mean(axis=2) * (185 / 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _draw_overview(
    canvas: Canvas, box: Box, bag: Bag, content: Content, overview: np.ndarray, colours: np.ndarray, order: np.ndarray,
    numbered: int,
) -> None:  # fmt: skip
    axis = _panel(canvas, box, bag, overview)
    _outline(axis, content.tissue)
    inches_per_px = box.width / bag.header.width_px
    _draw_tiles(axis, bag, colours, order[::-1], inches_per_px)  # those that count most lie above the others
    _number(axis, bag, order[:numbered], inches_per_px)
    below = _bar_place(box)
    if content.attention is None:
        looks = "looks at the whole slide, and at no tile" if content.map_GG is not None else "weighs none more"
        words = f"the tiles, by the tiler's score; this model {looks}"
        canvas.text(box.left, box.top + box.height + 0.12, words, below.width, fontsize=8, color="0.3", va="top")
        return
    even = 1 / len(bag)
    label = "attention: a tile's weight in the slide", f"the mark: all tiles alike, {even:.3g} each"
    canvas.colour_bar(below, top_of(content.attention), label, even)


def _panel(canvas: Canvas, box: Box, bag: Bag, overview: np.ndarray) -> Axes:
    """Axes in level-0 pixels of the slide, with its overview and a scale bar."""
    header = bag.header
    axis = canvas.panel(box, header.width_px, header.height_px)
    axis.imshow(overview, extent=(0, header.width_px, header.height_px, 0), aspect="auto")
    if header.mpp is not None:
        canvas.scale_bar(box, header.width_px * header.mpp)
    return axis


def _outline(axis: Axes, tissue: list[Polygon]) -> None:
    rings = [ring for polygon in tissue for ring in polygon]
    axis.add_collection(LineCollection(rings, colors="black", linewidths=0.7, alpha=0.8), autolim=False)


def _bar_place(box: Box) -> Box:
    return box._replace(width=max(box.width, NARROWEST_PANEL))


def _draw_tiles(axis: Axes, bag: Bag, colours: np.ndarray, order: np.ndarray, inches_per_px: float) -> None:
    # Outlines lie inside their tiles: neighbours do not cover each other's, and the slide's edge none.
    inset = min(_OUTLINE_IN / inches_per_px, bag.header.side0_px / 10)
    patches = _rectangles(tile_boxes(bag)[order] + inset * np.array([1, 1, -1, -1]))
    edges = colours[order]
    faces = edges * [1, 1, 1, _FILL]
    axis.add_collection(PatchCollection(patches, facecolors=faces, edgecolors="black", linewidths=2.8), autolim=False)
    axis.add_collection(PatchCollection(patches, facecolors="none", edgecolors=edges, linewidths=1.6), autolim=False)


def _rectangles(boxes: np.ndarray) -> list[Rectangle]:
    return [Rectangle((left, top), right - left, bottom - top) for left, top, right, bottom in boxes.tolist()]


def _number(axis: Axes, bag: Bag, order: np.ndarray, inches_per_px: float) -> None:
    """The places of tiles in the strip: on them or, where they are small, beside them."""
    small = bag.header.side0_px * inches_per_px < _SMALL_TILE_IN
    for rank, (left, top, right, bottom) in enumerate(tile_boxes(bag)[order].tolist(), start=1):
        x, y = (right, top) if small else ((left + right) / 2, (top + bottom) / 2)
        text = axis.text(x, y, str(rank), ha="center", va="center", fontsize=8, weight="bold", path_effects=HALO)
        if small:
            text.set(ha="left", va="bottom")


def _draw_map(
    canvas: Canvas, box: Box, bag: Bag, overview: np.ndarray, map_GG: np.ndarray, tissue: list[Polygon]
) -> None:
    """The map where its square lies; what of it is beside the slide is cut off."""
    axis = _panel(canvas, box, bag, overview)
    square = square_of(bag.header.width_px, bag.header.height_px)
    extent = (square.x0, square.x0 + square.side0_px, square.y0 + square.side0_px, square.y0)
    top, even = top_of(map_GG), 1 / map_GG.size
    axis.imshow(map_GG, HEAT, vmin=0, vmax=top, alpha=_MAP_ALPHA, extent=extent, aspect="auto", interpolation="nearest")
    _outline(axis, tissue)  # under the map's colours alone it can hardly be told from glass
    frames = PatchCollection(
        _rectangles(tile_boxes(bag)), facecolors="none", edgecolors="white", linewidths=1.2, linestyles=":"
    )
    axis.add_collection(frames, autolim=False)
    label = "ChipNet's map: a cell's share of the attention", f"the mark: all cells alike, {even:.3g} each"
    canvas.colour_bar(_bar_place(box), top, label, even)


def _draw_strip(
    canvas: Canvas, plan: Arrangement, bag: Bag, content: Content, order: np.ndarray, colours: np.ndarray
) -> None:
    mpp = bag.header.mpp
    for place, (index, views) in enumerate(zip(order.tolist(), plan.tiles, strict=True)):
        first = views[0]
        caption = f"{place + 1}" + ("" if content.attention is None else f": attention {content.attention[index]:.3f}")
        canvas.text(first.left, first.top - 0.06, caption, first.width, fontsize=9, va="bottom")
        picture = bag.tile(index, _TILE_PX)
        for box, overlay in zip(views, (None, *content.overlays), strict=True):
            canvas.picture(box, picture)
            canvas.frame(box, colours[index], 2.5)
            if overlay is not None:
                _draw_overlay(canvas, box, overlay, place)
        if mpp is not None:
            canvas.scale_bar(first, bag.header.side0_px * mpp, fontsize=7)
    _draw_strip_bars(canvas, plan, content.overlays)


def _draw_overlay(canvas: Canvas, box: Box, overlay: Overlay, place: int) -> None:
    canvas.picture(
        box, overlay.heat_THW[place], cmap=HEAT, vmin=0, vmax=overlay.top, alpha=_OVERLAY_ALPHA,
        interpolation="bilinear",
    )  # fmt: skip
    left, bottom = box.left + 0.07, box.top + box.height - 0.06
    canvas.text(left, bottom, overlay.name, fontsize=7, va="bottom", path_effects=HALO)


def _draw_strip_bars(canvas: Canvas, plan: Arrangement, overlays: tuple[Overlay, ...]) -> None:
    """A colour bar for each overlay, side by side under the strip."""
    strip = plan.strip
    height = max(views[-1].top + views[-1].height for views in plan.tiles) - strip.top
    width = (strip.width - (len(overlays) - 1) * GAP) / max(len(overlays), 1)
    for place, overlay in enumerate(overlays):
        below = Box(strip.left + place * (width + GAP), strip.top, width, height)
        canvas.colour_bar(below, overlay.top, (f"{overlay.name}: {overlay.what}", overlay.unit), overlay.even)
