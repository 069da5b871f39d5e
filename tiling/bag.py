"""The bag: one HDF5 file with the chosen tiles of one slide. `docs/format.md` describes it for other programs.

This is the only module that imports h5py. A bag is written under another name in the same folder and moved into
place, so a file that has the name of a bag is a complete bag.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import simplejpeg
from PIL import Image

from tiling.errors import BagError
from tiling.output import replacing
from tiling.resample import resize

FORMAT = "gigabag"
FORMAT_VERSION = 1
SUFFIX = ".h5"


class Codec(NamedTuple):
    """How an RGB uint8 (H, W, 3) tile becomes bytes (with a quality from 1 to 100) and pixels again.

    `decode(data, at_least_px)` may give a smaller picture than was stored, but no side under `at_least_px`.
    """

    encode: Callable[[np.ndarray, int], bytes]
    decode: Callable[[bytes, int], np.ndarray]


def _encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "420"))


def _decode_jpeg(data: bytes, at_least_px: int) -> np.ndarray:
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_height=at_least_px, min_width=at_least_px))


def _encode_png(rgb: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _decode_png(data: bytes, at_least_px: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


CODECS = {"jpeg": Codec(_encode_jpeg, _decode_jpeg), "png": Codec(_encode_png, _decode_png)}


@dataclass(frozen=True)
class BagHeader:
    """What a bag says of its slide and of how it was made; sizes and corners are level-0 pixels.

    `mpp` is µm per level-0 pixel (None where unknown), `mpp_from` says whether a table, the file, or the default gave
    it, `slide_bytes` is the size of the slide's file, `spec` the settings of the tiler, `side0_px` the side of every
    tile, `overview_downsample` level-0 pixels per overview pixel, `overview_seen` the share of the overview that was
    read and not interpolated.
    """

    slide_id: str
    slide_path: str
    slide_bytes: int
    width_px: int
    height_px: int
    mpp: float | None
    mpp_from: str
    vendor: str
    spec: dict[str, Any]
    codec: str
    tiles: int
    side0_px: int
    overview_downsample: float
    overview_seen: float


@dataclass(frozen=True)
class Bag:
    """The tiles of one slide, best first: encoded pictures, and (N,) arrays that belong to them.

    `x0`, `y0` int64 level-0 pixels of the upper left corner; `score` float64; `tissue` float64 in 0 to 1.
    `overview` is the whole slide as an encoded JPEG.
    """

    header: BagHeader
    tiles: tuple[bytes, ...]
    x0: np.ndarray
    y0: np.ndarray
    score: np.ndarray
    tissue: np.ndarray
    overview: bytes

    def __len__(self) -> int:
        return len(self.tiles)

    def tile(self, index: int, px: int | None = None) -> np.ndarray:
        """RGB uint8 (px, px, 3) of one tile, at its stored size if `px` is None; BagError if it cannot be decoded."""
        try:
            rgb = CODECS[self.header.codec].decode(self.tiles[index], px or 0)
        except (ValueError, OSError) as error:
            raise BagError(
                f"tile {index} of bag {self.header.slide_id!r} cannot be decoded ({error}); tile the slide again"
            ) from error
        return rgb if px is None or rgb.shape[:2] == (px, px) else resize(rgb, (px, px))

    def overview_rgb(self) -> np.ndarray:
        """RGB uint8 (H, W, 3) of the whole slide."""
        return _decode_jpeg(self.overview, 0)


def software() -> str:
    """Name and version of this program, as written into what it makes."""
    try:
        return f"gigabag {version('gigabag')}"
    except PackageNotFoundError:
        return "gigabag (not installed)"


def bag_path(folder: Path, slide_id: str) -> Path:
    """Where the bag of a slide is kept."""
    return folder / f"{slide_id}{SUFFIX}"


def encode_overview(rgb: np.ndarray) -> bytes:
    """The bytes of a bag's overview."""
    return _encode_jpeg(rgb, 90)


def write_bag(path: Path, bag: Bag) -> None:
    """Write a bag whole or not at all. The same bag gives the same bytes."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        header = bag.header
        file.attrs.update(
            format=FORMAT, format_version=FORMAT_VERSION, software=software(),
            slide_id=header.slide_id, slide_path=header.slide_path, slide_bytes=header.slide_bytes,
            width_px=header.width_px, height_px=header.height_px,
            mpp=np.nan if header.mpp is None else header.mpp, mpp_from=header.mpp_from, vendor=header.vendor,
            spec=json.dumps(header.spec, sort_keys=True), codec=header.codec, side0_px=header.side0_px,
        )  # fmt: skip
        tiles = file.create_dataset("tiles", (len(bag),), h5py.vlen_dtype(np.uint8))
        for index, data in enumerate(bag.tiles):
            tiles[index] = np.frombuffer(data, np.uint8)
        for name in ("x0", "y0", "score", "tissue"):
            file.create_dataset(name, data=getattr(bag, name))
        overview = file.create_dataset("overview", data=np.frombuffer(bag.overview, np.uint8))
        overview.attrs["downsample"] = header.overview_downsample
        overview.attrs["seen"] = header.overview_seen


def read_header(path: Path) -> BagHeader:
    """What a bag says of itself; raises BagError where the file is no bag of this version."""
    with _open(path) as file:
        return _header(file)


def read_bag(path: Path) -> Bag:
    """A whole bag, its tiles still encoded; raises BagError where the file is damaged or of another version."""
    with _open(path) as file:
        header = _header(file)
        arrays = {name: file[name][...] for name in ("x0", "y0", "score", "tissue")}
        tiles = tuple(data.tobytes() for data in file["tiles"][...])
        if any(array.shape != (len(tiles),) for array in arrays.values()):
            raise BagError(f"{str(path)!r} has arrays of different lengths; tile the slide again")
        return Bag(header, tiles, **arrays, overview=file["overview"][...].tobytes())


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError as error:
        raise BagError(f"no such bag: {str(path)!r}; tile its slide first") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BagError):
            raise
        raise BagError(f"{str(path)!r} is not a complete bag ({error}); delete it and tile its slide again") from error


def _header(file: h5py.File) -> BagHeader:
    attrs = file.attrs
    if attrs.get("format") != FORMAT:
        raise BagError(f"{file.filename!r} is an HDF5 file but no bag; give the folder that `python -m tiling` wrote")
    if attrs["format_version"] != FORMAT_VERSION:
        raise BagError(
            f"{file.filename!r} has bag format {attrs['format_version']}, this program reads {FORMAT_VERSION}; "
            "tile its slide again or use the version that wrote it"
        )
    mpp, codec, spec = float(attrs["mpp"]), str(attrs["codec"]), json.loads(attrs["spec"])
    if codec not in CODECS or not isinstance(spec, dict) or len(file["tiles"]) == 0:
        raise BagError(
            f"{file.filename!r} has tiles of codec {codec!r}, {len(file['tiles'])} of them, which this program cannot "
            "use; tile its slide again"
        )
    return BagHeader(
        slide_id=str(attrs["slide_id"]),
        slide_path=str(attrs["slide_path"]),
        slide_bytes=int(attrs["slide_bytes"]),
        width_px=int(attrs["width_px"]),
        height_px=int(attrs["height_px"]),
        mpp=None if np.isnan(mpp) else mpp,
        mpp_from=str(attrs["mpp_from"]),
        vendor=str(attrs["vendor"]),
        spec=spec,
        codec=codec,
        tiles=len(file["tiles"]),
        side0_px=int(attrs["side0_px"]),
        overview_downsample=float(file["overview"].attrs["downsample"]),
        overview_seen=float(file["overview"].attrs["seen"]),
    )
