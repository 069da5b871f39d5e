"""Grid arithmetic and choice, with expected values by hand."""

import numpy as np
import pytest

from tiling.rank import RANKS, Grid, Picture, choose, make_grid, mean_per_cell, per_cell, tissue_share


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


@pytest.mark.parametrize(("size", "downsample"), [(256, 1.0019), (128, 1.0039), (64, 1.007), (8, 1.3), (1024, 5.0001)])
def test_grid_leaves_no_strip_out(size: int, downsample: float) -> None:
    grid = make_grid(100_000, 60_000, downsample, size)
    slack = grid.side0_px / 64
    assert grid.x0 <= slack
    assert grid.y0 <= slack
    assert grid.x0 + grid.columns * grid.side0_px >= 100_000 - slack
    assert grid.y0 + grid.rows * grid.side0_px >= 60_000 - slack


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


def picture(rgb: np.ndarray, tissue: np.ndarray) -> Picture:
    """A picture that was read whole."""
    return Picture(rgb, tissue, np.ones_like(tissue), np.zeros(tissue.shape))


def test_tissue_share() -> None:
    assert tissue_share(MASK, GRID).tolist() == [[0.25, 0.25]]


def test_tissue_counts_darkness_of_tissue_alone() -> None:
    # One tissue pixel in each cell, 100 of 255 dark: 100 / (4 * 255), however black the rest of the cell is.
    np.testing.assert_allclose(RANKS["tissue"].score(picture(PICTURE, MASK), GRID), [[100 / 1020, 100 / 1020]])


def test_darkness_counts_all_pixels() -> None:
    np.testing.assert_allclose(RANKS["darkness"].score(picture(PICTURE, MASK), GRID), [[100 / 1020, 865 / 1020]])


def test_uniform_spreads_over_the_cells_with_tissue() -> None:
    grid = Grid(0, 0, 1, 100, 1)
    mask = np.zeros((1, 100), bool)
    mask[0, 20:80] = True
    scores = RANKS["uniform"].score(picture(np.zeros((1, 100, 3), np.uint8), mask), grid)
    chosen = np.sort(choose(scores, tissue_share(mask, grid), 6, 0.1).cells)
    assert chosen.min() >= 20
    assert chosen.max() < 80
    assert np.diff(chosen).min() >= 5
    assert np.diff(chosen).max() <= 15


class TestTexture:
    GRID = Grid(0, 0, 8, 2, 1)

    def checkered(self) -> np.ndarray:
        """A flat cell, and one where green changes by 100 from each pixel to the next."""
        rgb = np.full((8, 16, 3), 150, np.uint8)
        rgb[:, 8:, 1] = 50 + 100 * (np.indices((8, 8)).sum(axis=0) % 2)
        return rgb

    def test_counts_change_inside_tissue(self) -> None:
        tissue = np.ones((8, 16), bool)
        flat, checkered = RANKS["texture"].score(picture(self.checkered(), tissue), self.GRID)[0]
        # The pixels at the picture's border are not compared: 6 x 7 of the 8 x 8 are, each with two neighbours. Beside
        # the checkered cell, three pixels of the flat one differ from their right neighbour by 0 and three by 100.
        assert checkered == pytest.approx(42 * 200 / (510 * 64))
        assert flat == pytest.approx(3 * 100 / (510 * 64))

    def test_edge_of_tissue_is_no_texture(self) -> None:
        tissue = np.zeros((8, 16), bool)
        tissue[:, 8:] = True
        rgb = np.where(tissue[..., None], np.uint8(100), np.uint8(250)).repeat(3, axis=2)
        assert RANKS["texture"].score(picture(rgb, tissue), self.GRID).tolist() == [[0, 0]]

    def test_what_was_not_seen_counts_as_what_compressed_alike(self) -> None:
        grid, tissue = Grid(0, 0, 8, 4, 1), np.ones((8, 32), bool)
        rgb = np.concatenate([self.checkered(), np.full((8, 16, 3), 150, np.uint8)], axis=1)
        seen = tissue & (np.arange(32) < 16)
        size = np.repeat([100, 900, 100, 900], 8) * np.ones((8, 1))
        scores = RANKS["texture"].score(Picture(rgb, tissue, seen, size), grid)[0]
        assert scores[3] > 0.8 * scores[1] > 4 * scores[2]


class TestMeanPerCell:
    def test_cells_that_cut_the_pixels_of_the_map(self) -> None:
        # A map of 2 x 1 pixels on a slide of 8 x 4; cells of 3, the first begins one level-0 pixel before the slide.
        grid = Grid(-1, 0, 3, 3, 2)
        scores = mean_per_cell(np.array([[1.0, 5.0]]), grid, 8, 4)
        np.testing.assert_allclose(scores, [[1, (2 * 1 + 1 * 5) / 3, 5]] * 2)

    def test_cell_outside_the_slide_has_no_score(self) -> None:
        assert mean_per_cell(np.ones((3, 3)), Grid(0, 0, 10, 2, 1), 10, 10).tolist() == [[1, 0]]


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
