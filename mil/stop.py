"""Told to stop, at any moment: by a cluster that warns before it kills."""

from collections.abc import Iterator
from contextlib import contextmanager

from mil.errors import Stopped


class Stop:
    """Whether a training was told to stop.

    Being told raises Stopped wherever the training is, once; inside `held` it is noted, to be asked for when all can be
    saved.
    """

    def __init__(self) -> None:
        self.told = False
        self._held = False

    def __call__(self) -> bool:
        """Whether it was told."""
        return self.told

    def tell(self) -> None:
        """Tell it, as from the handler of a signal."""
        raises = not (self._held or self.told)
        self.told = True
        if raises:
            raise Stopped("the training was asked to stop")

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that being told does not interrupt."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
