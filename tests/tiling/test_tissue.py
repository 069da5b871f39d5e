"""What is tissue, and what only looks dark or coloured."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.conftest import GLASS, NUCLEI, STROMA, paint
from tiling.tissue import _histogram, _opened, _quantile, chroma_threshold, planes, tissue_mask, whiten

SQUARE = (20, 20, 40)


def mask_of(colour: tuple[int, int, int], glass: tuple[int, int, int] = GLASS) -> np.ndarray:
    picture = paint(100, 80, (*SQUARE, colour))
    picture[(picture == GLASS).all(axis=2)] = glass
    return tissue_mask(picture)


@pytest.mark.parametrize(
    "colour",
    [STROMA, NUCLEI, (240, 205, 225), (150, 100, 60), (150, 155, 200), (190, 60, 75)],
    ids=["eosin", "haematoxylin", "pale", "DAB", "counterstain", "blood"],
)
def test_stains_are_tissue(colour: tuple[int, int, int]) -> None:
    expected = np.zeros((80, 100), bool)
    expected[20:60, 20:60] = True
    np.testing.assert_array_equal(mask_of(colour), expected)


@pytest.mark.parametrize(
    "colour",
    [
        (20, 60, 190),
        (30, 140, 60),
        (225, 20, 35),
        (25, 25, 28),
        (0, 0, 0),
        (150, 150, 152),
        (0, 0, 220),
        (255, 255, 255),
    ],
    ids=["blue pen", "green pen", "red pen", "black pen", "border", "dust", "fluorescence", "hole"],
)
def test_ink_black_and_grey_are_not(colour: tuple[int, int, int]) -> None:
    assert not mask_of(colour).any()


@pytest.mark.parametrize("glass", [(255, 255, 255), (226, 224, 222), (240, 236, 222), (232, 238, 240)])
def test_glass_of_any_tint_is_not(glass: tuple[int, int, int]) -> None:
    mask = mask_of(STROMA, glass)
    assert mask[20:60, 20:60].all()
    assert mask.sum() == 40 * 40


def test_bare_slide_has_none() -> None:
    noise = np.random.default_rng(0).normal(0, 2, (200, 200, 3))
    assert not tissue_mask(np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)).any()


def test_washed_out_edge_of_a_pen_goes_with_it() -> None:
    picture = paint(100, 80, (20, 20, 40, (190, 235, 200)), (25, 25, 30, (30, 140, 60)))
    assert not tissue_mask(picture).any()


def test_slide_full_of_tissue_is_not_whitened() -> None:
    picture = np.full((50, 50, 3), STROMA, np.uint8)
    np.testing.assert_array_equal(whiten(planes(Image.fromarray(picture))).rgb, picture)
    assert tissue_mask(picture).all()


def test_threshold_separates_two_peaks_but_stays_where_tissue_begins() -> None:
    assert (
        chroma_threshold(np.bincount([4] * 50 + [24] * 50, minlength=256)) == 14
    )  # Otsu says 4, the least of its range is taken
    assert chroma_threshold(np.bincount([20] * 50 + [90] * 50, minlength=256)) == 20
    assert chroma_threshold(np.bincount([60] * 50 + [150] * 50, minlength=256)) == 30
    assert chroma_threshold(np.zeros(256, int)) == 30


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11, 1000])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_quantiles_from_a_histogram_are_numpys(size: int, share: float) -> None:
    values = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    assert _quantile(np.bincount(values, minlength=256), share) == pytest.approx(np.quantile(values, share))


def test_opening_is_scipys() -> None:
    mask = np.random.default_rng(0).uniform(size=(60, 70)) < 0.7
    np.testing.assert_array_equal(_opened(mask), ndimage.binary_opening(mask, structure=np.ones((2, 2))))


def test_histogram_counts_what_the_mask_shows() -> None:
    random = np.random.default_rng(0)
    channel, mask = random.integers(0, 256, (50, 60)).astype(np.uint8), random.uniform(size=(50, 60)) < 0.3
    np.testing.assert_array_equal(_histogram(channel, mask), np.bincount(channel[mask], minlength=256))
