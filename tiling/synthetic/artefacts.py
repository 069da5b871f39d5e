"""Draw what spoils a slide on its picture: pen, dust, folds, air bubbles, the scanner's border and lost focus.

Each artefact draws on an RGB picture (H, W, 3) in place.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage


def _pen(ink: tuple[int, int, int], rgb: np.ndarray, rng: np.random.Generator) -> None:
    """Two strokes of a marker on the cover glass, one of them across tissue, which shows through a little."""
    height, width = rgb.shape[:2]
    anywhere = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
    for point in (anywhere, _tissue_point(rgb, rng)):
        view, opacity = _stroke(rgb, point, rng.uniform(0.02, 0.04) * min(height, width), 6, rng)
        _blend(view, opacity * rng.uniform(0.85, 0.97), view * (np.array(ink, np.float32) / 255))


def _fold(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """Two creases: tissue lies on tissue, so that light is absorbed twice; glass stays glass."""
    glass = np.percentile(rgb[::16, ::16], 90, axis=(0, 1)).astype(np.float32)
    for _ in range(2):
        view, opacity = _stroke(rgb, _tissue_point(rgb, rng), rng.uniform(16, 40), 2, rng)
        _blend(view, opacity, view.astype(np.float32) ** 2 / glass)


def _border(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """The black of the scanner's bed along one or two edges."""
    for edge in rng.permutation(4)[: rng.integers(1, 3)]:
        side = np.rot90(rgb, edge)
        side[: round(rng.uniform(0.015, 0.05) * side.shape[0])] = rng.integers(0, 12)


def _dust(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """Grey specks, each out of focus to its own degree."""
    for _ in range(rng.integers(25, 60)):
        point = rng.uniform(0, rgb.shape[1]), rng.uniform(0, rgb.shape[0])
        radius, soft = rng.uniform(1.5, 7), rng.uniform(1, 6)
        view, distance = _disc(rgb, point, radius + soft)
        _blend(view, np.clip((radius - distance) / soft + 0.5, 0, 1), view * rng.uniform(0.25, 0.75))


def _bubble(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """The grey double ring of an air bubble under the cover glass."""
    radius = rng.uniform(0.04, 0.1) * min(rgb.shape[:2])
    point = rng.uniform(0.1, 0.9) * rgb.shape[1], rng.uniform(0.1, 0.9) * rgb.shape[0]
    view, distance = _disc(rgb, point, radius * 1.2)
    outer = np.exp(-((20 * (distance / radius - 1)) ** 2))
    inner = np.exp(-((33 * (distance / radius - 0.86)) ** 2))
    _blend(view, 0.75 * outer + 0.25 * inner, view * 0.45)


def _blur(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """A patch of tissue that the scanner's focus missed."""
    radius = rng.uniform(0.09, 0.15) * min(rgb.shape[:2])
    view, distance = _disc(rgb, _tissue_point(rgb, rng), radius)
    opacity = np.clip((radius - distance) / (0.3 * radius), 0, 1)
    _blend(view, opacity, ndimage.gaussian_filter(view, (4, 4, 0)))


ARTEFACTS: Mapping[str, Callable[[np.ndarray, np.random.Generator], None]] = {
    "pen_green": partial(_pen, (30, 130, 60)),
    "pen_blue": partial(_pen, (25, 50, 160)),
    "pen_black": partial(_pen, (28, 28, 32)),
    "pen_red": partial(_pen, (205, 20, 35)),
    "border": _border,
    "fold": _fold,
    "dust": _dust,
    "bubble": _bubble,
    "blur": _blur,
}


def _tissue_point(rgb: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """A level-0 point x0, y0 of tissue; the middle of a slide that has none."""
    rows, columns = np.nonzero(rgb[::16, ::16, 1] < 215)
    if not len(rows):
        return rgb.shape[1] / 2, rgb.shape[0] / 2
    pick = rng.integers(len(rows))
    return 16.0 * columns[pick], 16.0 * rows[pick]


def _stroke(
    rgb: np.ndarray, point: tuple[float, float], width_px: float, soft_px: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The rectangle (a view) around a hand-drawn arc through a point, and the arc's opacity (h, w, 1)."""
    height, width = rgb.shape[:2]
    start, sweep = rng.uniform(0, 2 * math.pi), rng.uniform(1.0, 2.6)
    angle = start + np.linspace(-sweep / 2, sweep / 2, 300)
    radius = rng.uniform(0.15, 0.4) * min(height, width)
    reach = radius * (1 + 0.05 * np.sin(3 * (angle - start)) + 0.02 * np.sin(7 * (angle - start)))
    x = (point[0] - radius * math.cos(start) + reach * np.cos(angle)) / 4
    y = (point[1] - radius * math.sin(start) + reach * np.sin(angle)) / 4
    quarter = Image.new("L", (width // 4, height // 4))
    brush, dab = ImageDraw.Draw(quarter), width_px / 8
    for at_x, at_y in zip(x, y, strict=True):
        brush.ellipse((at_x - dab, at_y - dab, at_x + dab, at_y + dab), fill=255)
    quarter = quarter.filter(ImageFilter.GaussianBlur(soft_px / 4))
    left, top, right, bottom = quarter.getbbox() or (0, 0, 1, 1)
    mask = quarter.crop((left, top, right, bottom)).resize((4 * (right - left), 4 * (bottom - top)))
    view = rgb[4 * top : 4 * bottom, 4 * left : 4 * right]
    return view, np.asarray(mask, np.float32)[..., None] / 255


def _disc(rgb: np.ndarray, point: tuple[float, float], reach_px: float) -> tuple[np.ndarray, np.ndarray]:
    """The square (a view) about a level-0 point, and the distance (h, w, 1) of its pixels from the point."""
    x0, y0 = point
    top, left = max(int(y0 - reach_px), 0), max(int(x0 - reach_px), 0)
    view = rgb[top : int(y0 + reach_px) + 1, left : int(x0 + reach_px) + 1]
    y, x = np.ogrid[top : top + view.shape[0], left : left + view.shape[1]]
    return view, np.hypot(x - x0, y - y0)[..., None]


def _blend(view: np.ndarray, opacity: np.ndarray, over: np.ndarray) -> None:
    """Lay `over` on `view` in place."""
    view[:] = (view + (over.astype(np.float32) - view) * opacity).round()
