"""Draw a slide that looks like H&E, and say where its lesions are.

A slide is drawn as amounts of two dyes. Smooth fields on a coarse lattice say where tissue, fibres and lesions lie;
nuclei, glands and vessels are stamped at full resolution; Beer-Lambert's law turns dye into colour.

Crowded lesions differ from benign tissue in the size, crowding and hue of their nuclei, not in darkness: lymphoid
aggregates are as dark. Pale lesions are small pools of mucin, a lilac veil in which a few islands of tumour cells lie:
lighter than the tissue about them. So is oedema, of which every slide has some, of the colour of its fibres but thin;
pools and oedemas together are as many and as large in benign slides as in others, so that neither darkness nor
lightness tells one from the other.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tiling.synthetic.fields import (
    LATTICE_PX,
    Ellipse,
    at_nodes,
    fibre_coordinates_px,
    place_ellipses,
    smooth_noise,
    soft_ellipses,
    tissue_depth_px,
    turn,
    upsample,
)

DEFAULT_SIZE_PX = (4096, 3072)  # width, height
_PALE_PX = (300, 480)  # sides of a pale area on a slide of that size
_BLOCK_PX = 512  # coloured at once: small enough for the cache, a multiple of LATTICE_PX
_MUCIN_DENSITY, _MUCIN_EOSIN = 0.72, 0.1  # optical density of mucin, and its eosin, relative to those of the fibres
_TEXTURE_PX = (512, 1024)  # across and along the fibres; powers of two, so that wrapping is a bit mask
_DYE_STEPS = 100  # steps of a unit of dye in the colour table


@dataclass(frozen=True)
class Look:
    """One laboratory's slides: optical density (R, G, B) per unit of dye, and the habit of the tissue."""

    glass: tuple[int, int, int]
    haematoxylin: tuple[float, ...]
    eosin: tuple[float, ...]
    stroma: float  # eosin of the fibres
    basophilia: float  # haematoxylin between the nuclei
    cellularity: float  # share of the places for stroma nuclei that are taken
    fibrous: float  # contrast of the fibres
    clefts: float  # share of the fibres that is torn open
    gland_spacing_px: int | None = None  # None: no glands


LOOKS: Mapping[str, Look] = {
    "pale": Look((249, 248, 250), (0.74, 0.86, 0.38), (0.10, 0.42, 0.16), 0.50, 0.05, 0.40, 1.0, 0.05),
    "dark": Look((240, 239, 242), (0.98, 1.22, 0.62), (0.20, 0.72, 0.36), 0.62, 0.12, 0.62, 1.0, 0.05),
    "old": Look((243, 242, 236), (0.86, 0.82, 0.34), (0.20, 0.44, 0.13), 0.58, 0.16, 0.50, 0.8, 0.03),
    "muscle": Look((244, 243, 244), (0.90, 1.06, 0.58), (0.12, 0.80, 0.42), 0.70, 0.05, 0.38, 0.9, 0.06),
    "glands": Look((243, 242, 244), (0.88, 1.08, 0.56), (0.14, 0.60, 0.26), 0.52, 0.10, 0.62, 0.7, 0.04, 72),
}


class Anatomy(NamedTuple):
    """What lies where: coarse fields (rows, columns) of lattice nodes, and the ellipses in them."""

    depth_px: np.ndarray  # roughly the distance to the tissue's edge, negative on glass
    across_px: np.ndarray  # coordinates in the fibre texture
    along_px: np.ndarray
    tone: np.ndarray  # slow variation of stain and cellularity, mean 0, deviation 1
    tumour: np.ndarray  # 0 to 1, nests of lesions
    lymphoid: np.ndarray  # 0 to 1, aggregates
    oedema: np.ndarray  # 0 to 1, pale benign areas
    mucin: np.ndarray  # 0 to 1, pale lesions
    lesions: list[Ellipse]
    aggregates: list[Ellipse]


class Layers(NamedTuple):
    """Full-resolution amounts (H, W), 0 to about 1, of what is stamped."""

    nuclei: np.ndarray
    wall: np.ndarray
    lumen: np.ndarray


def draw_slide(
    size_px: tuple[int, int], look: Look, tissue: bool, diseased: bool, rng: np.random.Generator, pale: bool = False
) -> tuple[np.ndarray, list[Ellipse]]:
    """RGB uint8 (height, width, 3) of a clean slide, bare glass without `tissue`, and where its lesions are.

    They are crowded, or `pale`.
    """
    look = _vary(look, rng)
    anatomy = lay_out(size_px, tissue, diseased, rng, pale)
    layers = Layers(*(np.zeros(size_px[::-1], np.float32) for _ in Layers._fields))
    stamp_rings(layers, anatomy, look, rng)
    stamp_nuclei(layers, anatomy, look, rng)
    return paint(layers, anatomy, look, rng), anatomy.lesions


def draw_tissue(side_px: int, look: Look, rng: np.random.Generator) -> np.ndarray:
    """RGB uint8 (side, side, 3) of benign tissue from edge to edge."""
    anatomy = lay_out((side_px, side_px), True, False, rng)
    anatomy = anatomy._replace(depth_px=np.full_like(anatomy.depth_px, side_px))
    layers = Layers(*(np.zeros((side_px, side_px), np.float32) for _ in Layers._fields))
    stamp_rings(layers, anatomy, look, rng)
    stamp_nuclei(layers, anatomy, look, rng)
    return paint(layers, anatomy, look, rng)


def _vary(look: Look, rng: np.random.Generator) -> Look:
    """The look with the small differences between two batches of one stain."""
    haematoxylin = np.array(look.haematoxylin) * rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 3)
    eosin = np.array(look.eosin) * rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)
    return replace(look, haematoxylin=tuple(haematoxylin), eosin=tuple(eosin))


def lay_out(
    size_px: tuple[int, int], tissue: bool, diseased: bool, rng: np.random.Generator, pale: bool = False
) -> Anatomy:
    """The anatomy of a slide; lesions, aggregates and oedemas lie inside tissue and do not touch."""
    width, height = size_px
    shape = math.ceil(height / LATTICE_PX) + 1, math.ceil(width / LATTICE_PX) + 1
    depth_px = tissue_depth_px(shape, rng) if tissue else np.full(shape, -np.inf, np.float32)
    free = depth_px > LATTICE_PX
    scale = math.sqrt(width * height / math.prod(DEFAULT_SIZE_PX))
    oedemas: list[Ellipse] = []
    if pale:
        lesions, oedemas = _pale_areas(free, diseased, scale, rng)
    else:
        lesions = place_ellipses(free, int(rng.integers(1, 4)) * diseased, (320 * scale, 700 * scale), rng)
    aggregates = place_ellipses(free, int(rng.integers(1, 5)), (220 * scale, 560 * scale), rng)
    assert lesions or not (diseased and tissue)
    nests = _islands(shape, rng) if pale else np.clip(3.5 * np.abs(smooth_noise(shape, 2.6, rng)), 0, 1)
    ragged = np.clip(1.1 + 0.7 * smooth_noise(shape, 4, rng), 0, 1)
    pools = soft_ellipses(lesions, shape)
    return Anatomy(
        depth_px,
        *fibre_coordinates_px(shape, rng),
        smooth_noise(shape, 9, rng),
        pools * nests,
        soft_ellipses(aggregates, shape) * ragged,
        soft_ellipses(oedemas, shape),
        pools if pale else np.zeros_like(pools),
        lesions,
        aggregates,
    )


def _pale_areas(
    free: np.ndarray, diseased: bool, scale: float, rng: np.random.Generator
) -> tuple[list[Ellipse], list[Ellipse]]:
    """Pale lesions, of a diseased slide one or two, and oedemas; together they are two to four in every slide."""
    count, pools = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    areas = place_ellipses(free, count, (_PALE_PX[0] * scale, _PALE_PX[1] * scale), rng)
    # Earlier ones found more room: which are lesions is drawn, lest these be the larger.
    order = rng.permutation(len(areas))
    chosen = order[: pools * diseased]
    return [areas[i] for i in chosen], [areas[i] for i in order[len(chosen) :]]


def _islands(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Field of 1 in small islands, which cover about an eighth, and 0 between them."""
    return np.clip(3 * (smooth_noise(shape, 1.2, rng) - 0.9), 0, 1)


# ---- stamps: the same in every process, so drawn once ----------------------------------------------------------------


class Cell(NamedTuple):
    """The habit of one kind of nucleus; ranges of half axes and of darkness."""

    long_px: tuple[float, float]
    short_px: tuple[float, float]
    rough: float  # waviness of the outline
    hollow: float  # paleness of the middle
    dark: tuple[float, float]


class Ring(NamedTuple):
    """The habit of one kind of round structure with a white lumen."""

    radius_px: tuple[float, float]
    lumen: tuple[float, float]  # share of the radius
    nucleus: str
    spacing_px: float  # between nuclei
    nuclei_in_px: float  # from the border to the nuclei
    turn: float  # of the nuclei against the radius


CELLS: Mapping[str, Cell] = {
    "stroma": Cell((3.6, 5.6), (1.3, 2.4), 0.15, 0.0, (0.55, 1.0)),
    "lymphocyte": Cell((3.0, 3.8), (2.8, 3.5), 0.05, 0.0, (0.95, 1.2)),
    "epithelial": Cell((4.0, 5.2), (2.8, 3.6), 0.1, 0.2, (0.65, 0.95)),
    "tumour": Cell((6.2, 8.6), (5.0, 6.8), 0.2, 0.35, (0.65, 1.1)),
}
RINGS: Mapping[str, Ring] = {
    "gland": Ring((23, 37), (0.1, 0.4), "epithelial", 7.0, 5.5, 0.0),
    "vessel": Ring((12, 34), (0.6, 0.8), "stroma", 15.0, 2.0, math.pi / 2),
}
_VARIANTS, _ANGLES, _RINGS = 8, 16, 24


@cache
def nucleus_stamps(kind: str) -> np.ndarray:
    """Haematoxylin (variants, angles, side, side) of nuclei of one kind."""
    cell, rng = CELLS[kind], np.random.default_rng([7, list(CELLS).index(kind)])
    half = math.ceil(cell.long_px[1] * 1.25)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    stamps = np.zeros((_VARIANTS, _ANGLES, *x.shape), np.float32)
    for variant in range(_VARIANTS):
        long_px, short_px = rng.uniform(*cell.long_px), rng.uniform(*cell.short_px)
        phase = rng.uniform(0, 2 * math.pi, 3)
        for angle in range(_ANGLES):
            u, v = turn(x, y, angle * math.pi / _ANGLES)
            stamps[variant, angle] = _nucleus(u / long_px, v / short_px, phase, cell, short_px)
    return stamps


def _nucleus(u: np.ndarray, v: np.ndarray, phase: np.ndarray, cell: Cell, short_px: float) -> np.ndarray:
    """One nucleus over relative coordinates: a wavy outline, a rim darker than the middle, a nucleolus."""
    theta = np.arctan2(v, u)
    waves = np.cos(2 * theta + phase[0]) + np.cos(3 * theta + phase[1]) + 0.6 * np.cos(5 * theta + phase[2])
    radius = np.hypot(u, v) * (1 + 0.4 * cell.rough * waves)
    body = np.clip((1 - radius) * short_px * 0.8 + 0.4, 0, 1)
    middle = np.clip(2 - radius / 0.375, 0, 1)
    nucleolus = np.exp(-((u - 0.25 * math.cos(phase[0])) ** 2 + (v - 0.25 * math.sin(phase[0])) ** 2) / 0.03)
    return body * (1 - cell.hollow * middle + 2.2 * cell.hollow * nucleolus)


class RingStamps(NamedTuple):
    """Some rings: stamps (N, side, side) of lumen and wall, and the nuclei (n, 3) of each: x, y, angle."""

    lumen: np.ndarray
    wall: np.ndarray
    nuclei: tuple[np.ndarray, ...]


@cache
def ring_stamps(kind: str) -> RingStamps:
    """The rings of one kind."""
    ring, rng = RINGS[kind], np.random.default_rng([11, list(RINGS).index(kind)])
    half = math.ceil(ring.radius_px[1] * 1.3)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    theta, distance = np.arctan2(y, x), np.hypot(x, y)
    lumens, walls, nuclei = [], [], []
    for _ in range(_RINGS):
        radius, wavy = rng.uniform(*ring.radius_px), rng.uniform(0.04, 0.2)
        phase = rng.uniform(0, 2 * math.pi, 2)
        border = _outline(theta, radius, wavy, phase)
        lumens.append(np.clip((border * rng.uniform(*ring.lumen) - distance) / 1.5 + 0.5, 0, 1))
        walls.append(np.clip((border - distance) / 2 + 0.5, 0, 1))
        step = ring.spacing_px / radius
        at = np.arange(0, 2 * math.pi - step / 2, step) + rng.uniform(0, 1)
        at += rng.normal(0, 0.12 * step, len(at))
        reach = _outline(at, radius, wavy, phase) - ring.nuclei_in_px * rng.uniform(0.8, 1.3, len(at))
        nuclei.append(np.stack([reach * np.cos(at), reach * np.sin(at), at + ring.turn], axis=1))
    return RingStamps(np.array(lumens, np.float32), np.array(walls, np.float32), tuple(nuclei))


def _outline(theta: np.ndarray, radius_px: float, wavy: float, phase: np.ndarray) -> np.ndarray:
    waves = np.cos(2 * theta + phase[0]) + 0.5 * np.cos(3 * theta + phase[1])
    return radius_px * (1 + wavy * waves)


@cache
def fibre_texture(contrast: float, clefts: float) -> np.ndarray:
    """Periodic texture (across, along) of about 1, streaked along the fibres, and 0 in torn clefts."""
    rng = np.random.default_rng(13)
    streaks = 0.19 * _periodic_noise(rng, 1.1, 16) + 0.15 * _periodic_noise(rng, 3.5, 40)
    gap = _periodic_noise(rng, 2.6, 24)
    torn = np.clip((gap - np.quantile(gap, clefts)) * 4 + 0.5, 0, 1)
    return np.asarray(np.clip(1 + contrast * streaks, 0.3, 1.7) * torn, np.float32)


def _periodic_noise(rng: np.random.Generator, across_px: float, along_px: float) -> np.ndarray:
    """Noise of deviation 1, smoothed by a Gaussian of these deviations around the edges of the texture."""
    white = np.fft.rfft2(rng.standard_normal(_TEXTURE_PX))
    across, along = np.fft.fftfreq(_TEXTURE_PX[0])[:, None], np.fft.rfftfreq(_TEXTURE_PX[1])
    passed = np.exp(-2 * math.pi**2 * ((across * across_px) ** 2 + (along * along_px) ** 2))
    field = np.fft.irfft2(white * passed, _TEXTURE_PX)
    return field / field.std()


@cache
def grain_texture() -> np.ndarray:
    """Grain of about 1 for chromatin and cytoplasm, two blocks wide so that blocks take different parts."""
    white = np.random.default_rng(17).standard_normal((2 * _BLOCK_PX, 2 * _BLOCK_PX), dtype=np.float32)
    grain = ndimage.gaussian_filter(white, 0.8)
    return np.clip(1 + 0.2 * grain / grain.std(), 0.4, 1.6)


# ---- stamping --------------------------------------------------------------------------------------------------------


def stamp(layer: np.ndarray, x0: np.ndarray, y0: np.ndarray, stamps: Iterable[np.ndarray]) -> None:
    """Lay a square stamp centred at each x0, y0 onto `layer`, the larger value winning; none at the edge."""
    height, width = layer.shape
    for x, y, one in zip(x0.tolist(), y0.tolist(), stamps, strict=True):
        half = len(one) // 2
        if half <= x < width - half and half <= y < height - half:
            view = layer[y - half : y + half + 1, x - half : x + half + 1]
            np.maximum(view, one, out=view)


def scatter(
    box: tuple[int, int, int, int], spacing_px: float, jitter: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Integer level-0 points x0, y0 about `spacing_px` apart in a box; jitter is in spacings, below 0.5."""
    left, top, width, height = box
    row, column = np.mgrid[0 : height / spacing_px, 0 : width / spacing_px]
    column += 0.5 * (row % 2)  # every other row shifted: no columns to be seen
    x, y = ((axis.ravel() + rng.uniform(-jitter, jitter, axis.size)) * spacing_px for axis in (column, row))
    inside = (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    return left + x[inside].astype(np.int64), top + y[inside].astype(np.int64)


def stamp_rings(layers: Layers, anatomy: Anatomy, look: Look, rng: np.random.Generator) -> None:
    """Draw a few vessels and, where the look has them, glands; both only in benign tissue."""
    height, width = layers.nuclei.shape
    other = anatomy.tumour + anatomy.lymphoid + anatomy.oedema + anatomy.mucin
    benign = (anatomy.depth_px > 40) & (other == 0) & (anatomy.tone < 1.1)
    taken = np.empty((0, 2))
    for kind, spacing_px in (("vessel", 560), ("gland", look.gland_spacing_px)):
        if spacing_px:
            x0, y0 = scatter((0, 0, width, height), spacing_px, 0.25, rng)
            distance = np.hypot(x0[:, None] - taken[:, 0], y0[:, None] - taken[:, 1])
            keep = at_nodes(benign, x0, y0) & (distance > 80).all(axis=1)
            _stamp_rings(layers, kind, x0[keep], y0[keep], rng)
            taken = np.stack([x0[keep], y0[keep]], axis=1)


def _stamp_rings(layers: Layers, kind: str, x0: np.ndarray, y0: np.ndarray, rng: np.random.Generator) -> None:
    rings = ring_stamps(kind)
    choice = rng.integers(len(rings.lumen), size=len(x0))
    stamp(layers.lumen, x0, y0, rings.lumen[choice])
    stamp(layers.wall, x0, y0, rings.wall[choice])
    nuclei = [rings.nuclei[c] + (x, y, 0) for c, x, y in zip(choice, x0, y0, strict=True)]
    x, y, angle = np.concatenate([np.empty((0, 3)), *nuclei]).T
    _stamp_nuclei(layers, RINGS[kind].nucleus, x.astype(np.int64), y.astype(np.int64), angle, rng)


def stamp_nuclei(layers: Layers, anatomy: Anatomy, look: Look, rng: np.random.Generator) -> None:
    """Draw the nuclei of the stroma along its fibres, and those that crowd in aggregates and lesions."""
    _stamp_stroma(layers, anatomy, look, rng)
    for kind, ellipses, field, spacing_px in (
        ("lymphocyte", anatomy.aggregates, anatomy.lymphoid, 6.8),
        ("tumour", anatomy.lesions, anatomy.tumour, 13.4),
    ):
        for ellipse in ellipses:
            x0, y0 = scatter(ellipse, spacing_px, 0.34, rng)
            dense = at_nodes(field, x0, y0) > rng.uniform(0.3, 0.8, len(x0))
            inside = dense & (ellipse.reach(x0, y0) < 1)
            angle = rng.uniform(0, math.pi, int(inside.sum()))
            _stamp_nuclei(layers, kind, x0[inside], y0[inside], angle, rng)


def _stamp_stroma(layers: Layers, anatomy: Anatomy, look: Look, rng: np.random.Generator) -> None:
    """Spindle-shaped nuclei along the fibres, and lymphocytes strewn among them."""
    height, width = layers.nuclei.shape
    down, right = np.gradient(anatomy.across_px)
    x0, y0 = scatter((0, 0, width, height), 12.5, 0.42, rng)
    stroma = at_nodes((anatomy.depth_px > 3) & (anatomy.tumour < 0.5), x0, y0) & (layers.wall[y0, x0] < 0.1)
    x0, y0 = x0[stroma], y0[stroma]
    crowding = np.clip(1 + 0.35 * at_nodes(anatomy.tone, x0, y0), 0.3, 2)
    crowding *= at_nodes((1 - 0.5 * anatomy.oedema) * (1 - anatomy.mucin), x0, y0)
    luck = rng.uniform(size=len(x0))
    spindle, round_cell = luck < look.cellularity * crowding, luck > 1 - 0.08 * crowding
    angle = at_nodes(np.arctan2(-right, down), x0, y0) + rng.normal(0, 0.25, len(x0))
    for kind, keep in (("stroma", spindle), ("lymphocyte", round_cell)):
        _stamp_nuclei(layers, kind, x0[keep], y0[keep], angle[keep], rng)


def _stamp_nuclei(
    layers: Layers, kind: str, x0: np.ndarray, y0: np.ndarray, angle: np.ndarray, rng: np.random.Generator
) -> None:
    turned = np.round(angle / math.pi * _ANGLES).astype(np.int64) % _ANGLES
    dark = rng.uniform(*CELLS[kind].dark, len(x0)).astype(np.float32)
    stamps = nucleus_stamps(kind)[rng.integers(_VARIANTS, size=len(x0)), turned]
    stamp(layers.nuclei, x0, y0, stamps * dark[:, None, None])


# ---- colour ----------------------------------------------------------------------------------------------------------


def paint(layers: Layers, anatomy: Anatomy, look: Look, rng: np.random.Generator) -> np.ndarray:
    """RGB uint8 (H, W, 3) of the whole slide, coloured block by block."""
    colours = colour_table(look)
    coarse = np.stack(anatomy[:8])
    rgb = np.empty((*layers.nuclei.shape, 3), np.uint8)
    for top in range(0, rgb.shape[0], _BLOCK_PX):
        for left in range(0, rgb.shape[1], _BLOCK_PX):
            block = slice(top, top + _BLOCK_PX), slice(left, left + _BLOCK_PX)
            rows, columns = (slice(s.start // LATTICE_PX, s.stop // LATTICE_PX + 1) for s in block)
            dye = rng.integers(0, 4, rgb[block].shape[:2], np.uint8).astype(np.uint16)  # the camera's noise
            if coarse[0, rows, columns].max() > -2 * LATTICE_PX:
                dye += _dye(coarse[:, rows, columns], Layers(*(layer[block] for layer in layers)), look, rng)
            rgb[block] = colours.take(dye, axis=0)
    return rgb


def colour_table(look: Look) -> np.ndarray:
    """RGB uint8 (65536, 3) of 256 × haematoxylin + eosin, both in hundredths, by Beer-Lambert's law."""
    amount = np.arange(256)[:, None] / _DYE_STEPS
    density = (amount * look.haematoxylin)[:, None] + amount * look.eosin
    return np.round(look.glass * np.exp(-density)).astype(np.uint8).reshape(-1, 3)


def _dye(coarse: np.ndarray, layers: Layers, look: Look, rng: np.random.Generator) -> np.ndarray:
    """The dye of a block as indices into the colour table, at most 251 to leave room for noise."""
    height, width = layers.nuclei.shape
    depth, across, along, tone, tumour, lymphoid, *pale = upsample(coarse, LATTICE_PX)[:, :height, :width]
    texture = fibre_texture(look.fibrous, look.clefts)
    fibre = texture[across.astype(np.int32) & (_TEXTURE_PX[0] - 1), along.astype(np.int32) & (_TEXTURE_PX[1] - 1)]
    x, y = rng.integers(0, _BLOCK_PX, 2)
    grain = grain_texture()[y : y + height, x : x + width]
    frayed = depth + 10 * (fibre - 0.8)
    cover = np.clip(0.3 * frayed, 0, 1) * (1 - layers.lumen)
    cells = np.maximum(np.maximum(tumour, 0.8 * layers.wall), 0.85 * lymphoid)
    nuclei = layers.nuclei * grain
    matrix = (1 + 0.13 * tone) * fibre * (1 - cells)
    between = look.basophilia * (1 - 0.3 * tone) * fibre
    if coarse[6:].any():
        left, veil = _fade(cells, fibre, *pale)
        matrix, between = matrix * left + _MUCIN_EOSIN * veil, between * left + _mucin(look) * veil
    matrix = look.stroma * (matrix + 0.75 * cells * grain)
    eosin = matrix * (1 - 0.6 * nuclei) + 0.35 * tumour * nuclei  # nuclei of the tumour are redder
    between = between + (0.10 * cells + 0.08 * tumour) * grain
    haematoxylin = np.maximum(between, nuclei)
    high, low = (np.clip(dye * cover * _DYE_STEPS, 0, 251).astype(np.uint16) for dye in (haematoxylin, eosin))
    return 256 * high + low


def _fade(cells: np.ndarray, fibre: np.ndarray, oedema: np.ndarray, mucin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of what lies between the cells where oedema thins it and mucin takes its place, and the mucin."""
    return (1 - 0.4 * oedema) * (1 - mucin), mucin * (1 - cells) * (0.7 + 0.3 * fibre)


def _mucin(look: Look) -> float:
    """The haematoxylin of mucin: a look with darker fibres has darker mucin, which is still lighter than they are."""
    haematoxylin, eosin = sum(look.haematoxylin), sum(look.eosin)
    fibres = look.stroma * eosin + look.basophilia * haematoxylin
    return (_MUCIN_DENSITY * fibres - _MUCIN_EOSIN * look.stroma * eosin) / haematoxylin
