"""The picture of a slide: what lies at which pixel of the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from mil.arrangement import Box, arrange
from mil.panels import DPI
from mil.picture import Content, Overlay, colours_of, draw_slide, pale, strip_length
from mil.shapes import tissue_polygons
from tests.mil.drawn import GLASS, a_bag
from tiling.bag import Bag

LINES = ("name", "prediction", "facts")
ORANGE, YELLOW, PURPLE = (230, 159, 0), (253, 231, 37), (68, 1, 84)
Pixel = Callable[[Box, float, float], np.ndarray]


def drawn(path: Path, bag: Bag, content: Content) -> tuple[Pixel, list[Box], list[list[Box]]]:
    """What stands at a share of the width and height of a box of the picture; its panels, and its tiles."""
    draw_slide(path, bag, content, LINES)
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(int)
    shown = strip_length(len(bag), len(content.overlays))
    panels, views = 1 + (content.map_GG is not None), 1 + len(content.overlays)
    plan = arrange(bag.header.width_px / bag.header.height_px, panels, shown, views)
    assert rgb.shape[:2] == pytest.approx((plan.height * DPI, plan.width * DPI), abs=1)
    per_inch = rgb.shape[0] / plan.height, rgb.shape[1] / plan.width

    def pixel(box: Box, right: float, down: float) -> np.ndarray:
        y = (box.top + down * box.height) * per_inch[0]
        x = (box.left + right * box.width) * per_inch[1]
        return rgb[int(y), int(x)]

    return pixel, plan.panels, plan.tiles


def mixed(below: tuple[int, ...] | np.ndarray, above: tuple[int, ...], alpha: float) -> np.ndarray:
    return (1 - alpha) * np.array(below) + alpha * np.array(above)


def test_tiles_lie_where_they_are_and_have_the_colour_of_their_attention(tmp_path: Path) -> None:
    bag = a_bag([(0, 0), (300, 140)], mpp=None, tissue=None)
    pixel, (panel,), tiles = drawn(tmp_path / "a.png", bag, Content([], np.array([0.1, 0.9])))
    inside = [pixel(panel, x0 / 400, y0 / 200) for x0, y0 in ((10, 25), (310, 165))]
    np.testing.assert_allclose(inside[0], mixed(GLASS, rgb(0.1), 0.3), atol=4)
    np.testing.assert_allclose(inside[1], mixed(GLASS, rgb(0.9), 0.3), atol=4)
    inch = 400 / panel.width  # in level-0 pixels: an outline lies inside its tile
    for x0 in (300 + inch * 1.4 / 72, 350 - inch * 1.4 / 72):
        np.testing.assert_allclose(pixel(panel, x0 / 400, 165 / 200), rgb(0.9), atol=4)
    assert pixel(panel, (300 - inch * 1.4 / 72) / 400, 165 / 200) == pytest.approx(GLASS, abs=4)
    np.testing.assert_allclose(pixel(panel, 200 / 400, 100 / 200), GLASS, atol=3)  # no tile, no tissue
    # The strip: the one that counts most comes first, in a frame of its colour.
    np.testing.assert_allclose(pixel(tiles[0][0], 0, 0.5), rgb(0.9), atol=4)
    np.testing.assert_allclose(pixel(tiles[1][0], 0, 0.5), rgb(0.1), atol=4)


def rgb(share: float) -> np.ndarray:
    return np.array(colormaps["viridis"](share)[:3]) * 255


def test_a_tile_is_outlined_where_the_slide_ends(tmp_path: Path) -> None:
    bag = a_bag([(-25, 75)], mpp=None, tissue=None)
    pixel, (panel,), _ = drawn(tmp_path / "a.png", bag, Content([]))
    line = 1.4 / 72 / panel.width
    np.testing.assert_allclose(pixel(panel, 25 / 400 - line, 85 / 200), ORANGE, atol=4)  # its right edge
    np.testing.assert_allclose(pixel(panel, line, 85 / 200), ORANGE, atol=4)  # its left one is the slide's
    np.testing.assert_allclose(pixel(panel, 15 / 400, 118 / 200), mixed(GLASS, ORANGE, 0.3), atol=4)


def test_tissue_is_outlined(tmp_path: Path) -> None:
    bag = a_bag([(350, 150)], mpp=None)
    pixel, (panel,), _ = drawn(tmp_path / "a.png", bag, Content(tissue_polygons(bag)))
    assert min(pixel(panel, (100 + step / 4) / 400, 80 / 200).max() for step in range(-8, 9)) < 90
    assert min(pixel(panel, (200 + step / 4) / 400, 80 / 200).max() for step in range(-8, 9)) > 150


@pytest.mark.parametrize(
    ("size", "row", "column", "centre"),
    [((400, 200), 1, 2, (250, 50)), ((400, 200), 2, 0, (50, 150)), ((200, 400), 0, 1, (50, 50))],
)
def test_the_map_lies_on_the_slide_s_square(
    size: tuple[int, int], row: int, column: int, centre: tuple[int, int], tmp_path: Path
) -> None:
    """Cells of 100 px; a wide slide has half of the rows, a tall one half of the columns."""
    bag = a_bag([(size[0] - 20, size[1] - 20)], *size, side0_px=20, mpp=None, tissue=None)
    map_GG = np.zeros((4, 4))
    map_GG[row, column] = 1
    pixel, (_, panel), _ = drawn(tmp_path / "a.png", bag, Content([], None, map_GG))
    below = pale(np.array([[GLASS]], np.uint8))[0, 0]
    for y0 in range(50, size[1], 100):
        for x0 in range(50, size[0], 100):
            expected = mixed(below, YELLOW if (x0, y0) == centre else PURPLE, 0.5)
            np.testing.assert_allclose(pixel(panel, x0 / size[0], y0 / size[1]), expected, atol=5)
    # The corners of the cell, from inside and outside.
    x0, y0 = centre[0] - 50, centre[1] - 50
    for inset, colour in ((6, YELLOW), (-6, PURPLE)):
        if x0 + inset > 0:
            at = pixel(panel, (x0 + inset) / size[0], (y0 + 50) / size[1])
            np.testing.assert_allclose(at, mixed(below, colour, 0.5), atol=5)


def test_heat_lies_over_its_tile(tmp_path: Path) -> None:
    white = np.full((16, 16, 3), 255, np.uint8)
    bag = a_bag([(0, 0), (50, 50)], mpp=None, tissue=None, tiles=[white, white])
    heat = np.zeros((2, 4, 4))
    heat[1, 0, 3] = 0.8  # upper right, of the second tile of the strip
    overlay = Overlay("heat", "what", "unit", heat, 0.8)
    pixel, _, tiles = drawn(tmp_path / "a.png", bag, Content([], None, None, (overlay,)))
    np.testing.assert_allclose(pixel(tiles[1][1], 0.9, 0.1), mixed((255,) * 3, YELLOW, 0.5), atol=12)
    for view in (tiles[0][1], tiles[1][1]):
        np.testing.assert_allclose(pixel(view, 0.1, 0.1), mixed((255,) * 3, PURPLE, 0.5), atol=5)
    np.testing.assert_allclose(pixel(tiles[1][0], 0.9, 0.1), (255, 255, 255), atol=2)  # the tile alone, above


def test_the_tissue_is_outlined_on_the_map_too(tmp_path: Path) -> None:
    bag = a_bag([(380, 180)], side0_px=20, mpp=None)  # its tissue ends at x0 = 100
    panels = []
    for tissue in ([], tissue_polygons(bag)):
        pixel, (_, panel), _ = drawn(tmp_path / "a.png", bag, Content(tissue, None, np.full((4, 4), 1 / 16)))
        panels.append(min(pixel(panel, x0 / 400, 0.4).sum() for x0 in np.arange(98, 102, 0.25)))
    assert panels[1] < 0.75 * panels[0]


@pytest.mark.parametrize("tiles", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [(5000, 400), (300, 4000)])
def test_any_slide_with_any_tiles_is_drawn(tiles: int, size: tuple[int, int], tmp_path: Path) -> None:
    corners = [(40 * (index % 8), 40 * (index // 8)) for index in range(tiles)]
    bag = a_bag(corners, *size, side0_px=40)
    map_GG = np.full((7, 7), 1 / 49)
    draw_slide(tmp_path / "a.png", bag, Content(tissue_polygons(bag), np.full(tiles, 1 / tiles), map_GG), LINES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_without_attention_tiles_are_orange() -> None:
    assert colours_of(a_bag([(0, 0)] * 2), None)[1, :3].tolist() == [230 / 255, 159 / 255, 0]
