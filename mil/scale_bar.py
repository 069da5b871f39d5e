"""Scale bars on pictures."""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

_STEPS_UM = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))
_MOST = 0.28  # of the picture's width
_THICK_IN, _AWAY_IN = 0.045, 0.09


def bar_um(width_um: float) -> int | None:
    """The longest round length in µm that a bar takes on a picture so wide; None where that is under 1 µm."""
    return max((step for step in _STEPS_UM if step <= _MOST * width_um), default=None)


def draw_scale_bar(axis: Axes, width: float, width_um: float, inches: float, fontsize: float = 8) -> None:
    """Draw a bar into the lower left of axes whose x runs from 0 to `width`, which is `width_um` and so many inches."""
    length_um = bar_um(width_um)
    if length_um is None:
        return
    unit = inches / width  # a picture is drawn to scale: the same up and down
    low = max(axis.get_ylim())
    left, top = _AWAY_IN / unit, low - (_AWAY_IN + _THICK_IN) / unit
    length, thick = length_um / width_um * width, _THICK_IN / unit
    axis.add_patch(Rectangle((left, top), length, thick, facecolor="black", edgecolor="white", linewidth=0.8, zorder=5))
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
    axis.text(
        left, top - 0.03 / unit, label, ha="left", va="bottom", fontsize=fontsize, zorder=5,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip
