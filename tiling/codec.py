"""How the pixels of a tile become bytes and pixels again; `benchmarks/tile_codecs.py` measures what that costs.

A picture of a few bytes may claim any size, so what it claims is looked at before it is decoded.
"""

import io
import math
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

# Small copies in JPEG. What is left of a tile at a quarter of its size is all detail: at the tiles' own 90 and 420 the
# copies would be 5 to 11 dB worse than tiles reduced after decoding; at these they are no worse, and still at most a
# quarter of the tiles' bytes (docs/format.md has the figures).
SMALL_QUALITY, SMALL_CHROMA = 98, 444

MOST_SIDE_PX = 8192  # of a tile
_MOST_OVERVIEW_PX = 4096  # a side of an overview, which has 1024


class Codec(NamedTuple):
    """How an RGB uint8 (side, side, 3) tile becomes bytes and pixels again.

    `encode(rgb, quality, chroma)` heeds quality (1 to 100) and chroma (420, 422, 444) unless it is lossless.
    `decode(data, at_least_px)` may give a smaller picture than was stored, but no side under `at_least_px`.
    `size_of(data)` is width and height in pixels as the picture itself says them. Both raise ValueError for what is no
    picture.
    """

    encode: Callable[[np.ndarray, int, int], bytes]
    decode: Callable[[bytes, int], np.ndarray]
    size_of: Callable[[bytes], tuple[int, int]]
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


def _decode_png(data: bytes, at_least_px: int) -> np.ndarray:
    return _decode_with_pillow(data, "PNG")


def _decode_webp(data: bytes, at_least_px: int) -> np.ndarray:
    return _decode_with_pillow(data, "WEBP")


def _decode_with_pillow(data: bytes, format: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=[format]) as image:
            return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # it raises whatever a damaged picture leads it to
        raise ValueError(" ".join(str(error).split())) from error


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    return int(width), int(height)


def _size_of_png(data: bytes) -> tuple[int, int]:
    """Its first chunk says it (ISO/IEC 15948, 11.2.2)."""
    if len(data) < 24 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise ValueError("it is no PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _size_of_webp(data: bytes) -> tuple[int, int]:
    """RFC 9649, sections 2.5 to 2.7: the canvas where there is one, else the one picture that there is."""
    if len(data) >= 30 and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind, head = data[12:16], data[20:30]
        if kind == b"VP8X":
            return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
        if kind == b"VP8L":
            sides = int.from_bytes(head[1:5], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        if kind == b"VP8 ":
            width, height = struct.unpack("<HH", head[6:10])
            return width & 0x3FFF, height & 0x3FFF
    raise ValueError("it is no WebP")


def _size_of_raw(data: bytes) -> tuple[int, int]:
    side = math.isqrt(len(data) // 3)
    return side, side


def _encode_raw(rgb: np.ndarray, quality: int, chroma: int) -> bytes:
    return rgb.tobytes()


def _decode_raw(data: bytes, at_least_px: int) -> np.ndarray:
    side = math.isqrt(len(data) // 3)
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


CODECS = {
    "jpeg": Codec(_encode_jpeg, _decode_jpeg, _size_of_jpeg, is_lossless=False),
    "png": Codec(_encode_png, _decode_png, _size_of_png, is_lossless=True),
    "webp": Codec(_encode_webp, _decode_webp, _size_of_webp, is_lossless=True),
    "raw": Codec(_encode_raw, _decode_raw, _size_of_raw, is_lossless=True),
}


def check_side(codec: str, data: bytes, side: int | None) -> None:
    """Raise ValueError for a tile that would be decoded to another size than a square of that side, if it is told."""
    width, height = CODECS[codec].size_of(data)
    if max(width, height) > MOST_SIDE_PX or (side is not None and (width, height) != (side, side)):
        raise ValueError(
            f"it has {width} × {height} px, expected {f'a side of {side}' if side else f'at most {MOST_SIDE_PX} each'}"
        )


def encode_overview(rgb: np.ndarray) -> bytes:
    """The bytes of a bag's overview."""
    return _encode_jpeg(rgb, 90, 420)


def decode_overview(data: bytes) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a bag's overview; raises ValueError where it is none, or far too large."""
    width, height = _size_of_jpeg(data)
    if max(width, height) > _MOST_OVERVIEW_PX:
        raise ValueError(f"it has {width} × {height} px, and an overview at most {_MOST_OVERVIEW_PX} each")
    return _decode_jpeg(data, 0)
