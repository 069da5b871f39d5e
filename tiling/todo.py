"""Slides that wait to be worked on."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from tiling.sources import SlideRef


class Todo:
    """Slides to be worked on, of which those `waiting` have not been begun.

    One that more come into meanwhile is made from this one.
    """

    stays_open = False  # whether nobody knows how long more may come

    def __init__(self, slides: Iterable[SlideRef] = ()) -> None:
        self.waiting = deque(slides)
        self._slides = tuple(self.waiting)

    @property
    def slides(self) -> Sequence[SlideRef]:
        """All there are by now, begun or not."""
        return self._slides

    def look(self) -> float | None:
        """Take in what has come; the seconds until the next look is worth it, None when no more will come."""
        return None

    def answered(self, slide: SlideRef) -> None:
        """Told that the work on a slide has ended, well or not."""

    def stop(self) -> None:
        """Told to begin no further slide; may be called by a signal handler."""
        self.waiting.clear()

    def left(self) -> Mapping[SlideRef, str]:
        """When it has ended, the slides that are there and whose time has not come, and why."""
        return {}
