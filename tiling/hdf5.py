"""HDF5 files of anybody: what is in them is looked at before it is followed, and before memory is taken for it.

An HDF5 file can lead to other files (external links, external storage, virtual datasets), claim more than it holds,
hold far more than it claims (a chunk is inflated to its end), or refer to one picture a million times. Here only what
lies in the file itself is read, and no more than fits into it. This is the only module that imports h5py.
"""

import io
import math
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiling.output import replacing

_VLEN = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # how HDF5 refers to a value of any length
_HEAP = struct.Struct("<8xQ")  # the head of a heap of such values, with its size
_HEAP_OBJECT = struct.Struct("<H6xQ")
_HEAP_SIGNATURE = b"GCOL"
_ATTRIBUTE_BYTES = 1 << 16  # read of an attribute, at most; HDF5's own limit for one in the usual place
_MOST_PACKED = 1100  # Deflate packs at most 1 : 1032.
_LARGE_BYTES = 1 << 28  # beyond, what packs better than features or coordinates do is there to fill the memory
_LARGE_PACKED = 20
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3  # filters by HDF5's numbers
_CHECKSUM_BYTES = 4
_LITTLE_BYTES = 1024  # what deflate may add to what it cannot pack

vlen_bytes: Any = h5py.vlen_dtype(np.uint8)  # the type of pictures, each as long as it is


class _Object:
    """Something in an open file; `file` is its descriptor, `file_bytes` its size. All methods raise ValueError."""

    def __init__(self, identifier: Any, what: str, file: int, file_bytes: int) -> None:
        self.id, self.what, self.file, self.file_bytes = identifier, what, file, file_bytes

    def has(self, name: str) -> bool:
        """Whether there is an attribute of that name."""
        return bool(h5py.h5a.exists(self.id, name.encode()))

    def attribute(self, name: str) -> np.ndarray:
        """Numbers or texts of an attribute, at most 64 kB of them; texts as bytes."""
        try:
            found = h5py.h5a.open(self.id, name.encode())
        except KeyError as error:
            raise ValueError(f"{self.what or 'it'} has no attribute {name}") from error
        space, dtype = found.get_space(), found.dtype
        shape, kind = (), space.get_simple_extent_type()
        if kind == h5py.h5s.SIMPLE:
            shape = space.shape
        is_text = dtype.kind == "S" or (dtype.kind == "O" and not shape and h5py.check_string_dtype(dtype) is not None)
        fits = math.prod(shape) * dtype.itemsize <= _ATTRIBUTE_BYTES
        if kind == h5py.h5s.NULL or not (is_text or _is_number(dtype)) or not fits:
            raise ValueError(f"{self._its(name)} is no number and no short text")
        out = np.zeros(shape, dtype)
        found.read(out)
        return out

    def _its(self, name: str) -> str:
        return f"the {name} of {self.what}" if self.what else f"its {name}"

    def text(self, name: str, most: int = _ATTRIBUTE_BYTES) -> str:
        """The text of an attribute, of at most so many bytes."""
        value = self.attribute(name)
        if value.shape != () or value.dtype.kind not in "SO":
            raise ValueError(f"{self._its(name)} is no text")
        data = value.item()
        if len(data) > most:
            raise ValueError(f"{self._its(name)} is a text of {len(data)} bytes, of {most} at most")
        text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
        if "\0" in text:
            raise ValueError(f"{self._its(name)} has a zero in its text")
        return text

    def number(self, name: str) -> Any:
        """The number that an attribute is, not a number included."""
        value = self.attribute(name)
        if value.shape != () or not _is_number(value.dtype):
            raise ValueError(f"{self._its(name)} is no number")
        return value.item()

    def within(self, name: str, least: float, most: float) -> float:
        """The number that an attribute is, within a range, both ends included."""
        value = self.number(name)
        if not least <= value <= most:
            raise ValueError(f"{self._its(name)} is {value}, expected a number from {least:g} to {most:g}")
        return float(value)

    def whole(self, name: str, least: int, most: int) -> int:
        """The whole number that an attribute is, within a range, both ends included."""
        value = self.number(name)
        if not least <= value <= most or value != int(value):
            raise ValueError(f"{self._its(name)} is {value}, expected a whole number from {least} to {most}")
        return int(value)


class Dataset(_Object):
    """An array in an open file: `shape` and `dtype`, all of it in the file itself."""

    def __init__(self, identifier: Any, what: str, file: int, file_bytes: int) -> None:
        super().__init__(identifier, what, file, file_bytes)
        made = identifier.get_create_plist()
        self._layout, self._filters = made.get_layout(), made.get_nfilters()
        if self._layout == h5py.h5d.VIRTUAL or made.get_external_count():
            raise ValueError(f"{what} lies in another file, which is not opened")
        if identifier.shape is None:
            raise ValueError(f"{what} holds nothing")
        self.shape: tuple[int, ...] = identifier.shape
        self.dtype: np.dtype[Any] = identifier.dtype

    def read(self) -> np.ndarray:
        """Its numbers, after `check`."""
        self.check()
        if self._filters:
            self._check_chunks()
        out = np.empty(self.shape, self.dtype)
        self.id.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
        return out

    def check(self) -> None:
        """Raise ValueError where it holds no numbers, or fewer than its shape says."""
        if not _is_number(self.dtype):
            raise ValueError(f"{self.what} holds no numbers but {self.dtype}")
        packing = 1
        if self._filters:
            self._check_filters()
            packing = _LARGE_PACKED if self._claimed > _LARGE_BYTES else _MOST_PACKED
        self._check_there(packing)

    @property
    def rows(self) -> int:
        """How many rows it has, which are all there; none where it is a single value."""
        self._check_there(_MOST_PACKED if self._filters else 1)
        return math.prod(self.shape[:1]) if self.shape else 0

    @property
    def _claimed(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize  # no more than it takes in the file

    def _check_there(self, packing: int) -> None:
        """HDF5 would give zeros for what is not there, terabytes of them if asked for."""
        there = min(self.id.get_storage_size(), self.file_bytes)
        if self._claimed > there * packing:
            raise ValueError(
                f"{self.what} of the shape {self.shape} would take {self._claimed} bytes, and {there} are there"
            )

    def blobs(self) -> tuple[bytes, ...]:
        """The values of a list of byte strings, or of one text; they cannot be more than the file holds."""
        is_one = self.shape == () and h5py.check_string_dtype(self.dtype) is not None
        if not is_one and (len(self.shape) != 1 or h5py.check_vlen_dtype(self.dtype) != np.uint8):
            raise ValueError(f"{self.what} has the shape {self.shape} and type {self.dtype}, which are not expected")
        count = math.prod(self.shape)
        if (needed := int(self._lengths(count).sum())) > self.file_bytes:
            raise ValueError(f"{self.what} would take {needed} bytes, and the file has {self.file_bytes}")
        out = np.zeros(self.shape, self.dtype)
        self.id.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
        return (bytes(out.item()),) if is_one else tuple(data.tobytes() for data in out)

    def _lengths(self, count: int) -> np.ndarray:
        """Bytes of each value, as the file says before they are read."""
        offset, expected = self.id.get_offset(), count * _VLEN.itemsize
        if self._layout != h5py.h5d.CONTIGUOUS or offset is None or self.id.get_storage_size() != expected:
            raise ValueError(f"{self.what} is not stored as this program does it")
        if expected > self.file_bytes - offset:
            raise ValueError(f"{self.what} reaches beyond the end of the file")
        return np.frombuffer(os.pread(self.file, expected, offset), _VLEN)["length"].astype(np.int64)

    def _pipeline(self) -> list[int]:
        made = self.id.get_create_plist()
        return [made.get_filter(index)[0] for index in range(self._filters)]

    def _check_filters(self) -> None:
        filters = self._pipeline()
        order = [each for each in filters if each != _FLETCHER32]
        if order not in ([], [_SHUFFLE], [_DEFLATE], [_SHUFFLE, _DEFLATE]) or self._chunk_bytes > _LARGE_BYTES:
            raise ValueError(f"{self.what} is packed in a way that is not read; pack it with gzip, or not at all")

    @property
    def _chunk_bytes(self) -> int:
        return math.prod(self.id.get_create_plist().get_chunk()) * self.dtype.itemsize

    def _check_chunks(self) -> None:
        """Raise ValueError where a packed chunk has not the size that it should have.

        HDF5 would inflate more to whatever it is, and reads beyond the end of less.
        """
        size, filters = self._chunk_bytes, self._pipeline()
        chunks: list[Any] = []
        self.id.chunk_iter(chunks.append)
        if (largest := max((chunk.size for chunk in chunks), default=0)) > size + size // 100 + _LITTLE_BYTES:
            raise ValueError(f"a chunk of {self.what} takes {largest} bytes packed, and {size} as it is")
        for chunk in chunks:
            mask, data = self.id.read_direct_chunk(chunk.chunk_offset)
            applied = [each for bit, each in enumerate(filters) if not mask >> bit & 1]
            if (found := _unpacked_bytes(data, applied, size)) != size:
                raise ValueError(f"a chunk of {self.what} has {found} bytes, or more, in place of {size}")


class Group(_Object):
    """A folder in an open file; of what it holds only what lies in it is opened: no links are followed."""

    def __contains__(self, name: str) -> bool:
        return bool(self.id.links.exists(_encoded(name)))

    def names(self) -> list[str]:
        """The names of all that it holds, sorted; those that are not UTF-8 as Python has names of files."""
        return sorted(map(os.fsdecode, self.id))

    def group(self, name: str) -> "Group":
        """The group of that name in it."""
        found = self._open(name)
        if not isinstance(found, h5py.h5g.GroupID):
            raise ValueError(f"its {name} is no group")
        return Group(found, f"its {name}", self.file, self.file_bytes)

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name in it."""
        found = self._open(name)
        if not isinstance(found, h5py.h5d.DatasetID):
            raise ValueError(f"its {name} is no dataset")
        return Dataset(found, f"its {name}", self.file, self.file_bytes)

    def _open(self, name: str) -> Any:
        data = _encoded(name)
        if name in ("", ".") or b"/" in data or not self.id.links.exists(data):
            raise ValueError(f"it has no {name}")
        if self.id.links.get_info(data).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"its {name} is a link, and links are not followed")
        return h5py.h5o.open(self.id, data)


@contextmanager
def reading(path: Path) -> Iterator[Group]:
    """The root of the file at `path`, open for reading; raises OSError or ValueError where it cannot be.

    It is opened for each use: nothing has to be shared between processes or kept by them.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise ValueError("it is no file")
    try:
        with _Guarded(path) as raw, h5py.File(raw, "r") as file:
            yield Group(file.id, "", raw.fileno(), os.fstat(raw.fileno()).st_size)
    except OverflowError as error:
        raise ValueError("it refers to a place beyond the end of any file") from error


class _Guarded(io.FileIO):
    """A file to be read by HDF5, which would search for ever in a heap of texts or pictures whose sizes are damaged.

    HDF5 reads a heap with one call, and from its start: there is no cache in between where Python reads the file.
    See https://github.com/HDFGroup/hdf5/issues/1707.
    """

    def readinto(self, buffer: Any) -> int | None:
        got = super().readinto(buffer)
        if len(buffer) >= _HEAP.size and bytes(buffer[:4]) == _HEAP_SIGNATURE:
            _check_heap(memoryview(buffer).cast("B"))
        return got


def _check_heap(data: memoryview) -> None:
    """Raise ValueError where the objects of a global heap (HDF5 format specification, III.E) do not fill it."""
    at, end = _HEAP.size, _HEAP.unpack_from(data)[0]
    while at + _HEAP.size <= min(end, len(data)):
        index, size = _HEAP_OBJECT.unpack_from(data, at)
        # Free space counts its own head, and is the last.
        step = size if index == 0 else _HEAP.size + -(-size // 8) * 8
        if step < _HEAP.size or at + step > end:
            raise ValueError("it has a heap of texts or pictures whose sizes are damaged")
        at += step


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
def create_hdf5(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A new h5py.File that takes its place when complete, and a check to call now and then, which ends the writing.

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


def link(name: str) -> str | bytes:
    """A name as h5py takes it: one that came from a file whose name is not UTF-8 goes as its bytes."""
    data = os.fsencode(name)
    return data if name != data.decode("utf-8", "replace") else name


def _encoded(name: str) -> bytes:
    data = os.fsencode(name)
    if b"\0" in data:
        raise ValueError("it has no name with a zero in it")
    return data


def _is_number(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiu" and dtype.itemsize <= 8


def _unpacked_bytes(data: bytes, filters: list[int], size: int) -> int:
    """How many bytes of a chunk come out of its filters, counted to a little beyond `size`."""
    for each in reversed(filters):
        if each == _FLETCHER32:
            if len(data) < _CHECKSUM_BYTES:
                return 0
            data = data[:-_CHECKSUM_BYTES]
        elif each == _DEFLATE:
            try:
                data = zlib.decompressobj().decompress(data, size + 2 * _CHECKSUM_BYTES)
            except zlib.error as error:
                raise ValueError(f"a chunk cannot be inflated: {error}") from error
    return len(data)
