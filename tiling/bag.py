"""The bag: the chosen tiles of one slide in HDF5, in a file of its own or as a group of a merged file.

`docs/format.md` describes both for other programs. This is the only module that imports h5py; others open
their files through `open_hdf5` and `create_hdf5`. Files are written under another name in the same folder and moved
into place, so a file that has the name of a bag is complete.
"""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tiling.codec import CODECS, decode_overview
from tiling.errors import BagError
from tiling.output import replacing
from tiling.resample import resize

FORMAT = "gigabag"
MERGED_FORMAT = "gigabag-merged"
FORMAT_VERSION = 1
SUFFIX = ".h5"
CHIPNET = "chipnet"  # the setting that says whose tiles they are

NO_TILES = 0  # the `px` of those who read a bag for its overview and the places of its tiles alone

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
        pictures = self.small if small_serves(self.header, px) else self.tiles
        assert pictures is not None, "the bag was read for smaller tiles"
        try:
            rgb = CODECS[self.header.codec].decode(pictures[index], px or 0)
        except (ValueError, OSError) as error:
            raise BagError(
                f"tile {index} of bag {self.header.slide_id!r} cannot be decoded ({error}); tile the slide again"
            ) from error
        return rgb if px is None or rgb.shape[:2] == (px, px) else resize(rgb, (px, px))

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
            _write(group.create_group(_link(name)), bag)
            check()


def read_merged(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the bags in a merged file, and its manifest's rows; raises BagError where it is none."""
    ref = BagRef(path)
    with open_hdf5(ref, "merged file", "merge the bags again") as file:
        if file.attrs.get("format") == FORMAT:
            raise BagError(f"{ref} is one bag; give its folder, or a file that `python -m tiling.merge` wrote")
        _check_format(file, ref, MERGED_FORMAT, "merge the bags again")
        rows = json.loads(file["manifest"][()])
        return sorted(map(os.fsdecode, file["bags"])), [dict(row) for row in rows]


def merged_ref(path: Path, name: str) -> BagRef:
    """Where the bag of that name is in a merged file."""
    return BagRef(path, f"/bags/{name}")


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
        arrays = {name: group[name][...] for name in _ARRAYS}
        tiles = None if px == NO_TILES or small_serves(header, px) else _pictures(group["tiles"])
        small = None if px == NO_TILES or header.train_px is None else _pictures(group["small"])
        lengths = {len(array) for array in (*arrays.values(), tiles, small) if array is not None}
        if lengths != {header.tiles}:
            raise BagError(f"{ref} has arrays of different lengths; {ref.remedy}")
        return Bag(header, tiles, **arrays, overview=group["overview"][...].tobytes(), small=small)


class _Patient(io.FileIO):
    """A file that keeps the error of a write to itself: told of a full disk, HDF5 may crash the process."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = self.error or error
        return len(view)


@contextmanager
def create_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new file that takes its place when it is complete, and a check to call now and then, which ends the writing.

    Both the check and the end of the block raise OSError where the disk is full.
    """
    with replacing(path) as temporary, _Patient(temporary, "w+") as raw:

        def check() -> None:
            if raw.error is not None:
                raise OSError(raw.error.errno, raw.error.strerror, str(path)) from raw.error

        try:
            with h5py.File(raw, "w") as file:
                yield file, check
        finally:
            check()  # rather than what HDF5 says when it does not find what it wrote


def _link(name: str) -> str | bytes:
    """A name as h5py takes it: one that came from a file whose name is not UTF-8 goes as its bytes."""
    data = os.fsencode(name)
    return data if name != data.decode("utf-8", "replace") else name


def _write(group: h5py.Group, bag: Bag) -> None:
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


def _write_pictures(group: h5py.Group, name: str, codec: str, pictures: tuple[bytes, ...]) -> h5py.Dataset:
    """A dataset of encoded pictures; raw ones are its pixels, a picture a chunk."""
    if codec == "raw" and pictures:
        first = CODECS[codec].decode(pictures[0], 0)
        dataset = group.create_dataset(name, (len(pictures), *first.shape), np.uint8, chunks=(1, *first.shape))
        for index, data in enumerate(pictures):
            dataset[index] = CODECS[codec].decode(data, 0)
        return dataset
    dataset = group.create_dataset(name, (len(pictures),), h5py.vlen_dtype(np.uint8))
    for index, data in enumerate(pictures):
        dataset[index] = np.frombuffer(data, np.uint8)
    return dataset


def _pictures(dataset: h5py.Dataset) -> tuple[bytes, ...]:
    return tuple(data.tobytes() for data in dataset[...])


@contextmanager
def _open_bag(bag: BagRef | Path) -> Iterator[tuple[h5py.Group, BagRef]]:
    ref = BagRef(bag) if isinstance(bag, Path) else bag
    with open_hdf5(ref, "bag", ref.remedy) as file:
        yield file[_link(ref.group)], ref


@contextmanager
def open_hdf5(ref: BagRef, what: str, remedy: str) -> Iterator[h5py.File]:
    """The file at `ref`, open for reading; what HDF5 says of a damaged one becomes a BagError that names the remedy.

    It is opened for each use: nothing has to be shared between processes or kept by them.
    """
    try:
        with h5py.File(ref.path, "r", locking=False) as file:
            yield file
    except FileNotFoundError as error:
        raise BagError(f"no such {what}: {str(ref.path)!r}; check the path, or make it first") from error
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, BagError):
            raise
        raise BagError(f"{ref} is not a complete {what} ({error}); {remedy}") from error


def _check_format(group: h5py.Group, ref: BagRef, wanted: str, remedy: str) -> None:
    if group.attrs.get("format") != wanted:
        raise BagError(
            f"{ref} is an HDF5 file but no bag; give the folder that `python -m tiling` wrote, or a file of "
            "`python -m tiling.merge`"
        )
    if group.attrs["format_version"] != FORMAT_VERSION:
        raise BagError(
            f"{ref} has bag format {group.attrs['format_version']}, this program reads {FORMAT_VERSION}; "
            f"{remedy} or use the version that wrote it"
        )


def _header(group: h5py.Group, ref: BagRef) -> BagHeader:
    _check_format(group, ref, FORMAT, ref.remedy)
    attrs, tiles = group.attrs, group["tiles"]
    mpp, codec, spec = float(attrs["mpp"]), str(attrs["codec"]), json.loads(attrs["spec"])
    if codec not in CODECS or not isinstance(spec, dict) or len(tiles) == 0:
        raise BagError(
            f"{ref} has tiles of codec {codec!r}, {len(tiles)} of them, which this program cannot use; {ref.remedy}"
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
        tiles=len(tiles),
        side0_px=int(attrs["side0_px"]),
        overview_downsample=float(group["overview"].attrs["downsample"]),
        overview_seen=float(group["overview"].attrs["seen"]),
        train_px=int(group["small"].attrs["px"]) if "small" in group else None,
        picked=_picked(attrs),
        software=str(attrs["software"]),
    )


def _picked(attrs: Any) -> Picked | None:
    if "picked_run" not in attrs:
        return None
    run, folds, by = (str(attrs[f"picked_{name}"]) for name in ("run", "folds", "by"))
    return Picked(run, folds, float(attrs["picked_peakedness"]), by)
