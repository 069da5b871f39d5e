"""Pixels survive: lossless codecs keep every one, JPEG as many as it promises."""

import numpy as np
import pytest

from tiling.codec import CODECS, SMALL_CHROMA, SMALL_QUALITY, decode_overview, encode_overview

NOISE = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
Y, X = np.mgrid[:64, :64]
SMOOTH = np.stack([X * 2 + 60, Y * 2 + 60, X + Y + 60], axis=2).astype(np.uint8)


@pytest.mark.parametrize("name", ["png", "webp", "raw"])
def test_lossless_is_exact_whatever_the_quality(name: str) -> None:
    codec = CODECS[name]
    assert codec.is_lossless
    assert codec.encode(NOISE, 1, 420) == codec.encode(NOISE, 100, 444)
    np.testing.assert_array_equal(codec.decode(codec.encode(NOISE, 1, 420), 0), NOISE)


def test_raw_is_the_pixels() -> None:
    assert CODECS["raw"].encode(NOISE, 90, 420) == NOISE.tobytes()
    assert CODECS["raw"].encode(NOISE[:, ::-1], 90, 420) == NOISE[:, ::-1].tobytes()


def test_raw_of_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="reshape"):
        CODECS["raw"].decode(NOISE.tobytes()[:-1], 0)


@pytest.mark.parametrize(("quality", "chroma", "most"), [(90, 420, 6), (90, 444, 5), (SMALL_QUALITY, SMALL_CHROMA, 3)])
def test_jpeg_is_close(quality: int, chroma: int, most: int) -> None:
    codec = CODECS["jpeg"]
    assert not codec.is_lossless
    back = codec.decode(codec.encode(SMOOTH, quality, chroma), 0)
    assert np.abs(back.astype(int) - SMOOTH).max() <= most


def test_chroma_and_quality_cost_bytes() -> None:
    sizes = [len(CODECS["jpeg"].encode(NOISE, *each)) for each in ((80, 420), (90, 420), (90, 422), (90, 444))]
    assert sizes == sorted(set(sizes))


def test_jpeg_may_be_decoded_smaller() -> None:
    assert CODECS["jpeg"].decode(CODECS["jpeg"].encode(SMOOTH, 90, 420), 16).shape == (16, 16, 3)


def test_overview_need_not_be_square() -> None:
    overview = np.full((80, 100, 3), 240, np.uint8)
    np.testing.assert_array_equal(decode_overview(encode_overview(overview)), overview)
