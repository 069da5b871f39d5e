"""A sheet on which pictures, words, colour bars and scale bars are put at places in inches."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from mil.arrangement import Box
from mil.colours import HEAT
from mil.panels import DPI, any_script, save

HALO = [withStroke(linewidth=2.2, foreground="white")]  # round words that stand on a picture

_STEPS_UM = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))
_LONGEST_SCALE = 0.28  # of the picture's width
_SCALE_IN, _SCALE_INSET_IN = 0.045, 0.09  # thickness of a scale bar, and how far it is from the picture's edges
_BAR_IN, _BAR_INSET_IN, _WIDEST_BAR_IN = 0.12, 0.12, 3.6
_GREY = "0.3"


class Canvas:
    """A figure with one pair of axes over all of it, in inches from the upper left corner.

    A pair for each picture would take most of the time that drawing takes.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(self.figure)  # words can be measured on it
        self.width, self.height = width, height
        self.axis = self.figure.add_axes((0, 0, 1, 1), zorder=1, autoscale_on=False)
        self.axis.set_axis_off()
        self.axis.set(xlim=(0, width), ylim=(height, 0))

    def save(self, path: Path) -> None:
        """Write it as PNG, whole or not at all."""
        save(self.figure, path)

    def panel(self, box: Box, width: float, height: float) -> Axes:
        """Axes in a box, with a frame; x from 0 to `width`, y from 0 downwards to `height`."""
        bottom = self.height - box.top - box.height
        place = (box.left / self.width, bottom / self.height, box.width / self.width, box.height / self.height)
        axis = self.figure.add_axes(place, autoscale_on=False)
        axis.set_axis_off()
        axis.set(xlim=(0, width), ylim=(height, 0))
        self.frame(box, "0.6", 0.6)
        return axis

    def picture(self, box: Box, values: np.ndarray, **style: Any) -> None:
        """Put a picture, or numbers as colours, into a box."""
        extent = (box.left, box.left + box.width, box.top + box.height, box.top)
        self.axis.imshow(values, extent=extent, aspect="auto", **style)

    def frame(self, box: Box, colour: Any, points: float) -> None:
        """Draw the edge of a box."""
        corner = box.left, box.top
        self.axis.add_patch(
            Rectangle(corner, box.width, box.height, fill=False, linewidth=points, edgecolor=colour, clip_on=False)
        )

    def text(self, left: float, top: float, words: str, widest: float | None = None, **style: Any) -> Text:
        """Words on one line, none of them a formula; the middle is left out where they are wider than `widest`."""
        whole = " ".join(words.split())
        text = self.axis.text(left, top, whole, parse_math=False, **style)
        keep = len(whole)
        with any_script():
            while widest is not None and keep > 2 and (width := text.get_window_extent().width / DPI) > widest:
                keep = min(keep - 1, int(keep * widest / width))
                text.set_text(f"{whole[: -(-keep // 2)]}…{whole[len(whole) - keep // 2 :]}")
        return text

    def colour_bar(self, below: Box, top: float, label: tuple[str, str], even: float | None = None) -> None:
        """The colours of 0 to `top` under a box, with numbers, two lines of words, and a mark at `even`."""
        bar = Box(below.left, below.top + below.height + _BAR_INSET_IN, min(below.width, _WIDEST_BAR_IN), _BAR_IN)
        self.picture(bar, np.linspace(0, 1, 256)[None], cmap=HEAT, interpolation="nearest")
        self.frame(bar, "black", 0.4)
        base = bar.top + bar.height
        for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top):
            if 0 <= tick <= top * 1.0001:
                x = bar.left + bar.width * tick / top
                side = "left" if tick == 0 else "center" if tick < 0.97 * top else "right"
                self.axis.plot([x, x], [base, base + 0.03], color="black", linewidth=0.6)
                self.axis.text(x, base + 0.04, f"{tick:g}", ha=side, va="top", fontsize=7.5)
        if even is not None and even < top:
            x = bar.left + bar.width * even / top
            self.axis.plot([x, x], [bar.top - 0.04, base], color="black", linewidth=1.2)
            self.axis.plot([x, x], [bar.top, base], color="white", linewidth=0.6)
        for line, words in enumerate(label):
            self.text(bar.left, base + 0.19 + 0.13 * line, words, below.width, fontsize=8, color=_GREY, va="top")

    def scale_bar(self, box: Box, width_um: float, fontsize: float = 8) -> None:
        """A bar in the lower left of a picture in a box, which shows so many µm from left to right."""
        length_um = scale_um(width_um)
        if length_um is None:
            return
        left, bottom = box.left + _SCALE_INSET_IN, box.top + box.height - _SCALE_INSET_IN
        width = length_um / width_um * box.width
        bar = Rectangle((left, bottom - _SCALE_IN), width, _SCALE_IN, facecolor="black", edgecolor="white")
        bar.set(linewidth=0.8, zorder=5)
        self.axis.add_patch(bar)
        label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
        place = left, bottom - _SCALE_IN - 0.03
        self.axis.text(*place, label, va="bottom", fontsize=fontsize, path_effects=HALO, zorder=5)


def scale_um(width_um: float) -> int | None:
    """The longest round length in µm that a scale bar takes on a picture so wide; None where that is under 1 µm."""
    return max((step for step in _STEPS_UM if step <= _LONGEST_SCALE * width_um), default=None)
