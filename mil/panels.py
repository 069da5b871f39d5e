"""Figures of several panels, and how they are written."""

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np

from mil.intervals import Estimate
from tiling.output import replacing

matplotlib.use("Agg")  # no display is needed, none is opened

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 150
COLUMNS = 5  # panels in a row, at most
FIFTHS = np.arange(6) / 5


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and let go of it."""
    with replacing(path) as temporary, any_script():
        # Photographs gain nothing from more than the least compression, which takes a third of the time.
        figure.savefig(temporary, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    plt.close(figure)


@contextmanager
def any_script() -> Iterator[None]:
    """A block in which names in another script are drawn, or measured, without a warning: boxes stand for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def panels(count: int, *heights: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `count` panels, and the axes of their parts: a list a part, from above; heights in inches."""
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    size = (max(2.8 * columns, 4.4), (sum(heights) + 0.9) * rows + 0.3)
    figure, grid = plt.subplots(
        rows * len(heights), columns, figsize=size, squeeze=False, height_ratios=heights * rows, layout=_layout()
    )
    for axis in grid.flat:
        axis.spines[["top", "right"]].set_visible(False)
    parts = [grid[part :: len(heights)].ravel() for part in range(len(heights))]
    for axis in (axis for part in parts for axis in part[count:]):
        axis.remove()
    return figure, [list(part[:count]) for part in parts]


def one_panel(side: float) -> tuple[Figure, Axes]:
    """A square figure of one panel; its side in inches."""
    return plt.subplots(figsize=(side, side), layout=_layout())


def _layout() -> ConstrainedLayoutEngine:
    """Room between panels, so that a title does not touch what is named above it."""
    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)


def name_left(axes: Sequence[Axes], name: str) -> None:
    """Name the vertical axis of the panels that are first in their row."""
    for axis in axes:
        if (place := axis.get_subplotspec()) is not None and place.is_first_col():
            axis.set_ylabel(name)


def same_range(axes: Sequence[Axes]) -> None:
    """Give all panels the vertical range that holds the curves of each."""
    low, high = zip(*(axis.get_ylim() for axis in axes), strict=True)
    for axis in axes:
        axis.set_ylim(min(low), max(high))


def unit_square(axis: Axes) -> None:
    """Let both axes go from 0 to 1."""
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=FIFTHS, yticks=FIFTHS)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all panels, of what any of them has."""
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, columnspacing=1, frameon=False,
        fontsize="small",
    )  # fmt: skip


def title(axis: Axes, name: str, what: str, figure: Estimate) -> None:
    """Name a panel, and say the figure that belongs to it."""
    axis.set_title(f"{wrapped(name)}\n{what} {figure}", fontsize="small", parse_math=False)


def wrapped(name: str, width: int = 30) -> str:
    """A name of any length in two lines at most."""
    lines = textwrap.wrap(" ".join(name.split()), width)
    return "\n".join(lines[:2]) + (" …" if len(lines) > 2 else "")
