"""Where tiles lie, from an overview and a map alone."""

import numpy as np
import pytest

from tests.conftest import NUCLEI, STROMA, paint
from tiling.bag import Picked
from tiling.pick import AttentionMap, Rule
from tiling.places import note_on, place_of_box, places_of
from tiling.rank import Grid

# A slide of 800 x 400 px, seen at an eighth; two cells of 200 px with tissue, the right one dark.
OVERVIEW = paint(100, 50, (0, 0, 25, STROMA), (25, 0, 25, NUCLEI))
SIZE0, GRID = (800, 400), Grid(0, 0, 200, 4, 2)


def looking(*cells: tuple[int, int]) -> AttentionMap:
    map_GG = np.zeros((4, 4))
    for cell in cells:
        map_GG[cell] = 1 / len(cells)
    return AttentionMap(map_GG, "all", "abc")


def test_tissue_is_that_of_the_overview() -> None:
    places = places_of(OVERVIEW, SIZE0, GRID, Rule(4, 0.1), lambda _: looking((1, 0)))
    assert (places.x0.tolist(), places.y0.tolist(), places.side0_px) == ([0, 200], [0, 0], 200)
    assert places.score.tolist() == [1, 0]
    np.testing.assert_allclose(places.tissue, [1, 1], atol=0.05)


def test_part_of_a_cell_beyond_the_slide_is_no_tissue() -> None:
    grid = Grid(-100, -100, 200, 5, 3)
    places = places_of(OVERVIEW, SIZE0, grid, Rule(4, 0.1), lambda _: looking((1, 0)))
    # The map's cell of 200 px is cut into four, of equal mass: those with more tissue come first.
    assert (places.x0.tolist(), places.y0.tolist()) == ([100, 100, -100, -100], [-100, 100, -100, 100])
    assert places.score.tolist() == [0.25] * 4
    np.testing.assert_allclose(places.tissue, [0.5, 0.5, 0.25, 0.25], atol=0.02)


def test_nearly_flat_map_leaves_it_to_tissue() -> None:
    nearly = AttentionMap(np.array([0.26, 0.25, 0.25, 0.24])[:, None] * np.full(4, 0.25), "2", "abc")
    places = places_of(OVERVIEW, SIZE0, GRID, Rule(4, 0.1), lambda _: nearly)
    assert places.x0.tolist() == [200, 0]
    assert places.score.tolist() == pytest.approx([1 - 340 / 765, 1 - 584 / 765])
    assert places.picked is not None
    assert places.picked.by == "tissue (flat map)"
    assert 0 < places.picked.peakedness < 0.001


def test_no_cell_with_enough_tissue() -> None:
    places = places_of(paint(100, 50), SIZE0, GRID, Rule(4, 0.1), lambda _: pytest.fail("nobody is asked"))
    assert (len(places.x0), len(places.score), places.picked) == (0, 0, None)


def test_box_has_the_mass_and_tissue_of_its_square() -> None:
    # One cell of 4 x 4 enlarged to 224: what stands out reaches some way into its neighbours.
    places = place_of_box(OVERVIEW, SIZE0, lambda _: looking((1, 1)))
    assert places.side0_px > 200
    assert places.score.tolist() == [1]
    assert abs(places.x0[0] + places.side0_px / 2 - 300) <= 1
    assert abs(places.y0[0] + places.side0_px / 2 - 100) <= 1
    assert 0.4 < places.tissue[0] < 0.9


def test_notes() -> None:
    assert note_on(None) == note_on(Picked("abc", "all", 0.5, "attention")) == ""
    assert note_on(Picked("abc", "all", 0.0041, "tissue (flat map)")) == (
        "the map was nearly flat (peakedness 0.004, below 0.02): tissue decided"
    )
    assert note_on(Picked("abc", "all", 0.0, "whole (flat map)")).endswith("the tile is the whole slide")
