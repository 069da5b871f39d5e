"""Many slides to bags: resuming, the manifest, failures. Who does the work is the caller's choice."""

import errno
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tiling.bag import CHIPNET, Bag, BagHeader, bag_path, read_header, write_bag
from tiling.errors import BagError, InputError, OutputError, SlideError, TilingError
from tiling.manifest import NOT_TILED, ManifestRow, read_manifest, read_own, write_manifest
from tiling.output import make_writable, sweep, written_name
from tiling.picker import Chipnet, look_at
from tiling.places import note_on
from tiling.progress import progress, shown
from tiling.shards import WHOLE, Shard
from tiling.sources import SlideRef
from tiling.spec import TileSpec
from tiling.tile import NO_TISSUE, glance, tile_slide

Results = Generator[tuple[SlideRef, ManifestRow | Exception], None, None]
Runner = Callable[[Callable[[SlideRef], ManifestRow], Sequence[SlideRef]], Results]

_SAVE_EVERY_S = 30.0  # how much of the manifest a killed batch may lose
_NOTHING_CAN_BE_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def tile_batch(
    slides: Sequence[SlideRef],
    spec: TileSpec,
    out: Path,
    run: Runner,
    overwrite: bool = False,
    shard: Shard = WHOLE,
    chipnet: Chipnet | None = None,
) -> list[ManifestRow]:
    """Write a bag for each slide into `out`, and the shard's manifest; gives the rows of these slides, in their order.

    `run(task, slides)` does the work, as `tiling.workers.run_slides` does it. A bag that is complete, has the same spec
    and was picked by the same ChipNet, if any, is kept. Raises InputError, before any work, where `out` cannot be
    written or holds a bag made otherwise or of another file and `overwrite` is false; OutputError where no further bag
    can be written.
    """
    make = partial(bag_of, spec, chipnet=chipnet)
    return make_bags(slides, make, made_with(spec, chipnet), out, run, overwrite, shard)


def made_with(spec: TileSpec, chipnet: Chipnet | None) -> dict[str, Any]:
    """What the headers of bags that are made so will say of it (`BagHeader.made`)."""
    return {**asdict(spec), **({} if chipnet is None else {CHIPNET: chipnet.digest})}


def make_bags(
    slides: Sequence[SlideRef],
    make: Callable[[SlideRef], Bag],
    wanted: dict[str, Any],
    out: Path,
    run: Runner,
    overwrite: bool = False,
    shard: Shard = WHOLE,
    others: Mapping[str, ManifestRow] | None = None,
) -> list[ManifestRow]:
    """As `tile_batch`, with any way to `make` the bag of a slide; `wanted` is what all bags must be `made` with.

    `others` are rows of slides of which nothing can be made, for the manifest.
    """
    make_writable(out)
    sweep(out)
    before = read_manifest(out)
    rows = {} if overwrite else _finished_rows(slides, wanted, out, before)
    todo = [slide for slide in slides if slide.slide_id not in rows]
    manifest = _Ledger(out, shard, before)
    listed = {slide.slide_id: rows.get(slide.slide_id) or _waiting(slide) for slide in slides}
    manifest.save({**(others or {}), **listed})
    try:
        with (
            progress(len(slides), "slide", "tiling", initial=len(rows)) as bar,
            closing(run(partial(_make_one, make, out), todo)) as results,
        ):
            for slide, result in results:
                if isinstance(result, OutputError):
                    raise result
                row = result if isinstance(result, ManifestRow) else _failed(slide, result)
                rows[slide.slide_id] = row
                if row.error:
                    bar.write(f"{row.status}: {shown(row.slide_id)}: {row.error}", file=sys.stderr)
                bar.update()
                manifest.save_now_and_then({slide.slide_id: row})
    except BaseException:
        with suppress(OSError):  # a full disk: the manifest that is there lists every slide
            manifest.save()
        raise
    finally:
        sweep(out)  # what workers left that were ended
    manifest.save()
    return [rows[slide.slide_id] for slide in slides]


class _Ledger:
    """The manifest of a shard while its batch runs."""

    def __init__(self, out: Path, shard: Shard, before: dict[str, ManifestRow]) -> None:
        self.out, self.shard = out, shard
        # Rows of an earlier batch stay, as they are now: another manifest may know more of these slides.
        self.rows = {slide_id: before[slide_id] for slide_id in read_own(out, shard)}
        self.saved_s = 0.0

    def save(self, rows: dict[str, ManifestRow] | None = None) -> None:
        """Bring the file up to date; rows that another command wrote meanwhile stay."""
        self.rows.update(rows or {})
        written = {written_name(slide_id) for slide_id in self.rows}
        theirs = {slide_id: row for slide_id, row in read_own(self.out, self.shard).items() if slide_id not in written}
        write_manifest(self.out, {**theirs, **self.rows}, self.shard)
        self.saved_s = time.monotonic()

    def save_now_and_then(self, rows: dict[str, ManifestRow]) -> None:
        """Note rows, and bring the file up to date where that was long ago."""
        self.rows.update(rows)
        if time.monotonic() - self.saved_s > _SAVE_EVERY_S:
            self.save()


def _finished_rows(
    slides: Sequence[SlideRef], wanted: dict[str, Any], out: Path, before: dict[str, ManifestRow]
) -> dict[str, ManifestRow]:
    found = {slide.slide_id: _finished(slide, wanted, out, before) for slide in slides}
    return {slide_id: row for slide_id, row in found.items() if row is not None}


def _finished(slide: SlideRef, wanted: dict[str, Any], out: Path, before: dict[str, ManifestRow]) -> ManifestRow | None:
    """The row of a slide whose bag is there already, None where it has to be made."""
    path = bag_path(out, slide.slide_id)
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except BagError:
        return None  # not ours or damaged: made again
    made = header.made
    changed = [name for name, value in {CHIPNET: None, **wanted}.items() if made.get(name) != value]
    if changed:
        raise InputError(
            f"{str(path)!r} was made with another {', '.join(changed)}; "
            "choose another --out, or --overwrite the bags there"
        )
    if not _same_mpp(slide, header) or _size_of(slide.path) not in (None, header.slide_bytes):
        raise InputError(
            f"{str(path)!r} was made from another file or with another mpp than {str(slide.path)!r} has; "
            "rename the slide, or --overwrite the bags there"
        )
    row = before.get(slide.slide_id)
    if row is not None and row.status == "done":
        return row
    return ManifestRow(slide.slide_id, str(slide.path), "done", header.tiles, 0.0, "", note_on(header.picked))


def _same_mpp(slide: SlideRef, header: BagHeader) -> bool:
    """Whether a bag was made with the mpp that its slide would have now."""
    if slide.mpp is not None:
        return slide.mpp == header.mpp
    if header.mpp_from == "table":
        return False  # the table is gone, or its mpp
    return header.mpp_from == "file" or header.mpp == slide.default_mpp


def _size_of(path: Path) -> int | None:
    """Bytes of a file, None where it is gone (its bag is still good), or its name is none that a file can have."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def bag_of(spec: TileSpec, slide: SlideRef, chipnet: Chipnet | None = None) -> Bag:
    """The bag of a slide, made in memory."""
    look = None if chipnet is None else partial(look_at, chipnet, slide.slide_id, slide.patient_id)
    return tile_slide(slide.path, spec, slide.slide_id, slide.mpp, slide.default_mpp, look=look)


def glance_of(spec: TileSpec, slide: SlideRef) -> Bag:
    """The bag of a slide without its tiles' pixels, made in memory."""
    return glance(slide.path, spec, slide.slide_id, slide.mpp, slide.default_mpp)


def _make_one(make: Callable[[SlideRef], Bag], out: Path, slide: SlideRef) -> ManifestRow:
    start = time.perf_counter()
    path = bag_path(out, slide.slide_id)
    try:
        path.unlink(missing_ok=True)  # it is damaged or to be overwritten, and must not outlive a failure
    except OSError as error:
        raise _not_written(path, error) from error
    bag = make(slide)
    if len(bag):
        try:
            write_bag(path, bag)
        except OSError as error:
            raise _not_written(path, error) from error
    status, error_text = ("done", "") if len(bag) else ("empty", NO_TISSUE)
    seconds = time.perf_counter() - start
    note = note_on(bag.header.picked)
    return ManifestRow(slide.slide_id, str(slide.path), status, len(bag), seconds, error_text, note)


def _not_written(path: Path, error: OSError) -> TilingError:
    """OutputError where no other bag can be written either, SlideError where it is this one (a name too long)."""
    cause = error.strerror or str(error)
    if error.errno in _NOTHING_CAN_BE_WRITTEN:
        return OutputError(
            f"cannot write into {str(path.parent)!r} any more ({cause}); "
            "make room or give permission, and run the same again: what is done stays done"
        )
    return SlideError(f"cannot write the bag {str(path)!r} ({cause}); rename the slide, or check the disk")


def _waiting(slide: SlideRef) -> ManifestRow:
    return ManifestRow(slide.slide_id, str(slide.path), "waiting", 0, 0.0, NOT_TILED)


def _failed(slide: SlideRef, error: Exception) -> ManifestRow:
    text = describe(slide, error)
    if isinstance(error, OSError) and _size_of(slide.path) is None:  # decoders have other words for it
        text = f"no such file (any more): {str(slide.path)!r}; put it back, or correct its path, and run the same again"
    return ManifestRow(slide.slide_id, str(slide.path), "failed", 0, 0.0, text)


def describe(slide: SlideRef, error: Exception) -> str:
    """One sentence for a slide that failed; an error nobody foresaw is named with its type."""
    if isinstance(error, TilingError):
        return str(error)
    cause = " ".join(str(error).split())
    return f"{str(slide.path)!r} met an unexpected {type(error).__name__} ({cause}); please report it"
