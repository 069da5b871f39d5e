"""Tiled TIFFs by their tile table: how many bytes each tile has, and its pixels, whole or reduced.

A slide scanner writes tens of thousands of small compressed tiles. Where they lie and how long they are stands in the
file's tables, so a tile is one read and one call of the decoder; a JPEG decoder gives a half, a quarter or an eighth
of the size for less than the whole. The byte counts alone are a map of where the tissue is.
"""

import io
import logging
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import tifffile
from PIL import Image

REDUCTIONS = (1, 2, 4, 8)

_MOST_TILE_PX = 4096  # a longer side is a striped picture in disguise
_MOST_BYTES = 1 << 26  # read at once; a damaged table may ask for any number
_MOST_PAGES = 10_000  # a slide has some twenty
_READ_AHEAD = 2  # bytes read at once, relative to the bytes wanted of them

Decode = Callable[[bytes, int], np.ndarray]


class TileError(ValueError):
    """A tile that is missing, cut short or of another kind than the table says."""


class TiledPage:
    """One page of a tiled TIFF, which can be reduced by one of `reductions` as it is read.

    `bytecounts` is int64 (tile rows, tile columns); 0 stands for a tile that was left out. It reads as white, or is an
    error where `blanks` is False: some scanners mean by it that a finer level has the pixels.
    """

    reductions = REDUCTIONS
    blanks = True

    def __init__(self, file: "_File", page: tifffile.TiffPage, decode: Decode) -> None:
        self.width_px, self.height_px = int(page.imagewidth), int(page.imagelength)
        self.tile_width_px, self.tile_height_px = int(page.tilewidth), int(page.tilelength)
        shape = -(-self.height_px // self.tile_height_px), -(-self.width_px // self.tile_width_px)
        self.offsets = np.asarray(page.dataoffsets, np.int64).reshape(shape)
        self.bytecounts = np.asarray(page.databytecounts, np.int64).reshape(shape)
        self._file = file
        self._decode = decode

    def read(self, x: int, y: int, width: int, height: int, reduction: int = 1) -> np.ndarray:
        """RGB uint8 (height, width, 3) of a rectangle of the reduced page, all inside it.

        Raises TileError where it cannot be decoded.
        """
        tile_w, tile_h = self.tile_width_px // reduction, self.tile_height_px // reduction
        out = np.empty((height, width, 3), np.uint8)
        columns = range(x // tile_w, -(-(x + width) // tile_w))
        for row in range(y // tile_h, -(-(y + height) // tile_h)):
            top, bottom = max(row * tile_h, y), min((row + 1) * tile_h, y + height)
            for column, tile in zip(columns, self._tiles(row, columns, reduction), strict=True):
                left, right = max(column * tile_w, x), min((column + 1) * tile_w, x + width)
                part = tile[
                    top - row * tile_h : bottom - row * tile_h, left - column * tile_w : right - column * tile_w
                ]
                out[top - y : bottom - y, left - x : right - x] = part
        return out

    def _tiles(self, row: int, columns: range, reduction: int) -> Iterator[np.ndarray]:
        shape = self.tile_height_px // reduction, self.tile_width_px // reduction, 3
        for data in self._file.read(self.offsets[row, columns], self.bytecounts[row, columns]):
            if not data and not self.blanks:
                raise TileError("a tile was left out")
            if not data:
                yield np.full(shape, 255, np.uint8)
                continue
            tile = self._decode(data, reduction)
            if tile.shape != shape:
                raise TileError(f"a tile has the shape {tile.shape}, not {shape}")
            yield tile


class Page(NamedTuple):
    """What a TIFF says of one of its pages; `tiled` is None where its tiles cannot be read one by one."""

    width_px: int
    height_px: int
    is_tiled: bool
    is_rgb: bool
    compression: int
    tiled: TiledPage | None


def read_pages(path: Path) -> list[Page]:
    """The pages of a TIFF; none for a file that is no TIFF or whose page table is broken: other readers judge it."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it reports each oddity of a file on stderr
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.pages) > _MOST_PAGES:
                return []
            file = _File(path)
            return [_page(file, page.aspage()) for page in tiff.pages]
    except Exception:  # noqa: BLE001  # it raises whatever a damaged table leads it to
        return []


def tiff_code(compression: str) -> int:
    """The number that stands for a compression in a TIFF, given the name that libtiff has for it."""
    return int(tifffile.COMPRESSION[compression])


def erase_resolution(path: Path) -> None:
    """Say in every page that its resolution has no unit."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.aspage().tags["ResolutionUnit"].overwrite(tifffile.RESUNIT.NONE)


def write_tiled_jpeg(path: Path, levels: Iterable[tuple[int, int, Iterable[bytes]]], tile_px: int) -> None:
    """Write levels of (width, height, JPEGs of the tiles along the rows), finest first, as the pages of a TIFF.

    The JPEGs are RGB uint8 squares of `tile_px`, with chroma halved on both axes.
    """
    with path.open("wb") as file:
        file.write(b"II+\0" + struct.pack("<HHQ", 8, 0, 0))  # BigTIFF; where the first table lies is filled in later
        pointer_at = file.tell() - 8
        for index, (width_px, height_px, tiles) in enumerate(levels):
            places = [(file.tell(), file.write(tile)) for tile in tiles]
            tables_at = file.tell()
            file.write(np.array(places, "<u8").T.tobytes())
            table_at = file.tell()
            tags: dict[int, tuple[int, list[int]]] = {
                254: (4, [int(index > 0)]), 256: (4, [width_px]), 257: (4, [height_px]), 258: (3, [8, 8, 8]),
                259: (3, [tifffile.COMPRESSION.JPEG]), 262: (3, [tifffile.PHOTOMETRIC.YCBCR]), 277: (3, [3]),
                284: (3, [1]), 322: (4, [tile_px]), 323: (4, [tile_px]), 530: (3, [2, 2]),
            }  # fmt: skip
            entries = {tag: _entry(tag, *value) for tag, value in tags.items()}
            for tag, at in ((324, tables_at), (325, tables_at + 8 * len(places))):
                value = at if len(places) > 1 else places[0][tag - 324]
                entries[tag] = struct.pack("<HHQQ", tag, 16, len(places), value)
            table = b"".join(entries[tag] for tag in sorted(entries))
            file.write(struct.pack("<Q", len(entries)) + table + struct.pack("<Q", 0))
            end = file.tell()
            file.seek(pointer_at)
            file.write(struct.pack("<Q", table_at))
            file.seek(end)
            pointer_at = end - 8


def _entry(tag: int, kind: int, values: list[int]) -> bytes:
    """An entry of a BigTIFF's table that holds its few 16-bit (kind 3) or 32-bit (kind 4) numbers itself."""
    data = np.array(values, "<u2" if kind == 3 else "<u4").tobytes()
    return struct.pack("<HHQ8s", tag, kind, len(values), data)


def _page(file: "_File", page: tifffile.TiffPage) -> Page:
    decoder = _DECODERS.get(int(page.compression))
    is_colour = page.bitspersample == 8 and page.samplesperpixel == 3 and page.planarconfig == 1
    is_rgb = is_colour and page.photometric == tifffile.PHOTOMETRIC.RGB
    is_jpeg = page.compression == tifffile.COMPRESSION.JPEG  # whose decoder knows the other colour spaces
    fits = page.is_tiled and all(
        0 < side <= _MOST_TILE_PX and side % max(REDUCTIONS) == 0 for side in (page.tilewidth, page.tilelength)
    )
    tiled = TiledPage(file, page, decoder(page)) if decoder and fits and (is_rgb or (is_jpeg and is_colour)) else None
    return Page(int(page.imagewidth), int(page.imagelength), bool(page.is_tiled), is_rgb, int(page.compression), tiled)


def _jpeg(page: tifffile.TiffPage) -> Decode:
    """The decoder of tiles that share the tables of a page, and may be RGB without saying so."""
    head = page.jpegtables[:-2] if page.jpegtables else b"\xff\xd8"
    if page.photometric == tifffile.PHOTOMETRIC.RGB:
        head += _ADOBE_RGB

    def decode(data: bytes, reduction: int) -> np.ndarray:
        data = head + data[2:]
        try:
            said = simplejpeg.decode_jpeg_header(data)[:2]
            if said != (page.tilelength, page.tilewidth):  # it may claim 65535 px each
                raise ValueError(f"a tile says that it has {said[1]} × {said[0]} px")
            return np.asarray(
                simplejpeg.decode_jpeg(
                    data, "RGB", min_factor=1,
                    min_height=page.tilelength // reduction, min_width=page.tilewidth // reduction,
                )
            )  # fmt: skip
        except ValueError as error:
            raise TileError(str(error)) from error

    return decode


def _pillow(page: tifffile.TiffPage) -> Decode:
    """The decoder of tiles that are pictures of their own."""

    def decode(data: bytes, reduction: int) -> np.ndarray:
        try:
            # The small pictures inside JPEG 2000 are not used: they alias, and lie half a pixel off.
            with Image.open(io.BytesIO(data), formats=["JPEG2000", "WEBP"]) as image:
                if image.size != (page.tilewidth, page.tilelength):
                    raise ValueError(f"a tile says that it has {image.width} × {image.height} px")
                return _reduced(np.asarray(image.convert("RGB")), reduction)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise TileError(str(error)) from error

    return decode


def _plain(page: tifffile.TiffPage) -> Decode:
    """The decoder of raw and deflated pixels."""
    shape = page.tilelength, page.tilewidth, 3
    is_deflated = page.compression != tifffile.COMPRESSION.NONE
    is_differenced = page.predictor == tifffile.PREDICTOR.HORIZONTAL

    def decode(data: bytes, reduction: int) -> np.ndarray:
        try:
            raw = zlib.decompressobj().decompress(data, math.prod(shape)) if is_deflated else data
            rgb = np.frombuffer(raw, np.uint8).reshape(shape)
        except (zlib.error, ValueError) as error:
            raise TileError(str(error)) from error
        return _reduced(np.cumsum(rgb, axis=1, dtype=np.uint8) if is_differenced else rgb, reduction)

    return decode


def _reduced(rgb: np.ndarray, reduction: int) -> np.ndarray:
    return rgb if reduction == 1 else np.asarray(Image.fromarray(rgb).reduce(reduction))


_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # APP14: no colour transform
_DECODERS: dict[int, Callable[[tifffile.TiffPage], Decode]] = {
    tifffile.COMPRESSION.JPEG: _jpeg,
    tifffile.COMPRESSION.JPEG2000: _pillow,
    tifffile.COMPRESSION.WEBP: _pillow,
    tifffile.COMPRESSION.NONE: _plain,
    tifffile.COMPRESSION.DEFLATE: _plain,
    tifffile.COMPRESSION.ADOBE_DEFLATE: _plain,
}


class _File:
    """An open file that may be read at any place, by several threads."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offsets: np.ndarray, counts: np.ndarray) -> Iterator[bytes]:
        """The bytes of each range, neighbours in the file read at once; raises TileError where they are not there."""
        offsets, counts = offsets.tolist(), counts.tolist()
        if max(counts) > _MOST_BYTES:
            raise TileError(f"a tile is said to have {max(counts)} bytes")
        there = [(offset, offset + count) for offset, count in zip(offsets, counts, strict=True) if count]
        start, end = min((first for first, _ in there), default=0), max((last for _, last in there), default=0)
        at_once = end - start <= min(_READ_AHEAD * sum(counts), _MOST_BYTES)
        data = self._pread(start, end - start) if at_once else b""
        for offset, count in zip(offsets, counts, strict=True):
            part = data[offset - start : offset - start + count] if at_once else self._pread(offset, count)
            if len(part) != count:
                raise TileError(f"the file ends within the tile at byte {offset}")
            yield part

    def _pread(self, offset: int, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, offset) if count else b""
        except OSError as error:
            raise TileError(f"byte {offset} cannot be read: {error.strerror}") from error
