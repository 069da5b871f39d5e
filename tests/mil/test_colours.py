"""Which colour a share of attention has."""

import numpy as np

from mil.colours import rgb_of, top_of


def test_scales_reach_twice_what_is_even() -> None:
    assert top_of(np.full(16, 1 / 16)) == 2 / 16
    assert top_of(np.array([0.7, 0.2, 0.1])) == 0.7
    assert top_of(np.array([1.0])) == 1.0


def test_ends_of_the_scale() -> None:
    assert rgb_of(np.array([0.0, 1.0])) == [(68, 1, 84), (253, 231, 36)]
