"""The picture of a slide: its overview with tissue and tiles, its map, and the tiles that count most, as a strip."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from mil.arrangement import GAP, MARGIN, Arrangement, Box, arrange
from mil.colours import HEAT, NO_ATTENTION
from mil.geojson import ranked
from mil.panels import save
from mil.scale_bar import draw_scale_bar
from mil.shapes import tile_boxes, tissue_polygons
from tiling.bag import Bag
from tiling.overview import square_of

_TILE_PX = 384  # to which a tile of the strip is reduced
_FILL, _MAP_ALPHA, _OVERLAY_ALPHA = 0.35, 0.6, 0.5
_ORANGE = tuple(value / 255 for value in NO_ATTENTION)
_STROKE = [withStroke(linewidth=2.2, foreground="white")]


class Overlay(NamedTuple):
    """Heat (T, h, w) to be laid over the first tiles of the strip, its short name, and what its colours mean.

    The colours go from 0 to the greatest value of all these tiles.
    """

    name: str
    meaning: str
    heat_THW: np.ndarray


class Content(NamedTuple):
    """What is known of a slide's tiles: attention (N,), a map (G, G) of the slide's square, overlays of the strip."""

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
    header = bag.header
    shown = strip_length(len(bag), len(content.overlays))
    panels = 1 + (content.map_GG is not None)
    plan = arrange(header.width_px / header.height_px, panels, shown, 1 + len(content.overlays))
    figure = Figure(figsize=(plan.width, plan.height))
    _heading(figure, plan, lines)
    shades = ScalarMappable(Normalize(0, _top(content.attention)), HEAT)
    order = ranked(bag, content.attention)
    overview = bag.overview_rgb()
    axis = _panel(figure, plan, 0, bag, overview)
    _draw_tissue(axis, bag)
    _draw_tiles(axis, bag, content.attention, shades, order[:shown])
    if content.attention is None:
        note = "The tiles; this model weighs none more than others."
    else:
        note = None
        even = f"even would be {1 / len(bag):.3f}"
        _bar(figure, plan, plan.panels[0], shades, f"attention: share of the slide's prediction ({even})")
    if note:
        box = plan.panels[0]
        _text(figure, plan, box.left, box.top + box.height + 0.12, note, fontsize=9, color="0.3", va="top")
    if content.map_GG is not None:
        _draw_map(figure, plan, bag, overview, content.map_GG)
    _draw_strip(figure, plan, bag, content, order[:shown], shades)
    save(figure, path)


def _top(values: np.ndarray | None) -> float:
    """The end of a colour scale from 0."""
    return max(float(values.max()), 1e-12) if values is not None and values.size else 1.0


def _heading(figure: Figure, plan: Arrangement, lines: tuple[str, str, str]) -> None:
    for line, top, size, colour, weight in zip(
        lines, (0.2, 0.47, 0.7), (13, 11, 9), ("black", "black", "0.35"), ("bold", "normal", "normal"), strict=True
    ):
        text = _text(figure, plan, MARGIN, top, line, fontsize=size, color=colour, weight=weight, va="top")
        _shorten(text, (plan.width - 2 * MARGIN) * figure.dpi)


def _shorten(text: Text, most_px: float) -> None:
    """Leave out as much of the middle of a text as it takes to make it no wider than that."""
    whole = text.get_text()
    keep = len(whole)
    while (width := text.get_window_extent().width) > most_px and keep > 2:
        keep = min(keep - 1, int(keep * most_px / width))
        text.set_text(f"{whole[: -(-keep // 2)]}…{whole[len(whole) - keep // 2 :]}")


def _text(figure: Figure, plan: Arrangement, left: float, top: float, text: str, **style: Any) -> Text:
    """Text at a place in inches; a name with a dollar sign is no formula, and stands on one line."""
    line = " ".join(text.split())
    return figure.text(left / plan.width, 1 - top / plan.height, line, parse_math=False, **style)


def _axes(figure: Figure, plan: Arrangement, box: Box) -> Axes:
    bottom = plan.height - box.top - box.height
    axis = figure.add_axes(
        (box.left / plan.width, bottom / plan.height, box.width / plan.width, box.height / plan.height)
    )
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(linewidth=0.6, color="0.6")
    return axis


def _panel(figure: Figure, plan: Arrangement, index: int, bag: Bag, overview: np.ndarray) -> Axes:
    """Axes in level-0 pixels of the slide, with its overview and a scale bar."""
    width0_px, height0_px = bag.header.width_px, bag.header.height_px
    axis = _axes(figure, plan, plan.panels[index])
    axis.imshow(overview, extent=(0, width0_px, height0_px, 0), aspect="auto")
    axis.set(xlim=(0, width0_px), ylim=(height0_px, 0))
    if bag.header.mpp is not None:
        draw_scale_bar(axis, width0_px, width0_px * bag.header.mpp, plan.panels[index].width)
    return axis


def _draw_tissue(axis: Axes, bag: Bag) -> None:
    rings = [ring for polygon in tissue_polygons(bag) for ring in polygon]
    axis.add_collection(LineCollection(rings, colors="black", linewidths=0.7, alpha=0.8), autolim=False)


def _draw_tiles(
    axis: Axes, bag: Bag, attention: np.ndarray | None, shades: ScalarMappable, numbered: np.ndarray
) -> None:
    boxes = tile_boxes(bag)
    order = ranked(bag, attention)[::-1]  # those that count most lie above the others
    colours = np.tile((*_ORANGE, 1.0), (len(bag), 1)) if attention is None else shades.to_rgba(attention)
    patches = [_rectangle(*boxes[index].tolist()) for index in order]
    faces = np.array(colours)[order]
    faces[:, 3] = _FILL
    axis.add_collection(PatchCollection(patches, facecolors=faces, edgecolors="black", linewidths=2.6), autolim=False)
    axis.add_collection(
        PatchCollection(patches, facecolors="none", edgecolors=np.array(colours)[order], linewidths=1.6), autolim=False
    )
    for rank, index in enumerate(numbered, start=1):
        left, top, right, bottom = boxes[index]
        axis.text(
            (left + right) / 2, (top + bottom) / 2, str(rank), ha="center", va="center", fontsize=8, weight="bold",
            path_effects=_STROKE, clip_on=True,
        )  # fmt: skip


def _rectangle(left: int, top: int, right: int, bottom: int) -> Rectangle:
    return Rectangle((left, top), right - left, bottom - top)


def _draw_map(figure: Figure, plan: Arrangement, bag: Bag, overview: np.ndarray, map_GG: np.ndarray) -> None:
    """The map on a pale overview, where its square lies; what is beside the slide is cut off."""
    axis = _panel(figure, plan, 1, bag, pale(overview))
    square = square_of(bag.header.width_px, bag.header.height_px)
    extent = (square.x0, square.x0 + square.side0_px, square.y0 + square.side0_px, square.y0)
    limits = axis.get_xlim(), axis.get_ylim()
    picture = axis.imshow(
        map_GG, HEAT, vmin=0, vmax=_top(map_GG), alpha=_MAP_ALPHA, extent=extent, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    axis.set(xlim=limits[0], ylim=limits[1])
    frames = [_rectangle(*box) for box in tile_boxes(bag).tolist()]
    axis.add_collection(PatchCollection(frames, facecolors="none", edgecolors="white", linewidths=0.8), autolim=False)
    rows, columns = map_GG.shape
    label = f"ChipNet's map: share of its attention in a cell (even would be {1 / (rows * columns):.4f})"
    _bar(figure, plan, plan.panels[1], picture, label)


def pale(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a picture in grey and half as dark, so that colours laid over it can be read."""
    grey = 128 + rgb.mean(axis=2) / 2
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _bar(figure: Figure, plan: Arrangement, below: Box, shades: Any, label: str) -> None:
    """A colour bar under a box."""
    width = min(max(below.width, 2.2), 3.6)
    axis = _axes(figure, plan, Box(below.left, below.top + below.height + 0.12, width, 0.12))
    bar = figure.colorbar(shades, cax=axis, orientation="horizontal")
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    bar.locator = _few_ticks()
    bar.ax.tick_params(labelsize=8, length=2, pad=2)
    _text(figure, plan, below.left, below.top + below.height + 0.46, label, fontsize=8, color="0.3", va="top")


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _draw_strip(
    figure: Figure, plan: Arrangement, bag: Bag, content: Content, order: np.ndarray, shades: ScalarMappable
) -> None:
    mpp, side_px = bag.header.mpp, bag.header.side0_px
    for place, (index, views) in enumerate(zip(order.tolist(), plan.tiles, strict=True)):
        picture = bag.tile(index, _TILE_PX)
        weight = None if content.attention is None else content.attention[index]
        caption = f"{place + 1}" + ("" if weight is None else f"   attention {weight:.3f}")
        _text(figure, plan, views[0].left, views[0].top - 0.06, caption, fontsize=9, va="bottom")
        for view, box in enumerate(views):
            axis = _axes(figure, plan, box)
            axis.imshow(picture, extent=(0, 1, 1, 0), aspect="auto")
            for spine in axis.spines.values():
                spine.set(linewidth=2.5, color=_ORANGE if weight is None else shades.to_rgba(weight))
            if view:
                _overlay(axis, content.overlays[view - 1], place)
            elif mpp is not None:
                draw_scale_bar(axis, 1, side_px * mpp, box.width, fontsize=7)
    _strip_bars(figure, plan, content.overlays)


def _overlay(axis: Axes, overlay: Overlay, place: int) -> None:
    axis.imshow(
        overlay.heat_THW[place], HEAT, vmin=0, vmax=_top(overlay.heat_THW), alpha=_OVERLAY_ALPHA, extent=(0, 1, 1, 0),
        aspect="auto", interpolation="bilinear",
    )  # fmt: skip
    axis.set(xlim=(0, 1), ylim=(1, 0))
    axis.text(
        0.04, 0.96, overlay.name, ha="left", va="bottom", fontsize=7, parse_math=False, path_effects=_STROKE,
        clip_on=True,
    )  # fmt: skip


def _strip_bars(figure: Figure, plan: Arrangement, overlays: tuple[Overlay, ...]) -> None:
    """A colour bar for each overlay, side by side under the strip."""
    strip = plan.strip
    bottom = max(views[-1].top + views[-1].height for views in plan.tiles)
    width = (strip.width - (len(overlays) - 1) * GAP) / max(len(overlays), 1)
    for place, overlay in enumerate(overlays):
        below = Box(strip.left + place * (width + GAP), strip.top, width, bottom - strip.top)
        shades = ScalarMappable(Normalize(0, _top(overlay.heat_THW)), HEAT)
        _bar(figure, plan, below, shades, f"{overlay.name}: {overlay.meaning}")
