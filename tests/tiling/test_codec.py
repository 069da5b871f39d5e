"""Pixels survive: lossless codecs keep every one, JPEG as many as it promises."""

import io

import numpy as np
import pytest
from PIL import Image

from tiling.codec import CODECS, SMALL_CHROMA, SMALL_QUALITY, check_side, decode_overview, encode_overview

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


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("side", [8, 16, 300])
def test_size_that_a_picture_says_it_has(codec: str, side: int) -> None:
    data = CODECS[codec].encode(np.zeros((side, side, 3), np.uint8), 90, 420)
    assert CODECS[codec].size_of(data) == (side, side)


def test_size_of_each_kind_of_webp() -> None:
    """Lossy, lossless, and either with a canvas of its own."""
    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"lossless": True, "icc_profile": b"none"}):
        buffer = io.BytesIO()
        Image.new("RGB", (300, 20)).save(buffer, "webp", **options)
        assert CODECS["webp"].size_of(buffer.getvalue()) == (300, 20)


@pytest.mark.parametrize("codec", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("data", [b"", b"\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9, b"RIFF" + bytes(40), bytes(100)])
def test_what_is_no_picture(codec: str, data: bytes) -> None:
    for use in (CODECS[codec].size_of, lambda data: CODECS[codec].decode(data, 0)):
        with pytest.raises(ValueError):
            use(data)


@pytest.mark.parametrize("codec", ["png", "webp"])
def test_pillow_is_told_the_format(codec: str) -> None:
    """Of forty formats, some of which start programs."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "bmp")
    with pytest.raises(ValueError, match="cannot identify image file"):
        CODECS[codec].decode(buffer.getvalue(), 0)


def test_side_is_compared() -> None:
    data = CODECS["png"].encode(np.zeros((16, 16, 3), np.uint8), 90, 420)
    check_side("png", data, 16)
    check_side("png", data, None)
    with pytest.raises(ValueError, match="it has 16 × 16 px, expected a side of 17"):
        check_side("png", data, 17)
    large = data[:16] + (8193).to_bytes(4, "big") * 2 + data[24:]
    with pytest.raises(ValueError, match="it has 8193 × 8193 px, expected at most 8192 each"):
        check_side("png", large, None)
