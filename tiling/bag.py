"""The bag: the chosen tiles of one slide in HDF5, in a file of its own or as a group of a merged file.

`docs/format.md` describes both for other programs. Files are written under another name in the same folder and moved
into place, so a file that has the name of a bag is complete. What is read is checked, for it may be of anybody.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiling.codec import CODECS, MOST_SIDE_PX, check_side, decode_overview
from tiling.errors import BagError
from tiling.hdf5 import Group, create_hdf5, link, reading, vlen_bytes
from tiling.names import is_plain
from tiling.progress import short
from tiling.resample import resize
from tiling.settings import is_mpp

FORMAT = "gigabag"
MERGED_FORMAT = "gigabag-merged"
FORMAT_VERSION = 1
SUFFIX = ".h5"
CHIPNET = "chipnet"  # the setting that says whose tiles they are

NO_TILES = 0  # the `px` of those who read a bag for its overview and the places of its tiles alone

_BAGS = "bags"  # the group of a merged file
_MOST_PX = 2**31 - 1  # of a slide's side
_MOST_BYTES = 2**63 - 1
_MOST_PATH = 4096  # bytes, in Linux
_ROUNDING = 1e-6
_LONGEST = 400  # characters of what is wrong
_NO_SETTINGS = {"features", "overviews", CHIPNET}  # that stand for other kinds of bags
_ARRAYS = ("x0", "y0", "score", "tissue")


def software() -> str:
    """Name and version of this program, as written into what it makes."""
    try:
        return f"gigabag {version('gigabag')}"
    except PackageNotFoundError:
        return "gigabag (not installed)"


class BagRef(NamedTuple):
    """Where a bag is: a file, and the group in it (the root where the file is one bag)."""

    path: Path
    group: str = "/"

    def __str__(self) -> str:
        return repr(str(self.path)) if self.group == "/" else f"{Path(self.group).name!r} in {str(self.path)!r}"

    @property
    def remedy(self) -> str:
        """What to do about a bag that is damaged."""
        return "delete it and tile its slide again" if self.group == "/" else "merge the bags again"


class Picked(NamedTuple):
    """How a ChipNet took part in the choice of a slide's tiles.

    `run` is the hex digest of its run, `folds` the fold whose network looked (the one that had not seen the slide) or
    "all", `peakedness` of its map in 0 to 1, `by` what decided: attention, or what stands in for a flat map.
    """

    run: str
    folds: str
    peakedness: float
    by: str


@dataclass(frozen=True)
class BagHeader:
    """What a bag says of its slide and of how it was made; sizes and corners are level-0 pixels.

    `mpp` is µm per level-0 pixel (None where unknown), `mpp_from` says whether a table, the file, or the default gave
    it, `slide_bytes` is the size of the slide's file, `spec` the settings of the tiler, `side0_px` the side of every
    tile, `overview_downsample` level-0 pixels per overview pixel, `overview_seen` the share of the overview that was
    read and not interpolated, `train_px` the side of the small copies (None where there are none), `picked` how a
    ChipNet picked the tiles (None where none did).
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
    train_px: int | None = None
    picked: Picked | None = None
    software: str = field(default_factory=software)

    @property
    def made(self) -> dict[str, Any]:
        """What bags that are used together must share: the spec, and the ChipNet run that picked the tiles, if any."""
        return self.spec if self.picked is None else {**self.spec, CHIPNET: self.picked.run}


@dataclass(frozen=True)
class Bag:
    """The tiles of one slide, best first: encoded pictures, and (N,) arrays that belong to them.

    `x0`, `y0` int64 level-0 pixels of the upper left corner; `score` float64; `tissue` float64 in 0 to 1.
    `overview` is the whole slide as an encoded JPEG, `small` the tiles again at the header's `train_px`, if it has
    one. What was not read is None: `tiles` where the small copies served, both where no tile will be asked for.
    """

    header: BagHeader
    tiles: tuple[bytes, ...] | None
    x0: np.ndarray
    y0: np.ndarray
    score: np.ndarray
    tissue: np.ndarray
    overview: bytes
    small: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return self.header.tiles

    def tile(self, index: int, px: int | None = None) -> np.ndarray:
        """RGB uint8 (px, px, 3) of one tile, at its stored size if `px` is None; BagError if it cannot be decoded.

        It comes from the small copy where that is large enough, and from the tile itself elsewhere.
        """
        data = self.encoded(index, px)
        try:
            rgb = CODECS[self.header.codec].decode(data, px or 0)
        except (ValueError, OSError) as error:
            raise self._undecodable(index, error) from error
        return rgb if px is None or rgb.shape[:2] == (px, px) else resize(rgb, (px, px))

    def encoded(self, index: int, px: int | None = None) -> bytes:
        """The picture that a tile of `px` is made from; BagError if it is not of the size that the bag says."""
        small = small_serves(self.header, px)
        pictures = self.small if small else self.tiles
        assert pictures is not None, "the bag was read for smaller tiles"
        try:
            check_side(
                self.header.codec, pictures[index], self.header.train_px if small else self.header.spec.get("size")
            )
        except ValueError as error:
            raise self._undecodable(index, error) from error
        return pictures[index]

    def _undecodable(self, index: int, error: Exception) -> BagError:
        return BagError(
            f"tile {index} of bag {self.header.slide_id!r} cannot be decoded ({error}); tile the slide again"
        )

    def overview_rgb(self) -> np.ndarray:
        """RGB uint8 (H, W, 3) of the whole slide; BagError if it cannot be decoded."""
        try:
            return decode_overview(self.overview)
        except (ValueError, OSError) as error:
            raise BagError(
                f"the overview of bag {self.header.slide_id!r} cannot be decoded ({error}); tile the slide again"
            ) from error


def small_serves(header: BagHeader, px: int | None) -> bool:
    """Whether tiles of `px` pixels are made from the bag's small copies."""
    return px is not None and header.train_px is not None and px <= header.train_px


def differing(spec: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the settings by which bags cannot be used together, given what they were `made` with.

    They are those that lead to other pixels. All lossless codecs are one, whatever their quality and chroma.
    """
    first, second = _that_make_pixels(spec), _that_make_pixels(other)
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def _that_make_pixels(spec: dict[str, Any]) -> dict[str, Any]:
    codec = CODECS.get(spec.get("codec", ""))
    if codec is None or not codec.is_lossless:
        return spec
    return {**{name: value for name, value in spec.items() if name not in ("quality", "chroma")}, "codec": "lossless"}


def bag_path(folder: Path, slide_id: str) -> Path:
    """Where the bag of a slide is kept."""
    return folder / f"{slide_id}{SUFFIX}"


def write_bag(path: Path, bag: Bag) -> None:
    """Write a bag whole or not at all. The same bag gives the same bytes."""
    with create_hdf5(path) as (file, _):
        _write(file, bag)


def write_merged(path: Path, bags: Iterable[tuple[str, Bag]], manifest: list[dict[str, Any]]) -> None:
    """Write many bags, each under its name, into one file, whole or not at all; one bag at a time is in memory."""
    with create_hdf5(path) as (file, check):
        file.attrs.update(format=MERGED_FORMAT, format_version=FORMAT_VERSION, software=software())
        file["manifest"] = json.dumps(manifest)
        group = file.create_group("bags")
        for name, bag in bags:
            _write(group.create_group(link(name)), bag)
            check()


def read_merged(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the bags in a merged file, and its manifest's rows; raises BagError where it is none."""
    ref = BagRef(path)
    with open_hdf5(ref, "merged file", "merge the bags again") as file:
        if _format_of(file) == FORMAT:
            raise BagError(f"{ref} is one bag; give its folder, or a file that `python -m tiling.merge` wrote")
        _check_format(file, ref, MERGED_FORMAT, "merge the bags again")
        rows, names = json.loads(file.dataset("manifest").blobs()[0]), file.group(_BAGS).names()
        if strange := [name for name in names if not is_plain(name)]:
            raise ValueError(f"it has a bag of the name {strange[0]!r}, which cannot be the name of a file")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("its manifest is no list of rows")
        return names, rows


def merged_ref(path: Path, name: str) -> BagRef:
    """Where the bag of that name is in a merged file."""
    return BagRef(path, f"/{_BAGS}/{name}")


def read_header(bag: BagRef | Path) -> BagHeader:
    """What a bag says of itself; raises BagError where there is no bag of this version."""
    with _open_bag(bag) as (group, ref):
        return _header(group, ref)


def read_bag(bag: BagRef | Path, px: int | None = None) -> Bag:
    """A bag, its tiles still encoded; raises BagError where it is damaged or of another version.

    With `px`, tiles larger than that will not be asked for: where the small copies serve, only they are read; with
    NO_TILES neither.
    """
    with _open_bag(bag) as (group, ref):
        header = _header(group, ref)
        arrays = {name: _column(group, name) for name in _ARRAYS}
        side = header.spec.get("size")
        tiles = None if px == NO_TILES or small_serves(header, px) else _pictures(group, "tiles", header, side)
        small = (
            None if px == NO_TILES or header.train_px is None else _pictures(group, "small", header, header.train_px)
        )
        lengths = {len(array) for array in (*arrays.values(), tiles, small) if array is not None}
        if lengths != {header.tiles}:
            raise BagError(f"{ref} has arrays of different lengths; {ref.remedy}")
        _check_places(header, **arrays)
        return Bag(header, tiles, **arrays, overview=_overview(group), small=small)


def _write(group: Any, bag: Bag) -> None:
    assert bag.tiles is not None, "the bag was read without its tiles"
    header = bag.header
    group.attrs.update(
        format=FORMAT, format_version=FORMAT_VERSION, software=header.software,
        slide_id=header.slide_id, slide_path=header.slide_path, slide_bytes=header.slide_bytes,
        width_px=header.width_px, height_px=header.height_px,
        mpp=np.nan if header.mpp is None else header.mpp, mpp_from=header.mpp_from, vendor=header.vendor,
        spec=json.dumps(header.spec, sort_keys=True), codec=header.codec, side0_px=header.side0_px,
    )  # fmt: skip
    if header.picked is not None:
        group.attrs.update({f"picked_{name}": value for name, value in header.picked._asdict().items()})
    _write_pictures(group, "tiles", header.codec, bag.tiles)
    if bag.small is not None:
        _write_pictures(group, "small", header.codec, bag.small).attrs["px"] = header.train_px
    for name in _ARRAYS:
        group.create_dataset(name, data=getattr(bag, name))
    overview = group.create_dataset("overview", data=np.frombuffer(bag.overview, np.uint8))
    overview.attrs["downsample"] = header.overview_downsample
    overview.attrs["seen"] = header.overview_seen


def _write_pictures(group: Any, name: str, codec: str, pictures: tuple[bytes, ...]) -> Any:
    """A dataset of encoded pictures; raw ones are its pixels, a picture a chunk."""
    if codec == "raw" and pictures:
        first = CODECS[codec].decode(pictures[0], 0)
        dataset = group.create_dataset(name, (len(pictures), *first.shape), np.uint8, chunks=(1, *first.shape))
        for index, data in enumerate(pictures):
            dataset[index] = CODECS[codec].decode(data, 0)
        return dataset
    dataset = group.create_dataset(name, (len(pictures),), vlen_bytes)
    for index, data in enumerate(pictures):
        dataset[index] = np.frombuffer(data, np.uint8)
    return dataset


def _pictures(group: Group, name: str, header: BagHeader, side: int | None) -> tuple[bytes, ...]:
    """The encoded pictures of a dataset; raw ones are squares of that side, if it is told."""
    dataset = group.dataset(name)
    if header.codec != "raw":
        return dataset.blobs()
    square = list(dataset.shape[1:])
    if dataset.dtype != np.uint8 or len(square) != 3 or square != [side or square[0]] * 2 + [3]:
        raise ValueError(f"its {name} have the shape {dataset.shape} and type {dataset.dtype}, which are no tiles")
    return tuple(pixels.tobytes() for pixels in dataset.read())


def _column(group: Group, name: str) -> np.ndarray:
    """Int64 or float64 (N,)."""
    dataset, kinds = group.dataset(name), "i" if name in ("x0", "y0") else "f"
    if dataset.dtype.kind not in kinds or len(dataset.shape) != 1:
        raise ValueError(f"its {name} has the shape {dataset.shape} and type {dataset.dtype}, expected a number a tile")
    return dataset.read().astype(np.int64 if kinds == "i" else np.float64, copy=False)


def _check_places(header: BagHeader, x0: np.ndarray, y0: np.ndarray, score: np.ndarray, tissue: np.ndarray) -> None:
    """Raise ValueError where tiles lie far from the slide, or what is said of them are no numbers."""
    far = max(header.width_px, header.height_px, header.side0_px)
    if min(x0.min(), y0.min()) < -far or max(x0.max(), y0.max()) > 2 * far:
        raise ValueError(f"it has tiles far outside its slide of {header.width_px} × {header.height_px} px")
    if not (np.isfinite(score).all() and tissue.min() >= -_ROUNDING and tissue.max() <= 1 + _ROUNDING):
        raise ValueError("it has scores that are no finite numbers, or shares of tissue that are not from 0 to 1")


def _overview(group: Group) -> bytes:
    dataset = group.dataset("overview")
    if dataset.dtype != np.uint8 or len(dataset.shape) != 1:
        raise ValueError(f"its overview has the shape {dataset.shape} and type {dataset.dtype}, which is no JPEG")
    return dataset.read().tobytes()


@contextmanager
def _open_bag(bag: BagRef | Path) -> Iterator[tuple[Group, BagRef]]:
    ref = BagRef(bag) if isinstance(bag, Path) else bag
    with open_hdf5(ref, "bag", ref.remedy) as file:
        yield file.group(_BAGS).group(ref.group.removeprefix(f"/{_BAGS}/")) if ref.group != "/" else file, ref


@contextmanager
def open_hdf5(ref: BagRef, what: str, remedy: str) -> Iterator[Group]:
    """The file at `ref`, open for reading; what is wrong with a damaged one becomes a BagError that names the remedy.

    See `tiling.hdf5.reading`.
    """
    try:
        with reading(ref.path) as file:
            yield file
    except FileNotFoundError as error:
        raise BagError(f"no such {what}: {str(ref.path)!r}; check the path, or make it first") from error
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, BagError):
            raise
        raise BagError(
            f"{ref} is not a complete {what} ({short(' '.join(str(error).split()), _LONGEST)}); {remedy}"
        ) from error


def _format_of(group: Group) -> str | None:
    return group.text("format") if group.has("format") else None


def _check_format(group: Group, ref: BagRef, wanted: str, remedy: str) -> None:
    if _format_of(group) != wanted:
        raise BagError(
            f"{ref} is an HDF5 file but no bag; give the folder that `python -m tiling` wrote, or a file of "
            "`python -m tiling.merge`"
        )
    if (version := group.number("format_version")) != FORMAT_VERSION:
        raise BagError(
            f"{ref} has bag format {version}, this program reads {FORMAT_VERSION}; "
            f"{remedy} or use the version that wrote it"
        )


def _header(group: Group, ref: BagRef) -> BagHeader:
    _check_format(group, ref, FORMAT, ref.remedy)
    codec, spec = group.text("codec"), json.loads(group.text("spec"))
    tiles = group.dataset("tiles").rows
    if codec not in CODECS or not isinstance(spec, dict) or tiles == 0:
        raise BagError(
            f"{ref} has tiles of codec {short(codec)!r}, {tiles} of them, which this program cannot use; {ref.remedy}"
        )
    _check_spec(spec)
    overview, mpp = group.dataset("overview"), group.number("mpp")
    if not (math.isnan(mpp) or is_mpp(mpp)):
        raise ValueError(f"its mpp is {mpp}, which is no number of µm per pixel")
    return BagHeader(
        slide_id=group.text("slide_id"),
        slide_path=group.text("slide_path", _MOST_PATH),
        slide_bytes=group.whole("slide_bytes", 0, _MOST_BYTES),
        width_px=group.whole("width_px", 1, _MOST_PX),
        height_px=group.whole("height_px", 1, _MOST_PX),
        mpp=None if math.isnan(mpp) else mpp,
        mpp_from=group.text("mpp_from"),
        vendor=group.text("vendor"),
        spec=spec,
        codec=codec,
        tiles=tiles,
        side0_px=group.whole("side0_px", 1, _MOST_PX),
        overview_downsample=overview.within("downsample", _ROUNDING, _MOST_PX),
        overview_seen=overview.within("seen", 0, 1),
        train_px=group.dataset("small").whole("px", 1, MOST_SIDE_PX) if "small" in group else None,
        picked=_picked(group),
        software=group.text("software"),
    )


def _check_spec(spec: dict[str, Any]) -> None:
    """Raise ValueError where settings are no plain values, or of a kind that no bag of tiles has."""
    for name, value in spec.items():
        if name in _NO_SETTINGS or not isinstance(value, str | int | float | None):
            raise ValueError(f"its spec has the setting {name!r}, which bags of tiles do not have so")
    for name, most in (("size", MOST_SIDE_PX), ("instances", _MOST_PX)):
        value = spec.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"its spec has the {name} {value!r}, expected a whole number from 1 to {most}")


def _picked(group: Group) -> Picked | None:
    if not group.has("picked_run"):
        return None
    run, folds, by = (group.text(f"picked_{name}") for name in ("run", "folds", "by"))
    return Picked(run, folds, group.within("picked_peakedness", -_ROUNDING, 1 + _ROUNDING), by)
