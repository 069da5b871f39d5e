"""How the pixels of a tile become bytes and pixels again; `benchmarks/tile_codecs.py` measures what that costs."""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

# Small copies in JPEG. What is left of a tile at a quarter of its size is all detail: at the tiles' own 90 and 420 the
# copies would be 5 to 11 dB worse than tiles reduced after decoding; at these they are no worse, and still at most a
# quarter of the tiles' bytes (docs/format.md has the figures).
SMALL_QUALITY, SMALL_CHROMA = 98, 444


class Codec(NamedTuple):
    """How an RGB uint8 (side, side, 3) tile becomes bytes and pixels again.

    `encode(rgb, quality, chroma)` heeds quality (1 to 100) and chroma (420, 422, 444) unless it is lossless.
    `decode(data, at_least_px)` may give a smaller picture than was stored, but no side under `at_least_px`.
    """

    encode: Callable[[np.ndarray, int, int], bytes]
    decode: Callable[[bytes, int], np.ndarray]
    is_lossless: bool


def _encode_jpeg(rgb: np.ndarray, quality: int, chroma: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", str(chroma)))


def _decode_jpeg(data: bytes, at_least_px: int) -> np.ndarray:
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_height=at_least_px, min_width=at_least_px))


def _encode_png(rgb: np.ndarray, quality: int, chroma: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _encode_webp(rgb: np.ndarray, quality: int, chroma: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "webp", lossless=True, quality=0, method=0)
    return buffer.getvalue()


def _decode_with_pillow(data: bytes, at_least_px: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _encode_raw(rgb: np.ndarray, quality: int, chroma: int) -> bytes:
    return rgb.tobytes()


def _decode_raw(data: bytes, at_least_px: int) -> np.ndarray:
    side = math.isqrt(len(data) // 3)
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


CODECS = {
    "jpeg": Codec(_encode_jpeg, _decode_jpeg, is_lossless=False),
    "png": Codec(_encode_png, _decode_with_pillow, is_lossless=True),
    "webp": Codec(_encode_webp, _decode_with_pillow, is_lossless=True),
    "raw": Codec(_encode_raw, _decode_raw, is_lossless=True),
}


def encode_overview(rgb: np.ndarray) -> bytes:
    """The bytes of a bag's overview."""
    return _encode_jpeg(rgb, 90, 420)


def decode_overview(data: bytes) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a bag's overview."""
    return _decode_jpeg(data, 0)
