"""The overview as a square."""

import numpy as np

from tests.conftest import GLASS, STROMA, paint
from tiling.overview import Square, background_of, square_of, squared


def test_square_of_a_slide() -> None:
    assert square_of(300, 200) == Square(0, -50, 300)
    assert square_of(200, 301) == Square(-50.5, 0, 301)


def test_it_lies_in_the_middle_of_its_background() -> None:
    wide = paint(400, 200, (0, 0, 100, STROMA))
    square = squared(wide, 64)
    assert square.shape == (64, 64, 3)
    assert (square[:16] == GLASS).all()
    assert (square[48:] == GLASS).all()
    assert (square[17:31, 1:15] == STROMA).all()
    assert (square[16:48, 17:] == GLASS).all()
    tall = squared(wide.swapaxes(0, 1), 64)
    np.testing.assert_array_equal(tall, square.swapaxes(0, 1))


def test_colour_of_the_background() -> None:
    assert background_of(paint(64, 64, (0, 0, 32, STROMA))).tolist() == [*GLASS]
    assert background_of(paint(64, 64, (0, 0, 64, STROMA))).tolist() == [255, 255, 255]


def test_an_overview_of_one_line_is_a_line() -> None:
    assert squared(paint(1000, 1), 32).shape == (32, 32, 3)
