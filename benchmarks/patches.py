"""Slides composed of real patches: the patches of a zip without twins, dealt out to slides, laid side by side."""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.catch import write_truth
from tiling.output import write_table

PATCH_PX = 96
SIDE = 10  # patches along the side of a large slide
SLIDES_EACH = 4  # of a patient, with tumour and without in turn
TUMOUR = (4, 6, 8)  # tumour patches of a large slide that has any, each as often
FOLDS = 5
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


def compose_large(source: Path, out: Path, slides: int, seed: int = 0) -> None:
    """Write slides of 10 x 10 patches, every other with 4 to 8 of tumour side by side; labels.csv and tiles.csv.

    There are too few patches for many such slides. So each patient has some of his own, as many normal ones as fill a
    slide, and his four slides are laid out of them anew, half with tumour and half without: nobody else's slides share
    a patch with his, and to know his normal ones by heart says nothing of the label.
    """
    patches, random = read_patches(source, seed), np.random.default_rng(seed)
    patients = len(patches.normal) // SIDE**2
    (out / "slides").mkdir(parents=True, exist_ok=True)
    rows, truth = [], {}
    for index in range(slides):
        patient, nth = divmod(index, SLIDES_EACH)
        assert patient < patients, f"there are patches for {patients * SLIDES_EACH} slides, not for {slides}"
        slide_id, positive = f"p{index:03d}", nth % 2
        cells = nest(SIDE, TUMOUR[(patient + nth // 2) % len(TUMOUR)] * positive, random)
        chosen = random.permutation(patches.normal[patient::patients][: SIDE**2])
        chosen[cells] = random.permutation(patches.tumour[patient::patients])[: len(cells)]
        Image.fromarray(sheet(chosen, SIDE)).save(out / "slides" / f"{slide_id}.png", compress_level=1)
        rows.append((slide_id, ("normal", "tumour")[positive], f"patient{patient:02d}", patient % FOLDS))
        if positive:
            down, right = np.divmod(cells, SIDE)
            truth[slide_id] = frozenset(zip((right * PATCH_PX).tolist(), (down * PATCH_PX).tolist(), strict=True))
    write_table(out / "labels.csv", ["slide_id", "label", "patient_id", "fold"], rows)
    write_truth(out / "tiles.csv", truth)


def nest(side: int, count: int, random: np.random.Generator) -> np.ndarray:
    """The numbers (count,), along the rows, of the cells of a `side` by `side` grid that lie about one place in it."""
    row, column = np.divmod(np.arange(side * side), side)
    down, right = random.uniform(0, side, 2)
    return np.argsort(np.hypot(row + 0.5 - down, column + 0.5 - right), kind="stable")[:count]
