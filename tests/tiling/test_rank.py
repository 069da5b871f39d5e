"""Grid arithmetic and choice, with expected values by hand."""

import numpy as np
import pytest

from tiling.rank import RANKS, Grid, choose, make_grid, per_cell, tissue_share


@pytest.mark.parametrize(
    ("size", "downsample", "expected"),
    [
        ((2048, 1024), 1.0, Grid(0, 0, 1024, 2, 1)),
        ((2049, 1024), 1.0, Grid(-512, 0, 1024, 3, 1)),  # 3 * 1024 - 2049 = 1023, half of it on the left
        ((2000, 1000), 1.0, Grid(-24, -12, 1024, 2, 1)),
        ((80000, 60000), 4.0, Grid(-960, -720, 4096, 20, 15)),  # the published recipe at 20000 x 15000 px
        ((5001, 400), 5001 / 20480, Grid(0, 72, 256, 20, 1)),  # rounding a cell's side never adds a column
        ((10, 10), 0.5, Grid(-251, -251, 512, 1, 1)),
    ],
)
def test_make_grid(size: tuple[int, int], downsample: float, expected: Grid) -> None:
    grid = make_grid(*size, downsample, 1024)
    if size == (5001, 400):
        # 20 columns of 250 level-0 pixels: x0 = (5001 - 5000) // 2; two rows of 1024 cover 1638 px.
        expected = Grid(0, (400 - 2 * 250) // 2, 250, 20, 2)
    assert grid == expected


def test_corners() -> None:
    x0, y0 = Grid(-10, 5, 100, 3, 2).corners0(np.array([0, 2, 3, 5]))
    assert x0.tolist() == [-10, 190, -10, 190]
    assert y0.tolist() == [5, 5, 105, 105]


def test_per_cell_takes_each_pixel_to_its_cell() -> None:
    image = np.arange(4 * 6).reshape(4, 6)
    cells = per_cell(image, Grid(0, 0, 2, 3, 2))
    assert cells.shape == (2, 3, 4, 1)
    assert cells[0, 1, :, 0].tolist() == [2, 3, 8, 9]
    assert cells[1, 2, :, 0].tolist() == [16, 17, 22, 23]


GRID = Grid(0, 0, 2, 2, 1)
PICTURE = np.array([[[255] * 3, [155] * 3, [0] * 3, [0] * 3], [[255] * 3, [255] * 3, [0] * 3, [155] * 3]], np.uint8)
MASK = np.array([[False, True, False, False], [False, False, False, True]])


def test_tissue_share() -> None:
    assert tissue_share(MASK, GRID).tolist() == [[0.25, 0.25]]


def test_tissue_counts_darkness_of_tissue_alone() -> None:
    # One tissue pixel in each cell, 100 of 255 dark: 100 / (4 * 255), however black the rest of the cell is.
    np.testing.assert_allclose(RANKS["tissue"](PICTURE, MASK, GRID), [[100 / 1020, 100 / 1020]])


def test_darkness_counts_all_pixels() -> None:
    np.testing.assert_allclose(RANKS["darkness"](PICTURE, MASK, GRID), [[100 / 1020, 865 / 1020]])


def test_uniform_spreads_over_the_cells_with_tissue() -> None:
    grid = Grid(0, 0, 1, 100, 1)
    mask = np.zeros((1, 100), bool)
    mask[0, 20:80] = True
    scores = RANKS["uniform"](np.zeros((1, 100, 3), np.uint8), mask, grid)
    chosen = np.sort(choose(scores, tissue_share(mask, grid), 6, 0.1).cells)
    assert chosen.min() >= 20
    assert chosen.max() < 80
    assert np.diff(chosen).min() >= 5
    assert np.diff(chosen).max() <= 15


class TestChoose:
    def test_best_first(self) -> None:
        choice = choose(np.array([[0.1, 0.9], [0.5, 0.7]]), np.full((2, 2), 0.5), 3, 0.1)
        assert choice.cells.tolist() == [1, 3, 2]
        assert choice.score.tolist() == [0.9, 0.7, 0.5]
        assert choice.tissue.tolist() == [0.5, 0.5, 0.5]

    def test_ties_go_to_the_upper_then_the_left_cell(self) -> None:
        assert choose(np.full((3, 3), 0.5), np.ones((3, 3)), 4, 0.1).cells.tolist() == [0, 1, 2, 3]

    def test_too_little_tissue_is_no_candidate(self) -> None:
        tissue = np.array([[0.0, 0.09, 0.1, 1.0]])
        assert choose(np.array([[9.0, 8.0, 7.0, 6.0]]), tissue, 16, 0.1).cells.tolist() == [2, 3]

    def test_no_tissue_at_all_is_never_chosen(self) -> None:
        assert choose(np.ones((2, 2)), np.zeros((2, 2)), 16, 0.0).cells.tolist() == []
