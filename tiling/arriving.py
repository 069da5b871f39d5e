"""Folders of slides that are still filling: each slide is taken when nothing of it has changed for a while."""

import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tiling.errors import InputError
from tiling.output import written_name
from tiling.settings import at_least, check, setting
from tiling.sources import SlideRef, slides_in
from tiling.todo import Todo

MARKER = "DONE"  # a file of this name in a folder says that all of its slides are there
STILL_WRITTEN = "it was still being written when the watch ended; run the same again with --resume"
NOT_BEGUN = "the watch ended before this slide was begun; run the same again with --resume"

# A slide of these formats is more than one file: those of these kinds in its folder, or all in the folder beside it.
_HAMAMATSU = frozenset({".vms", ".vmu", ".jpg", ".jpeg", ".ngr", ".opt"})
_IN_ITS_FOLDER = {".dcm": frozenset({".dcm"}), ".vms": _HAMAMATSU, ".vmu": _HAMAMATSU}
_IN_A_FOLDER_BESIDE = ".mrxs"
_LOOKS = 4  # at a slide in the time it must lie still
_AWAKE_S = 1.0  # how long a request to end may wait

_State = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class WatchSpec:
    """When a slide of a folder that is still filling is complete, and when the folder is; raises InputError."""

    settle: float = setting(30.0, "with --watch: seconds in which no file of a slide may change before it is taken")
    idle: float = setting(3600.0, "with --watch: seconds without anything new after which it ends")

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check(self, InputError, settle=at_least(0), idle=at_least(0))
        if self.idle <= self.settle:
            raise InputError(
                f"--idle must be more than --settle, {self.settle:g} s, or no slide is ever taken; it is {self.idle:g}"
            )


class _Seen(NamedTuple):
    """How a slide's files were found, and since when they have been so."""

    slide: SlideRef
    state: _State
    since_s: float


class Arriving(Todo):
    """The slides of folders that are still filling, as `tiling.workers.run_slides` takes them.

    A slide is taken when its files have kept name, size and time of change for `settle` seconds by this machine's
    clock, and once more when they have changed since. It ends where every folder has the marker, after `idle` seconds
    in which nothing changed and nothing was worked on, or when it is told to `stop`; slides that have been begun are
    finished.
    """

    stays_open = True

    def __init__(
        self, folders: Sequence[Path], spec: WatchSpec, complete: Callable[[SlideRef], SlideRef] = lambda slide: slide,
        known: Container[str] = (), tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Watch `folders`, but for the slides `known` by their names as tables have them.

        `complete` adds what a folder does not say of a slide, `tell` is given a sentence for one that is left out.
        """
        super().__init__()
        self._folders, self._spec, self._complete, self._known = folders, spec, complete, known
        self._tell, self._clock = tell, clock
        self._seen: dict[str, _Seen] = {}
        self._taken: dict[str, _State] = {}
        self._in_hand: set[str] = set()
        self._twice: set[Path] = set()
        self._changed_s, self._next_look_s = clock(), clock()
        self._stopped = self._ended = False

    def look(self) -> float | None:
        """Take in what is complete by now; None when it has ended."""
        if not self._ended and self._clock() >= self._next_look_s:
            self._survey()
        self._ended = self._ended or self._stopped or self._is_idle()
        if self._stopped:
            for slide in self.waiting:
                del self._taken[slide.slide_id]
            self.waiting.clear()
        return None if self._ended else max(0.0, min(_AWAKE_S, self._next_look_s - self._clock()))

    def answered(self, slide: SlideRef) -> None:
        """The work on a slide has ended."""
        self._in_hand.discard(slide.slide_id)
        self._changed_s = self._clock()

    def stop(self) -> None:
        """End soon: no further slide is begun. May be called by a signal handler."""
        self._stopped = True

    @property
    def slides(self) -> list[SlideRef]:
        """All slides that are there, in the order in which they are found."""
        return [seen.slide for seen in self._seen.values()]

    def left(self) -> dict[SlideRef, str]:
        """The slides that are there and were not taken as they are now, and why."""
        return {
            seen.slide: NOT_BEGUN if self._is_still(seen, self._clock()) else STILL_WRITTEN
            for slide_id, seen in self._seen.items()
            if not self._is_done(slide_id, seen)
        }

    def _survey(self) -> None:
        now = self._clock()
        complete = all((folder / MARKER).exists() for folder in self._folders)  # before what it speaks of is listed
        found: dict[str, _Seen] = {}
        for slide in chain.from_iterable(map(slides_in, self._folders)):
            if slide.slide_id in found:
                self._refuse(slide, found[slide.slide_id].slide)
                continue
            state, before = _state_of(slide.path), self._seen.get(slide.slide_id)
            since_s = before.since_s if before is not None and before.state == state else now
            found[slide.slide_id] = _Seen(self._complete(slide), state, since_s)
            if since_s == now:
                self._changed_s = now
        self._seen = found
        for seen in found.values():
            if complete or self._is_still(seen, now):
                self._take(seen)
        # One that was begun too early, and has changed since, is begun again when it is answered.
        self._ended = complete and all(self._is_done(name, seen) for name, seen in found.items())
        self._next_look_s = now + max(self._spec.settle / _LOOKS, 0.1)

    def _is_still(self, seen: _Seen, now_s: float) -> bool:
        return now_s - seen.since_s >= self._spec.settle

    def _is_done(self, name: str, seen: _Seen) -> bool:
        """Whether a slide was taken as it is, or need not be."""
        return written_name(name) in self._known or self._taken.get(name) == seen.state

    def _take(self, seen: _Seen) -> None:
        name = seen.slide.slide_id
        if name not in self._in_hand and not self._is_done(name, seen):
            self._taken[name] = seen.state
            self._in_hand.add(name)
            self.waiting.append(seen.slide)

    def _refuse(self, slide: SlideRef, first: SlideRef) -> None:
        if slide.path not in self._twice:
            self._twice.add(slide.path)
            self._tell(
                f"{str(slide.path)!r} is left out, for {str(first.path)!r} has the same name {slide.slide_id!r}; "
                "rename one"
            )

    def _is_idle(self) -> bool:
        return not self._in_hand and self._clock() - self._changed_s >= self._spec.idle


def _state_of(path: Path) -> _State:
    """Name, bytes and time of change of all files of a slide; files that are gone meanwhile are not among them."""
    kind = path.suffix.lower()
    if kind in _IN_ITS_FOLDER:
        files = sorted(each for each in path.parent.glob("*") if each.suffix.lower() in _IN_ITS_FOLDER[kind])
    elif kind == _IN_A_FOLDER_BESIDE:
        files = [path, *sorted(path.with_suffix("").rglob("*"))]
    else:
        files = [path]
    found = []
    for file in files:
        with suppress(OSError):
            state = file.stat()
            found.append((file.name, state.st_size, state.st_mtime_ns))
    return tuple(found)
