"""From a map to cells and boxes, with expected values by hand."""

import math

import numpy as np
import pytest

from tiling.pick import (
    Box,
    Rule,
    box_around,
    cells_on,
    choose_by_attention,
    clipped,
    enlarged,
    mass_per_cell,
    peakedness,
    square_about,
)
from tiling.rank import Grid


def map_of(*cells: tuple[int, int], side: int = 7) -> np.ndarray:
    """A map whose attention is shared evenly by some cells, given by row and column."""
    out = np.zeros((side, side))
    for cell in cells:
        out[cell] = 1 / len(cells)
    return out


class TestMass:
    def test_cells_that_cut_those_of_the_map(self) -> None:
        # Cells of 3 on a slide of 8 x 8 with a map of 2 x 2: the second cell has 1 of the 4 level-0 pixels of the left
        # half and 2 of the right one.
        mass = mass_per_cell(np.array([[0.4, 0.2], [0.1, 0.3]]), Grid(0, 0, 3, 3, 3), 8, 8)
        np.testing.assert_allclose(mass[0], [0.4 * 9 / 16, 0.4 * 3 / 16 + 0.2 * 6 / 16, 0.2 * 6 / 16])
        np.testing.assert_allclose(mass.sum(), 1)

    def test_map_lies_over_the_square_and_not_over_the_slide(self) -> None:
        # A slide of 8 x 4 lies in the middle rows of its square: the outer quarters of the map are beside it.
        rows = np.array([[0.1], [0.2], [0.3], [0.4]]) @ np.full((1, 4), 0.25)
        mass = mass_per_cell(rows, Grid(0, 0, 4, 2, 1), 8, 4)
        np.testing.assert_allclose(mass, [[0.25, 0.25]])

    def test_cells_beyond_the_square_have_none(self) -> None:
        mass = mass_per_cell(np.full((2, 2), 0.25), Grid(-4, -4, 8, 2, 2), 8, 8)
        np.testing.assert_allclose(mass, np.full((2, 2), 0.25))
        assert mass_per_cell(np.full((2, 2), 0.25), Grid(0, 0, 8, 2, 1), 8, 8).tolist() == [[1, 0]]

    def test_cells_within_one_cell_of_the_map_tie_exactly(self) -> None:
        random = np.random.default_rng(0).random((7, 7))
        mass = mass_per_cell(random / random.sum(), Grid(0, 0, 1, 21, 21), 21, 21)
        assert len(np.unique(mass)) == 49
        np.testing.assert_allclose(mass.sum(), 1)

    def test_nothing_is_nothing(self) -> None:
        mass = mass_per_cell(map_of((0, 0), (1, 4), (6, 2)), Grid(0, 0, 1, 14, 14), 14, 14)
        assert np.count_nonzero(mass) == 12


class TestPeakedness:
    EVERYWHERE = np.ones((7, 7), bool)

    def test_values(self) -> None:
        assert peakedness(np.full((7, 7), 1 / 49), self.EVERYWHERE) == pytest.approx(0, abs=1e-12)
        assert peakedness(map_of((3, 3)), self.EVERYWHERE) == 1
        halves = map_of((0, 0), (6, 6))
        assert peakedness(halves, self.EVERYWHERE) == pytest.approx(1 - math.log(2) / math.log(49))

    def test_only_cells_that_can_have_attention_count(self) -> None:
        halves = map_of((0, 0), (6, 6))
        assert peakedness(halves, halves > 0) == pytest.approx(0, abs=1e-12)
        assert peakedness(halves, np.zeros((7, 7), bool)) == pytest.approx(0, abs=1e-12)
        assert peakedness(map_of((3, 3)), np.zeros((7, 7), bool)) == 1

    def test_cells_with_tissue(self) -> None:
        # A slide of 8 x 4 in a map of 4 x 4 takes its rows 1 and 2.
        tissue = np.zeros((2, 4), bool)
        tissue[1, 3] = True
        assert np.argwhere(cells_on(tissue, 8, 4, 4)).tolist() == [[2, 3]]
        assert np.argwhere(cells_on(tissue.T, 4, 8, 4)).tolist() == [[3, 2]]


class TestChoose:
    MASS = np.array([[0.0, 0.3, 0.1, 0.0], [0.3, 0.2, 0.0, 0.1]])
    SCORE = np.array([[0.9, 0.1, 0.2, 0.8], [0.5, 0.4, 0.7, 0.3]])
    TISSUE = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.05, 1.0, 1.0]])

    def cells(self, **rule: float) -> list[int]:
        return choose_by_attention(self.MASS, self.SCORE, self.TISSUE, Rule(4, 0.1, **rule)).cells.tolist()

    def test_by_attention_ties_by_tissue(self) -> None:
        choice = choose_by_attention(self.MASS, self.SCORE, self.TISSUE, Rule(6, 0.1))
        assert choice.cells.tolist() == [4, 1, 7, 2, 0, 3]  # 5 has too little tissue
        assert choice.score.tolist() == [0.3, 0.3, 0.1, 0.1, 0.0, 0.0]
        assert choice.tissue.tolist() == [1] * 6

    def test_share(self) -> None:
        assert self.cells(attention_share=0.5) == [4, 1, 0, 3]
        assert self.cells(attention_share=0.3) == [4, 1, 0, 3]  # 1.2 are two
        assert self.cells(attention_share=0.25) == [4, 0, 3, 6]
        assert self.cells(attention_share=0) == [0, 3, 6, 4]

    def test_share_counts_as_one_would_by_hand(self) -> None:
        mass, none = np.arange(100.0)[None], np.zeros((1, 100))
        choice = choose_by_attention(mass, none, np.ones((1, 100)), Rule(100, 0.1, 0.07))
        assert choice.cells[:9].tolist() == [99, 98, 97, 96, 95, 94, 93, 0, 1]

    def test_distance(self) -> None:
        assert self.cells(min_distance=1) == [4, 1, 7, 2]
        assert self.cells(min_distance=2) == [4, 7]  # 1 is 1.41 from 4, 2 is so from 7
        assert self.cells(min_distance=1.4) == [4, 1, 7]

    def test_distance_holds_for_both_ways(self) -> None:
        assert self.cells(min_distance=2, attention_share=0.25) == [4, 3]
        assert self.cells(min_distance=1.1, attention_share=0.25) == [4, 3, 6, 1]


class TestBox:
    @pytest.mark.parametrize(
        ("cells", "box", "square"),
        [
            ([(3, 3)], (85, 85, 139, 139), (85, 85, 139, 139)),
            ([(0, 0)], (0, 0, 42, 42), (0, 0, 42, 42)),
            ([(0, 0), (6, 6)], (0, 0, 224, 224), (0, 0, 224, 224)),
            ([(3, 2), (3, 4)], (88, 56, 136, 168), (56, 56, 168, 168)),
            ([(2, 2), (2, 3), (3, 2), (3, 3)], (61, 61, 131, 131), (61, 61, 131, 131)),
            ([(2, 6), (3, 6), (4, 6)], (60, 188, 164, 224), (154, 60, 224, 164)),
        ],
    )
    def test_known_answers(self, cells: list[tuple[int, int]], box: tuple[int, ...], square: tuple[float, ...]) -> None:
        found = box_around(map_of(*cells))
        assert found == Box(*box)
        assert clipped(square_about(found)) == square

    def test_square_before_it_is_clipped(self) -> None:
        assert square_about(Box(60, 188, 164, 224)) == (154, 60, 258, 164)

    @pytest.mark.parametrize("side", [1, 3, 7, 32])
    def test_flat_map_is_the_whole(self, side: int) -> None:
        assert box_around(np.full((side, side), 1 / side**2)) == Box(0, 0, 224, 224)

    def test_enlarging_has_half_pixel_centres(self) -> None:
        np.testing.assert_allclose(enlarged(np.array([[0.0, 4.0]] * 2), 4), [[0, 1, 3, 4]] * 4)
        np.testing.assert_allclose(enlarged(np.array([[0.0, 4.0]] * 2).T, 4).T, [[0, 1, 3, 4]] * 4)
