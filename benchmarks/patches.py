"""Slides composed of real patches: the patches of a zip without twins, dealt out to slides, laid side by side."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PATCH_PX = 96
TWIN_PX, TWIN_DISTANCE = 12, 6.0


class Patches(NamedTuple):
    """RGB uint8 (N, 96, 96, 3) of each kind, in an order drawn by the seed, and how many twins were dropped."""

    normal: np.ndarray
    tumour: np.ndarray
    dropped: int


def read_patches(source: Path, seed: int) -> Patches:
    """The patches of a zip, without twins."""
    kinds: dict[str, list[np.ndarray]] = {"normal": [], "tumor": []}
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist()):
            kind = name.split("/")[-2] if "/" in name else ""
            if kind in kinds and not name.endswith("/"):
                rgb = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                assert rgb.shape == (PATCH_PX, PATCH_PX, 3), f"{name} has {rgb.shape} pixels"
                kinds[kind].append(rgb)
    rgb = np.stack(kinds["normal"] + kinds["tumor"])
    single = ~are_twins(rgb)
    is_normal = np.arange(len(rgb)) < len(kinds["normal"])
    random = np.random.default_rng(seed)
    return Patches(
        random.permutation(rgb[is_normal & single]), random.permutation(rgb[~is_normal & single]), int((~single).sum())
    )


def are_twins(rgb: np.ndarray) -> np.ndarray:
    """Bool (N,), True for patches that are all but alike to one before them."""
    copies = [Image.fromarray(each).resize((TWIN_PX, TWIN_PX), Image.Resampling.BOX) for each in rgb]
    small = np.stack([np.asarray(copy, np.float32).ravel() for copy in copies])
    squares = (small**2).sum(axis=1)
    twins = np.zeros(len(rgb), bool)
    for row in range(1, len(rgb)):
        distances = squares[:row] + squares[row] - 2 * small[:row] @ small[row]
        twins[row] = bool((distances[~twins[:row]] < small.shape[1] * TWIN_DISTANCE**2).any())
    return twins


def sheet(patches: np.ndarray, columns: int) -> np.ndarray:
    """RGB uint8 (rows · px, columns · px, 3) of patches (rows · columns, px, px, 3), side by side along the rows."""
    px = patches.shape[1]
    grid = patches.reshape(-1, columns, px, px, 3).swapaxes(1, 2)
    return grid.reshape(-1, columns * px, 3)


def nest(side: int, count: int, random: np.random.Generator) -> np.ndarray:
    """The numbers (count,), along the rows, of the cells of a `side` by `side` grid that lie about one place in it."""
    row, column = np.divmod(np.arange(side * side), side)
    down, right = random.uniform(0, side, 2)
    return np.argsort(np.hypot(row + 0.5 - down, column + 0.5 - right), kind="stable")[:count]


def dealt(pool: np.ndarray, random: np.random.Generator) -> Iterator[int]:
    """Numbers of a pool's patches without end: each once, in an order drawn anew, and then all of them again."""
    while True:
        yield from random.permutation(len(pool)).tolist()
