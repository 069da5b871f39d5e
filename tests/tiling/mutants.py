"""Files that somebody has tampered with, and what reading them leads to; `test_mutants.py` runs this in processes.

`python -m tests.tiling.mutants KIND SEED FIRST COUNT FOLDER` makes mutants of a kind and reads each in every way
there is. It prints `NUMBER` before a mutant is read, and what became of it behind: a crash leaves the number alone.
"""

import io
import json
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiling.bag import NO_TILES, BagRef, read_bag, read_header, write_bag, write_merged
from tiling.bags import open_bags
from tiling.codec import CODECS
from tiling.errors import TilingError
from tiling.features import is_features, read_feature_header, read_features, write_features
from tiling.manifest import ManifestRow, read_manifest, write_manifest
from tiling.sources import find_slides

ROOM_BYTES = 256 << 20  # that reading a file of a few kilobytes may take
TIME_LIMIT_S = 20  # of the processor
ORIGINALS = 12  # of a kind
MANIFEST = [{"slide_id": "bare", "path": "/x/bare.svs", "status": "empty", "tiles": 0, "error": "no tissue"}]
Random = np.random.Generator


# Files as they should be


def bag(random: Random, codec: str, train_px: int | None = None) -> Any:
    """A bag of a few tiles."""
    from tests.tiling.test_bag import make_bag

    return make_bag(int(random.integers(1, 5)), codec, train_px=train_px)


def write_a_bag(folder: Path, random: Random) -> Path:
    codec = str(random.choice(["jpeg", "png", "webp", "raw"]))
    write_bag(folder / "a.h5", bag(random, codec, 8 if random.random() < 0.5 else None))
    return folder / "a.h5"


def write_a_merged_file(folder: Path, random: Random) -> Path:
    bags = [("one", bag(random, "jpeg")), ("two", bag(random, "raw"))]
    write_merged(folder / "all.h5", bags, MANIFEST)
    return folder / "all.h5"


def write_features_of(folder: Path, random: Random) -> Path:
    path, features = folder / "a.h5", random.normal(size=(5, 8)).astype(np.float32)
    if random.random() < 0.5:
        write_features(path, features, np.arange(10).reshape(5, 2), encoder="uni", patch_size=256, downsample=2.0)
        return path
    with h5py.File(path, "w") as file:
        packing = {"compression": "gzip", "shuffle": True, "fletcher32": random.random() < 0.5}
        file.create_dataset("features", data=features, chunks=(2, 8), maxshape=(None, 8), **packing)
        file.create_dataset("coords", data=np.arange(10).reshape(5, 2), chunks=(2, 2)).attrs["patch_size_level0"] = 512
    return path


def write_a_manifest(folder: Path, random: Random) -> Path:
    rows = [ManifestRow(f"s{i}", f"/x/s{i}.svs", "done", 3, 0.5, "", "=1+1") for i in range(3)]
    write_manifest(folder, {row.slide_id: row for row in rows})
    return folder / "manifest.csv"


def write_a_table(folder: Path, random: Random) -> Path:
    rows = 'slide_id,path,mpp,patient_id\na,a.svs,0.5,p\n"b",b.svs,,\n\'=c,c.svs,0.25,q\n'
    (folder / "slides.csv").write_text(rows)
    return folder / "slides.csv"


# What can be done to them


def nested(depth: int) -> str:
    return "[" * depth


VALUES: list[Any] = [
    np.nan, np.inf, -np.inf, -1, 0, 1, 7.5, 2**40, 2**63 - 1, np.uint64(2**64 - 1), 1e300, np.float16(1), np.True_,
    np.complex64(1), "", "abc", "..", "../evil", "/etc/passwd", "jpeg", "raw", "gigabag", "gigabag-merged", "a\nb",
    "é" * 10, "x" * 100_000, nested(50_000), "{}", "[]", "null", '{"size": "16"}', '{"size": 1e400}', '{"codec": []}',
    '{"size": 16}', '{"features": 3}', '[{"slide_id": ".."}]',
    '[{"slide_id": 1, "path": 2, "status": 3, "tiles": "x", "error": []}]',
    "9" * 5000, b"bytes", b"\xff\xfe", np.bytes_(b"a\0b"), [1, 2, 3], [], [["a"]], ["a", "b"], np.zeros((3, 3)),
    np.array([b"a"]), h5py.Empty("f8"), h5py.Empty("S3"), np.zeros((), [("a", "i4"), ("b", "f8")]), np.void(b"\0\1"),
    np.datetime64("2020-01-01").astype("i8"), np.longdouble(1), np.zeros(0), np.zeros((0, 3)), np.full(3, np.nan),
    np.arange(3), np.arange(3, dtype="u1"), np.arange(3, dtype=">i2"), np.full(3, 2**62), np.full((3, 2), -1.0),
]  # fmt: skip


@cache
def pictures() -> list[bytes]:
    """Pictures that claim what they are not, and what is none."""
    import struct
    import zlib

    from PIL import Image

    small = np.zeros((16, 16, 3), np.uint8)
    large = bytearray(CODECS["jpeg"].encode(small, 90, 420))
    at = large.find(b"\xff\xc0")
    large[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    white = io.BytesIO()
    Image.new("1", (9000, 9000)).save(white, "png")
    head = struct.pack(">IIBBBBB", 16, 16, 16, 6, 0, 0, 1)
    odd = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))), (b"IDAT", b"no"))
    )
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    return [bytes(large), white.getvalue(), odd, eps, b"", b"\xff", b"RIFF" + b"\0" * 40, bytes(768), bytes(767)]


def objects(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return [*found, "/"]


def change_attribute(file: h5py.File, random: Random, where: str) -> None:
    names = list(file[where].attrs)
    if names:
        name = names[random.integers(len(names))]
        del file[where].attrs[name]
        if random.random() < 0.9:
            put(lambda value: file[where].attrs.create(name, value), random)


def put(how: Callable[[Any], object], random: Random) -> None:
    """Put one of the values in a place, if HDF5 can."""
    try:
        how(VALUES[random.integers(len(VALUES))])
    except (TypeError, ValueError, OSError, RuntimeError, OverflowError):
        return


def replace_object(file: h5py.File, random: Random, where: str) -> None:
    if where == "/":
        return
    attributes = dict(file[where].attrs)
    del file[where]
    other = str(Path(file.filename).with_name("other.h5"))
    kind = random.integers(12)
    if kind == 0:
        return
    if kind == 1:
        file[where] = h5py.SoftLink(str(random.choice(["/nowhere", "/", where, "/x0"])))
    elif kind == 2:
        file[where] = h5py.ExternalLink(other, "/overview")
    elif kind == 3:
        file.create_dataset(where, (200,), np.uint8, external=[(other, 0, 200)])
    elif kind == 4:
        layout = h5py.VirtualLayout((10,), np.uint8)
        layout[:] = h5py.VirtualSource(other, "overview", (10,))
        file.create_virtual_dataset(where, layout)
    elif kind == 5:
        file.create_group(where)
    elif kind == 6:
        file[where] = np.dtype("f8")  # a type that has a name
    elif kind == 7:
        shape = tuple(int(10 ** random.integers(1, 11)) for _ in range(random.integers(1, 5)))
        dtype = [np.int64, np.float64, np.uint8, h5py.vlen_dtype(np.uint8), h5py.string_dtype()][random.integers(5)]
        packing = [None, "gzip", "lzf"][random.integers(3)]
        file.create_dataset(where, shape, dtype, chunks=(10,) * len(shape), compression=packing)
    elif kind == 8:
        count = int(random.choice([0, 1, 3, 100]))
        dataset = file.create_dataset(where, (count,), h5py.vlen_dtype([np.uint8, np.int64][random.integers(2)]))
        choice = pictures()
        for index in range(count):
            dataset[index] = np.frombuffer(choice[random.integers(len(choice))], np.uint8)
    elif kind == 9:
        file.create_dataset(where, data=np.zeros(10**6, np.uint8), compression="gzip", chunks=(10**6,))
    else:
        put(lambda value: file.create_dataset(where, data=value), random)
    if where in file and kind not in (1, 2):
        file[where].attrs.update(attributes)


def change_values(file: h5py.File, random: Random, where: str) -> None:
    dataset = file[where]
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape or 0 in dataset.shape:
        return
    index = tuple(int(random.integers(side)) for side in dataset.shape)
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.kind == "O":
        return  # texts: h5py crashes where it is given bytes for them
    if dataset.dtype.kind == "O":
        choice = pictures()
        dataset[index] = np.frombuffer(choice[random.integers(len(choice))], np.uint8)
    else:
        put(lambda value: dataset.__setitem__(index, value), random)


def change_parts(path: Path, random: Random) -> None:
    """One to three changes by means of HDF5."""
    for _ in range(random.integers(1, 4)):
        with h5py.File(path, "r+") as file:
            where = objects(file)
            change = [change_attribute, replace_object, change_values][random.integers(3)]
            change(file, random, where[random.integers(len(where))])


def change_bytes(path: Path, random: Random) -> None:
    """Bytes flipped, set, cut off, copied elsewhere, put in or left out."""
    data = bytearray(path.read_bytes())
    for _ in range(random.integers(1, 9)):
        if not data:
            break
        at, other = (int(random.integers(len(data))) for _ in range(2))
        length = int(random.integers(1, 64))
        kind = random.integers(8)
        if kind < 3:
            data[at] ^= 1 << random.integers(8)
        elif kind == 3:
            data[at : at + 4] = [b"\0" * 4, b"\xff" * 4, b"\1\0\0\0", b"\xff\xff\xff\x7f"][random.integers(4)]
        elif kind == 4:
            data[at : at + length] = data[other : other + length]
        elif kind == 5:
            data[at:at] = data[other : other + length]
        elif kind == 6:
            del data[at : at + length]
        elif random.random() < 0.3:
            del data[at:]
    path.write_bytes(data)


CELLS = [
    "", "..", "a/b", "a\0b", "=1+1", "'=1", "x" * 200_000, "-1", "nan", "1e999", "9" * 5000, '"', '"""', "\r", "\n",
    ",,,,", "\ufeff", "é", "done", "2", "/dev/zero", "slide_id", "\ud800",
]  # fmt: skip


def change_table(path: Path, random: Random) -> None:
    """Cells replaced, rows and columns moved, or bytes changed."""
    if random.random() < 0.4:
        return change_bytes(path, random)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for _ in range(random.integers(1, 4)):
        row = rows[random.integers(len(rows))]
        kind = random.integers(5)
        if kind < 3 and row:
            row[random.integers(len(row))] = CELLS[random.integers(len(CELLS))]
        elif kind == 3 and row:
            del row[random.integers(len(row))]
        else:
            rows.insert(int(random.integers(len(rows))), row)
    path.write_text("\n".join(map(",".join, rows)), "utf-8", "surrogatepass")
    return None


# Every way to read them


def try_ref(ref: BagRef) -> None:
    """Read a bag in all ways."""
    read_header(ref)
    for px in (None, 8, 16, NO_TILES):
        whole = read_bag(ref, px)
        whole.overview_rgb()
        if px != NO_TILES:
            for index in range(min(len(whole), 5)):
                whole.tile(index, px)


def read_it_as_bag(path: Path) -> None:
    try_ref(BagRef(path))


def read_it_as_merged(path: Path) -> None:
    bags = open_bags(path)
    for ref in bags.refs.values():
        try_ref(ref)


def read_it_as_features(path: Path) -> None:
    ref = BagRef(path)
    is_features(ref)
    read_feature_header(ref)
    json.dumps(read_feature_header(ref).spec)
    read_features(ref)


def mainly(reader: Callable[[Path], object]) -> Callable[[Path], None]:
    """Calls the other readers too, which may refuse, and then this one."""

    def read(path: Path) -> None:
        for other in {read_it_as_bag, read_it_as_merged, read_it_as_features} - {reader}:
            with suppress(TilingError):
                other(path)
        reader(path)

    return read


KINDS: dict[str, tuple[Callable[[Path, Random], Path], Callable[[Path, Random], None], Callable[[Path], object]]] = {
    "bag-parts": (write_a_bag, change_parts, mainly(read_it_as_bag)),
    "bag-bytes": (write_a_bag, change_bytes, mainly(read_it_as_bag)),
    "merged-parts": (write_a_merged_file, change_parts, mainly(read_it_as_merged)),
    "merged-bytes": (write_a_merged_file, change_bytes, mainly(read_it_as_merged)),
    "features-parts": (write_features_of, change_parts, mainly(read_it_as_features)),
    "features-bytes": (write_features_of, change_bytes, mainly(read_it_as_features)),
    "manifest": (write_a_manifest, change_table, lambda path: read_manifest(path.parent)),
    "slides": (write_a_table, change_table, lambda path: find_slides([path])),
}


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """What reading leads to: `read`, `refused`, or what is wrong."""
    try:
        read(path)
    except TilingError as error:
        sentence = str(error)
        return "refused" if sentence and "\n" not in sentence and len(sentence) < 2000 else f"wordy: {sentence[:300]!r}"
    except Exception as error:  # noqa: BLE001  # which is what is looked for
        import traceback

        frames = [f"{Path(each.filename).name}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__}: {str(error)[:200]!r} at {' '.join(frames[-5:])}"
    return "read"


@cache
def original(kind: str, number: int, folder: Path) -> tuple[Path, bytes]:
    """A file as it should be, and where it was written; each is made once, for that waits for the disk."""
    path = KINDS[kind][0](folder, np.random.default_rng(number))
    return path, path.read_bytes()


def make(kind: str, seed: int, number: int, folder: Path) -> Path:
    """The mutant of that number."""
    random = np.random.default_rng([seed, number])
    path, data = original(kind, int(random.integers(ORIGINALS)), folder)
    path.write_bytes(data)
    KINDS[kind][1](path, random)
    return path


def say(what: str) -> None:
    """Write at once: the next moment may be the last."""
    sys.stdout.write(what)
    sys.stdout.flush()


def main() -> None:
    """Make and read mutants."""
    kind, seed, first, count, folder = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    with h5py.File(folder / "other.h5", "w") as file:
        file["overview"] = np.zeros(200, np.uint8)
    warnings.simplefilter("ignore")
    bytes_now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for number in range(first, first + count):
        path = make(kind, seed, number, folder)
        say(f"{number} ")
        resource.setrlimit(resource.RLIMIT_AS, (bytes_now + ROOM_BYTES, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)  # which ends the process
        say(f"{outcome(KINDS[kind][2], path)}\n")
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
