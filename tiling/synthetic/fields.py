"""Smooth fields on a coarse lattice, which say where on a slide something lies, and the ellipses laid out in them."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

LATTICE_PX = 16  # spacing of the nodes; everything finer is stamped or textured


class Ellipse(NamedTuple):
    """An axis-aligned ellipse by its level-0 bounding box."""

    x0: int
    y0: int
    width_px: int
    height_px: int

    def reach(self, x0: np.ndarray, y0: np.ndarray) -> np.ndarray:
        """Distance of level-0 points from the centre, relative to the border: at most 1 inside."""
        u = (x0 - self.x0) / (self.width_px / 2) - 1
        v = (y0 - self.y0) / (self.height_px / 2) - 1
        return np.hypot(u, v)


def _node_positions(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Level-0 x0 and y0 of every lattice node."""
    row, column = np.indices(shape, dtype=np.float32)
    return column * LATTICE_PX, row * LATTICE_PX


def smooth_noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of mean 0 and deviation 1 whose bumps are about `scale` lattice nodes wide."""
    white = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(white, scale, mode="reflect", truncate=3.0)
    return (field - field.mean()) / field.std()


def tissue_depth_px(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Field that is positive in one to four ragged pieces, which cover a fifth to two fifths of the slide."""
    row, column = np.indices(shape, dtype=np.float32)
    scale = min(shape) / 24
    row_bent = row + 1.6 * scale * smooth_noise(shape, 2.5 * scale, rng)
    column_bent = column + 1.6 * scale * smooth_noise(shape, 2.5 * scale, rng)
    level = np.max([_piece(row_bent, column_bent, cell, rng) for cell in _piece_cells(shape, rng)], axis=0)
    level += 0.07 * smooth_noise(shape, scale, rng) + 0.03 * smooth_noise(shape, max(scale / 3, 1.0), rng)
    row_mid, column_mid = (row + row_bent) / 2, (column + column_bent) / 2  # lest the margin cut straight
    edge = np.minimum.reduce([row_mid, column_mid, shape[0] - 1 - row_mid, shape[1] - 1 - column_mid])
    level -= 3.0 * np.clip(1.0 - edge / (0.16 * min(shape)), 0.0, 2.0) ** 2
    level -= np.quantile(level, 1.0 - rng.uniform(0.22, 0.38))
    slope = np.hypot(*np.gradient(level))
    return np.asarray(level / np.median(slope[np.abs(level) < 0.1]) * LATTICE_PX, np.float32)


def _piece_cells(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[float, ...]]:
    """The left, top, width and height, in nodes, of the part of the slide that each piece of tissue gets."""
    columns, rows = [(1, 1), (2, 1), (3, 1), (2, 2)][rng.integers(4)]
    height, width = shape[0] / rows, shape[1] / columns
    for index in range(rows * columns):
        yield (index % columns) * width, (index // columns) * height, width, height


def _piece(row: np.ndarray, column: np.ndarray, cell: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Field that falls from 1 in the middle of a tilted ellipse to 0 on its border."""
    left, top, width, height = cell
    down = row - (top + height * rng.uniform(0.42, 0.58))
    right = column - (left + width * rng.uniform(0.42, 0.58))
    tilt, stretch = rng.uniform(-0.6, 0.6), rng.uniform(0.8, 1.25)
    u, v = turn(right, down, tilt)
    return 1.0 - np.hypot(u / (0.5 * width * stretch), v / (0.5 * height / stretch))


def turn(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of points in a frame turned by `angle`."""
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def fibre_coordinates_px(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates across and along fibres that run in gentle swirls."""
    along, across = turn(*_node_positions(shape), rng.uniform(0, math.pi))
    across += 150 * smooth_noise(shape, 16, rng) + 26 * smooth_noise(shape, 4, rng)
    along += 60 * smooth_noise(shape, 16, rng)
    # Positive everywhere, so that the cast to whole texture pixels rounds one way.
    return across - across.min() + rng.integers(512), along - along.min() + rng.integers(1024)


def place_ellipses(
    free: np.ndarray, count: int, sides_px: tuple[float, float], rng: np.random.Generator
) -> list[Ellipse]:
    """Up to `count` ellipses inside the True nodes of `free`, which become False; small if room is short."""
    x0, y0 = _node_positions(free.shape)
    placed: list[Ellipse] = []
    for attempt in range(240):
        nodes = np.argwhere(free)
        if len(placed) == count or not len(nodes):
            break
        row, column = (int(node) * LATTICE_PX for node in nodes[rng.integers(len(nodes))])
        width, height = (round(rng.uniform(*sides_px) * 0.993**attempt) for _ in range(2))
        ellipse = Ellipse(column - width // 2, row - height // 2, width, height)
        reach = ellipse.reach(x0, y0)
        if free[reach <= 1.07].all():
            placed.append(ellipse)
            free &= reach > 1.4
    return placed


def soft_ellipses(ellipses: Sequence[Ellipse], shape: tuple[int, int]) -> np.ndarray:
    """Field of 1 inside the ellipses that falls to 0 about their border."""
    x0, y0 = _node_positions(shape)
    field = np.zeros(shape, np.float32)
    for ellipse in ellipses:
        slope = min(ellipse.width_px, ellipse.height_px) / 2 / (1.5 * LATTICE_PX)
        field = np.maximum(field, np.clip((1.0 - ellipse.reach(x0, y0)) * slope + 0.3, 0.0, 1.0))
    return field


def at_nodes(field: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> np.ndarray:
    """Value of a coarse field at the node nearest to each level-0 point."""
    return field[(y0 + LATTICE_PX // 2) // LATTICE_PX, (x0 + LATTICE_PX // 2) // LATTICE_PX]


def upsample(field: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear enlargement of (..., rows, columns) to (..., (rows - 1) factor, (columns - 1) factor)."""
    weight = np.arange(factor, dtype=np.float32) / factor
    upper, lower = field[..., :-1, None, :], field[..., 1:, None, :]
    rows = (upper + (lower - upper) * weight[:, None]).reshape(*field.shape[:-2], -1, field.shape[-1])
    left, right = rows[..., :-1, None], rows[..., 1:, None]
    return (left + (right - left) * weight).reshape(*rows.shape[:-1], -1)
