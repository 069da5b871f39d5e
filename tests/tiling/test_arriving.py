"""Slides of a folder that is filling are taken once they are complete, and the folder ends as it says."""

import os
from pathlib import Path

import pytest

from tiling import sources
from tiling.arriving import NOT_BEGUN, STILL_WRITTEN, Arriving, WatchSpec
from tiling.errors import InputError
from tiling.sources import SlideRef

SPEC = WatchSpec(settle=10, idle=100)


class Watched:
    """A folder, the slides that come in it, and a clock that goes when it is told to."""

    def __init__(self, folder: Path, spec: WatchSpec = SPEC, known: frozenset[str] = frozenset()) -> None:
        self.folder, self.now_s = folder, 1000.0
        self.told: list[str] = []
        folder.mkdir(exist_ok=True)
        self.arriving = Arriving([folder], spec, self.with_mpp, known, self.told.append, lambda: self.now_s)

    def with_mpp(self, slide: SlideRef) -> SlideRef:
        return slide._replace(default_mpp=0.5)

    def write(self, name: str, content: bytes = b"x") -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (self.now_s, self.now_s))

    def after(self, seconds: float) -> list[str] | None:
        """The slides that are taken up to then, None where it has ended with none."""
        ends = self.now_s + seconds
        taken: list[str] = []
        while self.now_s < ends:
            self.now_s = min(ends, self.now_s + 0.5)
            ended = self.arriving.look() is None
            while self.arriving.waiting:
                taken.append(self.arriving.waiting.popleft().slide_id)
            if ended:
                return taken or None
        return taken

    def answer(self, *names: str) -> None:
        for slide in self.arriving.slides:
            if slide.slide_id in names:
                self.arriving.answered(slide)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "in")


def test_a_slide_is_taken_when_it_lies_still(watched: Watched) -> None:
    watched.write("a.svs")
    assert watched.after(6) == []
    watched.write("a.svs", b"xy")
    assert watched.after(9) == []
    assert watched.after(6) == ["a"]
    assert watched.after(50) == []  # once
    assert watched.arriving.slides == [SlideRef("a", watched.folder / "a.svs", default_mpp=0.5)]


def test_a_file_that_keeps_its_size_is_still_written(watched: Watched) -> None:
    watched.write("a.svs", bytes(100))  # as a copy into reserved space
    for _ in range(5):
        assert watched.after(6) == []
        watched.write("a.svs", bytes(100))
    assert watched.after(15) == ["a"]


@pytest.mark.parametrize(
    ("slide", "part", "name"), [("a.mrxs", "a/Data0001.dat", "a"), ("s/1.dcm", "s/2.dcm", "s"), ("b.vms", "b.jpg", "b")]
)
def test_a_slide_of_several_files_waits_for_all(
    watched: Watched, slide: str, part: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "series_uid", lambda _: "1.2.3")
    watched.write(slide)
    assert watched.after(6) == []
    watched.write(part)
    assert watched.after(9) == []
    watched.write("notes.txt")
    assert watched.after(6) == [name]


def test_files_beside_do_not_keep_a_slide_waiting(watched: Watched) -> None:
    watched.write("s/1.dcm")
    for _ in range(2):
        assert watched.after(5) == []
        watched.write("s/scores.csv", b"row")
        watched.write("other.svs", os.urandom(4))
    assert watched.after(4) == ["s"]


def test_it_ends_when_nothing_comes(watched: Watched) -> None:
    watched.write("a.svs")
    assert watched.after(15) == ["a"]
    assert watched.after(200) == []  # it is worked on
    watched.answer("a")
    assert watched.after(99) == []
    assert watched.after(3) is None


def test_the_marker_says_that_all_is_there(watched: Watched) -> None:
    watched.write("a.svs")
    assert watched.after(3) == []
    watched.write("b.svs")
    watched.write("DONE")
    assert watched.after(3) == ["a", "b"]
    assert watched.arriving.look() is None


def test_one_that_was_begun_too_early_is_begun_again(watched: Watched) -> None:
    watched.write("a.svs")
    assert watched.after(15) == ["a"]
    watched.write("a.svs", b"the rest came")
    watched.write("DONE")
    assert watched.after(20) == []  # not while it is worked on
    watched.answer("a")
    assert watched.after(5) == ["a"]
    assert watched.arriving.look() is None
    assert watched.arriving.left() == {}


def test_told_to_stop_it_begins_none(watched: Watched) -> None:
    watched.write("a.svs")
    assert watched.after(15) == ["a"]
    watched.write("b.svs")
    watched.after(5)
    watched.write("c.svs")
    watched.after(3)
    watched.now_s += 4
    watched.arriving.look()  # b is complete now, and waits
    watched.arriving.stop()
    assert watched.after(1) is None
    assert {slide.slide_id: why for slide, why in watched.arriving.left().items()} == {
        "b": NOT_BEGUN,
        "c": STILL_WRITTEN,
    }


def test_slides_that_have_a_row_are_left_alone(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "in", known=frozenset({"a"}))
    watched.write("a.svs")
    watched.write("b.svs")
    assert watched.after(15) == ["b"]
    assert watched.arriving.left() == {}


def test_of_two_with_one_name_the_second_is_told_of_once(watched: Watched) -> None:
    watched.write("x/a.svs")
    watched.write("y/a.svs")
    assert watched.after(30) == ["a"]
    assert len(watched.told) == 1
    assert "y/a.svs' is left out, for " in watched.told[0]


@pytest.mark.parametrize(
    ("settle", "idle", "sentence"),
    [(30, 30, "--idle must be more than --settle, 30 s"), (-1, 30, "--settle must be at least 0, not -1")],
)
def test_times_that_make_no_sense(settle: float, idle: float, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        WatchSpec(settle, idle)
