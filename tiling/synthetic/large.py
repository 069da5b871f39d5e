"""Slides as large as scanners make them, with or without a pyramid: for the tests and the benchmarks.

To draw gigapixels would take hours. So one field of tissue is drawn, in several strengths of stain, and laid out again
and again where a coarse plan says that there is tissue; tiles that look the same are compressed once.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tiling.codec import CODECS
from tiling.errors import InputError
from tiling.synthetic.fields import smooth_noise, tissue_depth_px
from tiling.synthetic.histology import LOOKS, draw_tissue
from tiling.tiff import write_tiled_jpeg

TILE_PX = 256
_FIELD_PX = 2048
_STRENGTHS = np.linspace(0.8, 1.25, 8)  # of the stain, relative
_QUALITY = 85
_NODES = 4  # of the plan, a tile
_LEAST_PX = 1024
_COARSEST_PX = 1024  # the longer side of the last level, at most twice


def write_large(path: Path, width_px: int, height_px: int, seed: int = 0, pyramid: bool = True) -> None:
    """Write a tiled JPEG TIFF of that level-0 size; the same arguments give the same bytes."""
    if min(width_px, height_px) < _LEAST_PX:
        raise InputError(f"a slide of {width_px} × {height_px} px is not large; give at least {_LEAST_PX} px each")
    artist = _Artist(width_px, height_px, np.random.default_rng(seed))
    halvings = max(0, math.ceil(math.log2(max(width_px, height_px) / _COARSEST_PX))) if pyramid else 0
    levels = (
        (-(-width_px // 2**level), -(-height_px // 2**level), artist.tiles(level)) for level in range(halvings + 1)
    )
    write_tiled_jpeg(path, levels, TILE_PX)


class _Artist:
    """Draws any tile of any level of one slide."""

    def __init__(self, width_px: int, height_px: int, rng: np.random.Generator) -> None:
        self._rows, self._columns = -(-height_px // TILE_PX), -(-width_px // TILE_PX)
        look = LOOKS["glands"]
        self._glass = np.array(look.glass, np.float32)
        field = draw_tissue(_FIELD_PX, look, rng) / self._glass
        self._fields = [np.stack([np.round(self._glass * field**strength) for strength in _STRENGTHS]).astype(np.uint8)]
        noise = rng.integers(-3, 4, (TILE_PX, TILE_PX, 1))
        self._bare = np.clip(self._glass + noise, 0, 255).astype(np.uint8)
        self._depth = tissue_depth_px((_NODES * self._rows + 1, _NODES * self._columns + 1), rng)
        slow = smooth_noise((self._rows, self._columns), 9, rng)
        self._strength = np.clip(np.round((slow / 4 + 0.5) * len(_STRENGTHS)), 0, len(_STRENGTHS) - 1).astype(np.int64)
        self._whole = lru_cache(maxsize=None)(self._compress_whole)

    def tiles(self, level: int) -> Iterator[bytes]:
        """The JPEGs of a level's tiles, along the rows."""
        span = 2**level  # tiles of the finest level along the side of one of this
        while len(self._fields) <= level:
            self._fields.append(np.stack([_half(field) for field in self._fields[-1]]))
        for row in range(0, self._rows, span):
            for column in range(0, self._columns, span):
                yield self._tile(level, row, column, span)

    def _tile(self, level: int, row: int, column: int, span: int) -> bytes:
        top, left, reach = _NODES * row, _NODES * column, _NODES * span + 1
        nodes = self._depth[top : top + reach, left : left + reach]
        missing = reach - nodes.shape[0], reach - nodes.shape[1]
        nodes = np.pad(nodes, [(0, missing[0]), (0, missing[1])], constant_values=-_FIELD_PX)
        if nodes.max() <= -_NODES:
            return self._whole(-1, 0, 0)
        if level == 0 and nodes.min() > _NODES:
            at = row % (_FIELD_PX // TILE_PX), column % (_FIELD_PX // TILE_PX)
            return self._whole(int(self._strength[row, column]), *at)
        return _jpeg(self._mixed(level, row, column, span, nodes))

    def _compress_whole(self, strength: int, row: int, column: int) -> bytes:
        """A tile of the finest level that is tissue all over, or glass where the strength is negative."""
        if strength < 0:
            return _jpeg(self._bare)
        top, left = row * TILE_PX, column * TILE_PX
        return _jpeg(self._fields[0][strength, top : top + TILE_PX, left : left + TILE_PX])

    def _mixed(self, level: int, row: int, column: int, span: int, nodes: np.ndarray) -> np.ndarray:
        """RGB uint8 of a tile with edges in it, or of a coarser level."""
        field = self._fields[level]
        within = np.arange(TILE_PX)
        y, x = ((start // span * TILE_PX + within) % field.shape[1] for start in (row, column))
        tile_y, tile_x = (
            np.minimum(start + within * span // TILE_PX, most - 1)
            for start, most in ((row, self._rows), (column, self._columns))
        )
        strength = self._strength[tile_y[:, None], tile_x]
        tissue = field[strength, y[:, None], x]
        depth = np.asarray(Image.fromarray(nodes).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR))
        cover = np.clip(depth / 4 + 0.5, 0, 1)[..., None]
        return np.round(self._bare + cover * (tissue - self._bare.astype(np.float32))).astype(np.uint8)


def _half(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).reduce(2))


def _jpeg(rgb: np.ndarray) -> bytes:
    return CODECS["jpeg"].encode(rgb, _QUALITY, 420)
