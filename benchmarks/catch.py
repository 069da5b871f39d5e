"""Which tiles of a slide are lesion, how many of them a bag has caught, and the bags of one who knows."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tiling.bag import bag_path, read_bag, write_bag
from tiling.output import write_table
from tiling.spec import TileSpec
from tiling.tile import tile_slide

LESION_SHARE = 0.25  # a tile is a lesion tile if at least this much of it is lesion

Corner = tuple[int, int]  # x0, y0 of a tile in level-0 pixels
Truth = Mapping[str, frozenset[Corner]]


class Caught(NamedTuple):
    """Lesion tiles among the picked, how many were picked, and how many lesion tiles could have been among them."""

    lesions: int
    picked: int
    possible: int

    def __str__(self) -> str:
        return f"{self.lesions / self.picked:.0%} / {self.lesions / self.possible:.0%}"


def write_truth(path: Path, truth: Truth) -> None:
    """Write the lesion tiles of each slide as a table slide_id, x0, y0; slides without any are not in it."""
    rows = ((slide_id, *corner) for slide_id, corners in truth.items() for corner in sorted(corners))
    write_table(path, ["slide_id", "x0", "y0"], rows)


def read_truth(path: Path) -> dict[str, frozenset[Corner]]:
    """The lesion tiles of each slide that has any."""
    corners: dict[str, set[Corner]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            corners.setdefault(row["slide_id"], set()).add((int(row["x0"]), int(row["y0"])))
    return {slide_id: frozenset(of_slide) for slide_id, of_slide in corners.items()}


def caught(picks: Mapping[str, Sequence[Corner]], truth: Truth, k: int) -> Caught:
    """What the first `k` tiles picked of each slide with lesions have caught, best first.

    Of a slide with n lesion tiles min(k, n) could have been caught. Raises KeyError for a slide without picks.
    """
    found = [len(corners & {*picks[slide_id][:k]}) for slide_id, corners in truth.items()]
    picked = sum(len(picks[slide_id][:k]) for slide_id in truth)
    return Caught(sum(found), picked, sum(min(k, len(corners)) for corners in truth.values()))


def picks_of(bags: Path, slide_ids: Iterable[str]) -> dict[str, list[Corner]]:
    """The corners of the tiles in the bags of some slides, best first."""
    picks = {}
    for slide_id in slide_ids:
        bag = read_bag(bag_path(bags, slide_id))
        picks[slide_id] = list(zip(bag.x0.tolist(), bag.y0.tolist(), strict=True))
    return picks


def write_oracle(slides: Path, truth: Truth, spec: TileSpec, out: Path, seed: int = 0) -> None:
    """Bags of one who knows: first the lesion tiles of a slide, then others drawn by lot, as of slides without any.

    The slides' sides are multiples of the tile's, which is cut at full resolution.
    """
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for path in sorted(slides.iterdir()):
        bag = tile_slide(path, spec, score_map=_score_map(path, truth.get(path.stem, frozenset()), spec.size, random))
        write_bag(bag_path(out, path.stem), bag)


def _score_map(path: Path, corners: frozenset[Corner], size_px: int, random: np.random.Generator) -> np.ndarray:
    """Float (rows, columns) of tiles: by lot from 0 to 1, and 2 on lesion tiles."""
    from tiling.slide import open_slide

    slide = open_slide(path)
    assert not (slide.width_px % size_px or slide.height_px % size_px), "tiles must fill the slide"
    scores = random.uniform(size=(slide.height_px // size_px, slide.width_px // size_px))
    for x0, y0 in corners:
        scores[y0 // size_px, x0 // size_px] = 2
    return scores
