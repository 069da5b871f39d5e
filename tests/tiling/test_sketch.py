"""A few tiles stand for all: the right ones are decoded, and the others take after their like."""

import numpy as np
import pytest

from tiling.sketch import fill, lattice, lattice_step, sketch


def test_lattice_is_shifted_from_row_to_row() -> None:
    chosen = lattice((6, 8), 4)
    assert np.argwhere(chosen).tolist() == [[2, 2], [2, 6]]
    assert np.argwhere(lattice((9, 8), 4)).tolist() == [[2, 2], [2, 6], [6, 0], [6, 4]]
    assert lattice((5, 5), 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 2)])
@pytest.mark.parametrize("step", range(1, 17))
def test_lattice_always_has_a_tile(shape: tuple[int, int], step: int) -> None:
    assert lattice(shape, step).any()


def test_step_is_the_least_that_fits_the_budget() -> None:
    counts = np.full((100, 100), 8500)  # with what every tile costs, 10000 each
    assert lattice_step(counts, 1e8) == 1
    assert lattice_step(counts, 1e8 - 1) == 2
    assert lattice_step(counts, 1e8 / 9 * 1.03) == 3
    assert lattice_step(counts, 0) == 16


def test_unknown_tiles_take_after_known_ones_of_their_size() -> None:
    """Glass and tissue alternate in stripes, which the known tiles cross."""
    is_tissue = np.indices((40, 40))[1] % 10 < 5
    counts = np.where(is_tissue, 20000, 1500)
    colours = np.where(is_tissue[..., None], [180.0, 100, 150], [240.0, 240, 240])
    known = lattice((40, 40), 3)
    found = fill(np.where(known[..., None], colours, 0), known, counts)
    np.testing.assert_allclose(found, colours, atol=1)


def test_without_a_hint_in_the_bytes_it_is_smooth() -> None:
    ramp = np.linspace(0, 200, 60)[None, :, None] * np.ones((60, 60, 3))
    known = lattice((60, 60), 4)
    found = fill(ramp * known[..., None], known, np.full((60, 60), 5000))
    assert np.abs(found - ramp)[6:-6, 6:-6].max() < 12


def test_lonely_tile_has_the_colour_of_the_nearest() -> None:
    known = np.zeros((30, 30), bool)
    known[0, 0] = True
    found = fill(np.full((30, 30, 3), 77.0), known, np.where(known, 100, 60000))
    np.testing.assert_allclose(found, 77)


def test_sketch_puts_squares_where_their_tiles_are() -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (3, 4, 8, 8, 3)).astype(np.uint8)
    picture = sketch(lambda row, column: tiles[row, column], np.ones((3, 4)), np.ones((3, 4), bool), 2)
    assert picture.shape == (6, 8, 3)
    np.testing.assert_allclose(picture[2:4, 6:8], tiles[1, 3].reshape(2, 4, 2, 4, 3).mean(axis=(1, 3)), atol=1)
