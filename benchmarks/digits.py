"""Megapixel digits, after Katharopoulos & Fleuret 2019 and, with noise and in this size, Bergner et al. 2023.

A canvas of 1500 x 1500 px has five handwritten digits of 28 px, anywhere but not on each other: three of one class,
which is the label ("majority"), two of other classes; and 50 scribbles of the same size, of two straight strokes each.

Here the digits of the folds are disjoint, so that none is on both sides, and labels are balanced. The canvas is stained
all over, pink, and what is written on it blue: so are all 900 tiles of 50 px tissue, and all of them candidates. It has
a grain: without one, two pages hold the same tile where the same bit of a stroke happens to lie in the same place, and
a training takes them for a slide that is there twice.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.catch import write_truth
from tiling.output import write_table

CANVAS_PX, DIGIT_PX, TILE_PX = 1500, 28, 50
MAJORITY, OTHERS, SCRIBBLES, PATTERNS = 3, 2, 50, 50
PINK, BLUE = (226, 160, 198), (90, 50, 130)
CLASSES, FOLDS = 10, 3
LEAST_SHARE = 0.25  # a tile is a digit's if at least this much of its square is in it


class Digits(NamedTuple):
    """Grey uint8 (N, 28, 28), white on black, and their classes (N,)."""

    images: np.ndarray
    classes: np.ndarray


class Page(NamedTuple):
    """RGB uint8 (1500, 1500, 3), and x0, y0 of each of its five digits, int (5, 2)."""

    rgb: np.ndarray
    corners: np.ndarray


def read_digits(folder: Path) -> Digits:
    """The training part of MNIST from its gzipped idx files."""
    arrays = []
    for name, header_bytes in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8)):
        with gzip.open(folder / name) as file:
            arrays.append(np.frombuffer(file.read(), np.uint8, offset=header_bytes))
    return Digits(arrays[0].reshape(-1, DIGIT_PX, DIGIT_PX), arrays[1])


def scribbles(random: np.random.Generator) -> np.ndarray:
    """Grey uint8 (50, 28, 28): two straight strokes from corners, a pixel wide, of .8 to 1 of white."""
    patterns = np.zeros((PATTERNS, DIGIT_PX, DIGIT_PX), np.uint8)
    for pattern in patterns:
        for _ in range(2):
            angle = random.uniform(0, np.pi / 2.5)
            along = np.linspace(0, (DIGIT_PX - 1) / max(np.cos(angle), np.sin(angle)), 2 * DIGIT_PX)
            y, x = (np.round(along * part(angle)).astype(int) for part in (np.sin, np.cos))
            mirrored = pattern[:: random.choice([-1, 1]), :: random.choice([-1, 1])]
            mirrored[y, x] = 255
    return (patterns * random.uniform(0.8, 1, patterns.shape)).astype(np.uint8)


def compose_pages(source: Path, out: Path, slides: int, seed: int = 0) -> None:
    """Write pages as slides, as many of each class in each of three folds; labels.csv and tiles.csv."""
    digits, random = read_digits(source), np.random.default_rng(seed)
    pools = [Digits(digits.images[fold::FOLDS], digits.classes[fold::FOLDS]) for fold in range(FOLDS)]
    patterns = [scribbles(random) for _ in range(FOLDS)]
    (out / "slides").mkdir(parents=True, exist_ok=True)
    rows, truth = [], {}
    for index in range(slides):
        slide_id, fold, majority = f"d{index:04d}", index % FOLDS, index // FOLDS % CLASSES
        page = draw_page(majority, pools[fold], patterns[fold], random)
        Image.fromarray(grained(page.rgb, random)).save(out / "slides" / f"{slide_id}.png", compress_level=1)
        rows.append((slide_id, f"digit{majority}", slide_id, fold))
        truth[slide_id] = digit_tiles(page.corners)
    write_table(out / "labels.csv", ["slide_id", "label", "patient_id", "fold"], rows)
    write_truth(out / "tiles.csv", truth)


def draw_page(majority: int, digits: Digits, patterns: np.ndarray, random: np.random.Generator) -> Page:
    """A page with three digits of the class `majority` and two of others, drawn from `digits`."""
    grey = np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)
    margin = DIGIT_PX, CANVAS_PX - 2 * DIGIT_PX
    for x0, y0 in random.integers(*margin, (SCRIBBLES, 2)):
        grey[y0 : y0 + DIGIT_PX, x0 : x0 + DIGIT_PX] = patterns[random.integers(PATTERNS)]
    alike, others = (np.flatnonzero((digits.classes == majority) == same) for same in (True, False))
    chosen = [*random.choice(alike, MAJORITY, replace=False), *random.choice(others, OTHERS, replace=False)]
    corners = _apart(len(chosen), random)
    for digit, (x0, y0) in zip(chosen, corners, strict=True):
        grey[y0 : y0 + DIGIT_PX, x0 : x0 + DIGIT_PX] = digits.images[digit]
    ink = np.linspace(PINK, BLUE, 256).round().astype(np.uint8)
    return Page(ink[grey], corners)


def grained(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A page, each of whose pixels is up to two steps lighter or darker."""
    return (rgb + random.integers(-2, 3, (*rgb.shape[:2], 1))).astype(np.uint8)


def _apart(count: int, random: np.random.Generator) -> np.ndarray:
    """Corners x0, y0, int (count, 2), of digits that do not touch."""
    while True:
        corners = random.integers(0, CANVAS_PX - DIGIT_PX, (count, 2))
        distance = np.abs(corners[:, None] - corners).max(axis=-1)
        if (distance[~np.eye(count, dtype=bool)] > DIGIT_PX).all():
            return corners


def digit_tiles(corners: np.ndarray) -> frozenset[tuple[int, int]]:
    """The corners x0, y0 of the tiles that hold at least a quarter of the square of a digit at one of `corners`."""
    starts = np.arange(0, CANVAS_PX, TILE_PX)
    tiles = set()
    for corner in corners:
        ends = np.minimum(starts + TILE_PX, corner[:, None] + DIGIT_PX)
        width_px, height_px = np.clip(ends - np.maximum(starts, corner[:, None]), 0, None)
        rows, columns = np.nonzero(np.outer(height_px, width_px) >= LEAST_SHARE * DIGIT_PX**2)
        tiles |= {*zip(starts[columns].tolist(), starts[rows].tolist(), strict=True)}
    return frozenset(tiles)
