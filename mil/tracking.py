"""Who is told of a fold's epochs beside log.csv: a tracker that may fail, but not a training with it."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec

from mil.errors import SettingsError, cause
from mil.log import EpochLog
from mil.trackers import TRACKERS, TrackedFold, Tracker

P = ParamSpec("P")


class Tracking:
    """A tracker that fails once, and then no more; a context manager, which ends what was not finished."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._tracker: Tracker | None = None

    def epoch(self, row: EpochLog) -> None:
        """Note an epoch."""
        if self._tracker is not None:
            self._try(self._tracker.epoch, row)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Note the final figures of the fold, which may be nested, and end."""
        if self._tracker is not None:
            self._try(self._tracker.finish, metrics)
            self._tracker = None

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracker is not None:
            self._try(self._tracker.stop)
            self._tracker = None

    def begin(self, fold: TrackedFold) -> None:
        """Begin, or go on with, a fold."""
        if self._name is not None:
            self._try(self._begin, TRACKERS[self._name], fold)

    def _begin(self, make: Callable[[TrackedFold], Tracker], fold: TrackedFold) -> None:
        self._tracker = make(fold)

    def _try(self, act: Callable[P, None], *values: P.args, **named: P.kwargs) -> None:
        try:
            act(*values, **named)
        except Exception as error:  # noqa: BLE001  # whatever it is, a training is worth more
            sys.stderr.write(
                f"the tracker {self._name} failed ({cause(error)}); training goes on without it, see log.csv\n"
            )
            self._tracker = None


def check_tracker(name: str | None) -> None:
    """Raise SettingsError where the tracker of that name is not installed, or nobody is logged in to it."""
    if name is None:
        return
    try:
        TRACKERS[name].check()
    except ImportError as error:
        raise SettingsError(
            f"--tracker {name} needs a package that is not installed ({error}); pip install 'gigabag[{name}]'"
        ) from error


def open_tracker(
    name: str | None, run_folder: Path, config: Mapping[str, Any], fold: int, first_epoch: int = 0
) -> Tracking:
    """The tracker of that name for a fold; None is nobody, which is also who all processes but the first tell.

    A fold that goes on from a checkpoint says with which epoch, and goes on with the tracker's run it had. Where the
    tracker fails, now or later, it is said once, and training goes on. Raises SettingsError as `check_tracker` does.
    """
    check_tracker(name)
    tracking = Tracking(name)
    tracking.begin(TrackedFold(run_folder, fold, config, first_epoch))
    return tracking
