"""Many slides to bags: worker processes, resuming, the manifest, failures."""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from tiling.bag import bag_path, read_header, write_bag
from tiling.errors import BagError, InputError, SlideError, TilingError
from tiling.manifest import ManifestRow, read_manifest, write_manifest
from tiling.output import make_writable, sweep
from tiling.progress import progress
from tiling.sources import SlideRef
from tiling.tile import NO_TISSUE, TileSpec, tile_slide

Result = TypeVar("Result")

_SAVE_EVERY_S = 30.0  # how much of the manifest a killed batch may lose


def tile_batch(
    slides: Sequence[SlideRef], spec: TileSpec, out: Path, workers: int, overwrite: bool = False
) -> list[ManifestRow]:
    """Write a bag for each slide into `out`, and the manifest; gives the rows of these slides, in their order.

    A bag that is complete and has the same spec is kept. Raises InputError, before any work, where `out` cannot be
    written or holds a bag of another spec or another file and `overwrite` is false.
    """
    make_writable(out)
    sweep(out)
    before = read_manifest(out)
    rows = {} if overwrite else {s.slide_id: row for s in slides if (row := _finished(s, spec, out, before))}
    todo = [slide for slide in slides if slide.slide_id not in rows]
    saved = time.monotonic()
    try:
        with progress(len(slides), "slide", "tiling", initial=len(rows)) as bar:
            for slide, result in run_slides(partial(_tile_one, spec, out), todo, workers):
                row = result if isinstance(result, ManifestRow) else _failed(slide, result)
                rows[slide.slide_id] = row
                if row.error:
                    bar.write(f"{row.status}: {row.slide_id}: {row.error}", file=sys.stderr)
                bar.update()
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    _save(out, rows)
                    saved = time.monotonic()
    finally:
        _save(out, rows)
    return [rows[slide.slide_id] for slide in slides]


def _save(out: Path, rows: dict[str, ManifestRow]) -> None:
    """Bring the manifest up to date; rows that another command wrote meanwhile stay."""
    write_manifest(out, {**read_manifest(out), **rows})


def run_slides(
    task: Callable[[SlideRef], Result], slides: Iterable[SlideRef], workers: int
) -> Iterator[tuple[SlideRef, Result | Exception]]:
    """Each slide with what `task` gave for it in a worker process, or the error it raised, as they finish.

    A slide whose worker dies (a decoder that crashes) gets a SlideError; the others are not touched by it.
    """
    waiting = deque(slides)
    while waiting:
        for slide in (yield from _run_until_crash(task, waiting, workers)):
            # One of these killed its worker, and the others died with it: each has another try, alone.
            alone = deque([slide])
            if (yield from _run_until_crash(task, alone, 1)):
                yield (
                    slide,
                    SlideError(
                        f"{str(slide.path)!r} killed the process that read it (a crash in a decoder, or too little "
                        "memory); check the file, or give fewer --workers"
                    ),
                )


def _finished(slide: SlideRef, spec: TileSpec, out: Path, before: dict[str, ManifestRow]) -> ManifestRow | None:
    """The row of a slide whose bag is there already, None where it has to be made."""
    path = bag_path(out, slide.slide_id)
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except BagError:
        return None  # not ours or damaged: made again
    changed = [name for name, value in asdict(spec).items() if header.spec.get(name) != value]
    if changed:
        raise InputError(
            f"{str(path)!r} was made with another {', '.join(changed)}; "
            "choose another --out, or --overwrite the bags there"
        )
    if slide.mpp not in (None, header.mpp) or _size_of(slide.path) not in (None, header.slide_bytes):
        raise InputError(
            f"{str(path)!r} was made from another file or with another mpp than {str(slide.path)!r} has; "
            "rename the slide, or --overwrite the bags there"
        )
    row = before.get(slide.slide_id)
    if row is not None and row.status == "done":
        return row
    return ManifestRow(slide.slide_id, str(slide.path), "done", header.tiles, 0.0, "")


def _size_of(path: Path) -> int | None:
    """Bytes of a file, None where it is gone (its bag is still good)."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _tile_one(spec: TileSpec, out: Path, slide: SlideRef) -> ManifestRow:
    start = time.perf_counter()
    path = bag_path(out, slide.slide_id)
    path.unlink(missing_ok=True)  # it is damaged or to be overwritten, and must not outlive a failure
    bag = tile_slide(slide.path, spec, slide.slide_id, slide.mpp)
    if len(bag):
        write_bag(path, bag)
    status, error = ("done", "") if len(bag) else ("empty", NO_TISSUE)
    return ManifestRow(slide.slide_id, str(slide.path), status, len(bag), time.perf_counter() - start, error)


def _failed(slide: SlideRef, error: Exception) -> ManifestRow:
    return ManifestRow(slide.slide_id, str(slide.path), "failed", 0, 0.0, describe(slide, error))


def describe(slide: SlideRef, error: Exception) -> str:
    """One sentence for a slide that failed; an error nobody foresaw is named with its type."""
    if isinstance(error, TilingError):
        return str(error)
    cause = " ".join(str(error).split())
    return f"{str(slide.path)!r} met an unexpected {type(error).__name__} ({cause}); please report it"


def _run_until_crash(
    task: Callable[[SlideRef], Result], waiting: deque[SlideRef], workers: int
) -> Generator[tuple[SlideRef, Result | Exception], None, list[SlideRef]]:
    """Work through `waiting` until it is empty or a worker dies; gives back the slides that were under way then."""
    running: dict[Future[Result], SlideRef] = {}
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        with suppress(BrokenProcessPool):
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running[pool.submit(task, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    try:
                        result: Result | Exception = future.result()
                    except BrokenProcessPool:
                        raise
                    except Exception as error:  # noqa: BLE001  # a row says what it was, and the batch goes on
                        result = error
                    yield running.pop(future), result
    except BaseException:
        # Interrupted: files are written whole or not at all, so the workers can be ended where they are.
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return list(running.values())


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
