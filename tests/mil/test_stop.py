"""Being told to stop interrupts once, and never where that would lose something."""

import pytest

from mil.errors import Stopped
from mil.stop import Stop


def test_told_outside_it_raises_once() -> None:
    stop = Stop()
    assert not stop()
    with pytest.raises(Stopped, match="was asked to stop"):
        stop.tell()
    stop.tell()  # a second warning, while the process leaves
    assert stop()


def test_told_inside_it_is_noted() -> None:
    stop = Stop()
    with stop.held():
        stop.tell()
        assert stop()
    stop.tell()


def test_it_raises_again_behind_the_block() -> None:
    stop = Stop()
    with stop.held():
        pass
    with pytest.raises(Stopped):
        stop.tell()
