import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import digits
from benchmarks.catch import read_truth
from benchmarks.digits import BLUE, PINK, Digits, compose_pages, digit_tiles, draw_page, grained, read_digits, scribbles

# Three times ten of each class: a square of ink as wide as its class says.
CLASSES = np.repeat(np.arange(10, dtype=np.uint8), 30)
IMAGES = np.zeros((300, 28, 28), np.uint8)
for _image, _width in zip(IMAGES, CLASSES, strict=True):
    _image[:, : 2 + 2 * _width] = 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, array, header in (("train-images-idx3", IMAGES, 16), ("train-labels-idx1", CLASSES, 8)):
        with gzip.open(tmp_path / f"{name}-ubyte.gz", "wb") as file:
            file.write(bytes(header) + array.tobytes())
    return tmp_path


def test_read(folder: Path) -> None:
    found = read_digits(folder)
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.classes, CLASSES)


def test_scribbles_are_two_strokes() -> None:
    patterns = scribbles(np.random.default_rng(0))
    assert patterns.shape == (50, 28, 28)
    inked = (patterns > 0).sum(axis=(1, 2))
    assert inked.min() >= 28
    assert inked.max() <= 2 * 2 * 28
    assert patterns[patterns > 0].min() >= int(0.8 * 255)


@pytest.mark.parametrize("seed", range(3))
def test_page_has_three_of_the_class_and_two_others(seed: int) -> None:
    blank = np.zeros((50, 28, 28), np.uint8)
    page = draw_page(7, Digits(IMAGES, CLASSES), blank, np.random.default_rng(seed))
    widths = [int((page.rgb[y, x : x + 28] == BLUE).all(axis=1).sum()) for x, y in page.corners]
    assert [(width - 2) // 2 == 7 for width in widths] == [True] * 3 + [False] * 2
    assert (page.rgb == PINK).all(axis=2).sum() == 1500**2 - 28 * sum(widths)  # none lies on another
    assert page.rgb.shape == (1500, 1500, 3)


def test_grain_makes_every_tile_its_own() -> None:
    page = np.full((100, 100, 3), PINK, np.uint8)
    found = grained(page, np.random.default_rng(0))
    changes = found.astype(int) - page
    assert np.unique(changes).tolist() == [-2, -1, 0, 1, 2]
    assert (changes == changes[..., :1]).all()
    assert len({found[y : y + 50, x : x + 50].tobytes() for y in (0, 50) for x in (0, 50)}) == 4


def test_tiles_with_a_quarter_of_a_digit() -> None:
    # Within a tile; on the border of two, 7 of 28 columns in the left one; 6 of them; on a crossing, a quarter each.
    assert digit_tiles(np.array([[10, 60]])) == {(0, 50)}
    assert digit_tiles(np.array([[43, 0]])) == {(0, 0), (50, 0)}
    assert digit_tiles(np.array([[44, 0]])) == {(50, 0)}
    assert digit_tiles(np.array([[136, 136]])) == {(100, 100), (150, 100), (100, 150), (150, 150)}
    assert digit_tiles(np.array([[10, 60], [12, 60]])) == {(0, 50)}


def test_folds_share_no_digit_and_have_every_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "CANVAS_PX", 300)
    used: dict[int, set[int]] = {}

    def note(majority: int, pool: Digits, patterns: np.ndarray, random: np.random.Generator) -> digits.Page:
        used.setdefault(id(pool), set()).add(majority)
        np.testing.assert_array_equal(np.bincount(pool.classes), [10] * 10)
        return draw_page(majority, pool, patterns, random)

    monkeypatch.setattr(digits, "draw_page", note)
    compose_pages(folder, folder, slides=30)
    assert [len(classes) for classes in used.values()] == [10, 10, 10]
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["label"], row["fold"]) for row in rows} == {(f"digit{c}", str(f)) for c in range(10) for f in range(3)}
    assert read_truth(folder / "tiles.csv").keys() == {row["slide_id"] for row in rows}
    with Image.open(folder / "slides" / "d0000.png") as page:
        assert page.size == (300, 300)
