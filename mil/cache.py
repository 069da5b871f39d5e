"""The tiles of a cohort at training size, in files of bare pixels that are made on first use.

A bag has a file of its own, whose name says of what it was made. So several jobs may make a cache together, each bag
appears whole or not at all (a killed job loses one), and a bag that changed is made again alone; what it was stays
while another job may be reading it. Files are read, not mapped into memory: no slower (benchmarks/loader.py), ten
thousand of them hold neither descriptors nor mappings open, a short file is an error and not the end of the process,
and no job is taken for one that needs all that memory.
"""

import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mil.data import PixelReader, Stored
from mil.errors import CacheError
from tiling.bag import BagRef, software
from tiling.errors import BagError, InputError
from tiling.output import make_writable, replacing, sweep
from tiling.progress import progress

AUTO = "auto"
# Raw pixels of larger tiles are ten times their JPEG: a disk gives them hardly faster than cores decode them.
AUTO_MOST_PX = 512
AUTO_SHARE = 0.5  # of the free disk

OWN_FOLDER = "gigabag-tiles"  # in a folder that a user names, in which there may be other things
# An older state is deleted when it has not been used for so long. Linux notes that a file is read once a day.
UNUSED_S = 2 * 86400.0

_LAYOUT = "uint8 NCHW RGB"
_TAG = "CACHEDIR.TAG"  # by which programs that make backups know a cache: https://bford.info/cachedir/
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Tiles at training size. May be deleted between trainings.\n"
_REMEDY = "give --cache FOLDER on another disk, or --cache null to train without"


class TileCache:
    """Gives the files with the tiles of bags; a Reader."""

    def __init__(self, files: dict[BagRef, Stored]) -> None:
        self.files = files

    def __call__(self, bag: BagRef | Path) -> Stored:
        """The file of a bag that the cache was opened for."""
        return self.files[_ref(bag)]


def open_cache(
    bags: Sequence[BagRef | Path], sizes: Sequence[int], spec: dict[str, Any], px: int, where: str,
    threads: int | None = None, show: bool = True,
) -> TileCache | None:  # fmt: skip
    """The tiles of `bags` (`sizes` of them in each, of the `spec` they share) at `px`, those made that are missing.

    `where` is a folder, in which the cache has one of its own, or `auto`: a folder beside the bags, and no cache (None,
    and a line on stderr) where it is of no use or cannot be made. Raises CacheError where a cache in a folder that was
    asked for cannot be made; BagError where a bag is damaged. As many `threads` decode as there are cores for this
    process, if not told; `show` the bar.
    """
    refs, auto = [_ref(bag) for bag in bags], where == AUTO
    if auto and px > AUTO_MOST_PX:
        _say(f"tiles of {px} px are no faster from a disk than decoded; give --cache FOLDER to keep them all the same")
        return None
    folder = auto_folder(refs[0]) if auto else Path(where) / OWN_FOLDER
    try:
        plan = _Plan(refs, sizes, spec, px, folder)
        plan.tidy()
        if plan.missing:
            _prepare(folder, plan, AUTO_SHARE if auto else 1.0)
            _make(plan, px, threads or len(os.sched_getaffinity(0)), show)
    except CacheError as error:
        if not auto:
            raise
        _say(str(error))
        return None
    return TileCache(plan.files)


def auto_folder(bag: BagRef) -> Path:
    """The folder of the cache beside bags: `cache` in a folder of bags, `<file>.cache` beside a merged file."""
    return bag.path.parent / "cache" if bag.group == "/" else bag.path.with_name(f"{bag.path.name}.cache")


def _say(why: str) -> None:
    sys.stderr.write(f"no cache: {why}\n")


def _ref(bag: BagRef | Path) -> BagRef:
    return BagRef(bag) if isinstance(bag, Path) else bag


class _Plan:
    """Which file each bag has (one, if it has several names), which are missing, and which are of an older state."""

    def __init__(
        self, refs: Sequence[BagRef], sizes: Sequence[int], spec: dict[str, Any], px: int, folder: Path
    ) -> None:
        there, states = _listing(folder), defaultdict(list)
        for path in there:
            states[path.name.partition("-")[0]].append(path)
        state_of = _States(spec)
        self.files: dict[BagRef, Stored] = {}
        missing: dict[Path, BagRef] = {}
        self.used: list[Path] = []
        self.older: dict[Path, os.stat_result] = {}
        for ref, size in zip(refs, sizes, strict=True):
            place = _digest(px, _place(ref))
            stored = self.files[ref] = Stored(folder / f"{place}-{state_of(ref, size)}", (size, 3, px, px))
            if stored.path not in there or there[stored.path].st_size != _bytes(stored):
                missing[stored.path] = ref
            its = states.pop(place, ())
            self.used += [path for path in its if path == stored.path]
            self.older |= {path: there[path] for path in its if path != stored.path}
        self.missing = list(missing.values())

    def tidy(self) -> None:
        """Note of what is there that it is used, and delete older states that nobody uses, as far as one may."""
        for path in self.used:
            with suppress(OSError):
                os.utime(path)
        for path, stat in self.older.items():
            if time.time() - max(stat.st_atime, stat.st_mtime) > UNUSED_S:
                with suppress(OSError):
                    path.unlink()


def _listing(folder: Path) -> dict[Path, os.stat_result]:
    """What is in a folder; nothing where there is no folder."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unusable(folder, error) from error
    found = {}
    for entry in entries:
        with suppress(OSError):  # it is gone since, or leads nowhere
            found[folder / entry.name] = entry.stat()
    return found


def _place(ref: BagRef) -> list[object]:
    return [os.fsencode(ref.path.resolve()).hex(), os.fsencode(ref.group).hex()]


class _States:
    """What changes when a bag does, or who decodes and reduces it; the file of a merged bag is looked at once."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.made = [_LAYOUT, software(), version("simplejpeg"), version("pillow"), spec]
        self.stats: dict[Path, os.stat_result] = {}

    def __call__(self, ref: BagRef, size: int) -> str:
        """The digest of a bag's state; raises BagError where the bag is gone."""
        if ref.path not in self.stats:
            try:
                self.stats[ref.path] = ref.path.stat()
            except OSError as error:
                raise BagError(f"cannot read the bag {ref} ({error.strerror}); {ref.remedy}") from error
        stat = self.stats[ref.path]
        return _digest(stat.st_size, stat.st_mtime_ns, size, self.made)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _bytes(stored: Stored) -> int:
    tiles, planes, height, width = stored.shape
    return tiles * planes * height * width


def _prepare(folder: Path, plan: _Plan, share: float) -> None:
    """Make the folder ready for what is missing; raises CacheError where the disk is too full or no place to write."""
    needed = sum(_bytes(plan.files[ref]) for ref in plan.missing)
    try:
        there = next(each for each in (folder, *folder.resolve().parents) if each.exists())
        free = shutil.disk_usage(there).free
        if needed > share * free:
            most = "" if share == 1 else f", of which a cache takes {share:.0%} at most unless it is asked for"
            raise CacheError(
                f"the tiles of {len(plan.missing)} bags take {needed / 1e9:.1f} GB, and the disk of the folder "
                f"{str(folder)!r} has {free / 1e9:.1f} GB free{most}; {_REMEDY}"
            )
        make_writable(folder)
        sweep(folder)
        if not (folder / _TAG).exists():
            with replacing(folder / _TAG) as temporary:
                temporary.write_text(_TAG_TEXT, encoding="utf-8")
    except InputError as error:
        raise _unusable(folder, error.__cause__) from error
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: BaseException | None) -> CacheError:
    cause = getattr(error, "strerror", None) or error
    return CacheError(f"the folder {str(folder)!r} cannot be used as a cache ({cause}); {_REMEDY}")


def _make(plan: _Plan, px: int, threads: int, show: bool) -> None:
    """Make what is missing; other jobs may be doing the same, so each begins somewhere else and skips what is there."""
    start = random.Random().randrange(len(plan.missing))
    todo = plan.missing[start:] + plan.missing[:start]
    read = PixelReader(px)
    bar = progress(len(plan.files), "bag", f"tiles at {px} px", len(plan.files) - len(todo)) if show else nullcontext()
    with bar as shown, _threads(threads) as submit:
        for made in as_completed([submit(_make_one, read, ref, plan.files[ref]) for ref in todo]):
            made.result()
            if shown is not None:
                shown.update()


@contextmanager
def _threads(count: int) -> Iterator[Callable[..., Any]]:
    """Something to submit work to; when the block is left by an error, what has not begun is left undone."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def _make_one(read: PixelReader, ref: BagRef, stored: Stored) -> None:
    if _is_whole(stored):
        return  # another job was faster
    tiles_NCHW = read(ref)
    if tiles_NCHW.shape != stored.shape:
        raise BagError(f"the bag {ref} was changed while it was read; start again")
    try:
        with replacing(stored.path) as temporary, temporary.open("wb") as file:
            file.write(tiles_NCHW.numpy().data)
    except OSError as error:
        raise _unusable(stored.path.parent, error) from error


def _is_whole(stored: Stored) -> bool:
    try:
        return stored.path.stat().st_size == _bytes(stored)
    except OSError:
        return False
