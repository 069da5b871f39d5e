"""The cache holds what the bags would give, whoever made it and whatever happened meanwhile."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mil import cache
from mil.cache import OWN_FOLDER, UNUSED_S, TileCache, auto_folder, open_cache
from mil.data import PixelReader
from mil.errors import CacheError
from tests.tiling.test_bag import make_bag
from tiling import merge, status
from tiling.__main__ import main as tile
from tiling.bag import BagRef, bag_path, merged_ref, write_bag, write_merged
from tiling.bags import open_bags
from tiling.errors import BagError

SIZES = (1, 3, 2, 5)
SPEC = {"size": 16}
PX = 8


class Store(NamedTuple):
    folder: Path
    refs: list[BagRef]

    def open(self, where: str = "auto", px: int = PX, sizes: tuple[int, ...] = SIZES) -> TileCache | None:
        return open_cache(self.refs, sizes, SPEC, px, where, threads=2, show=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Bags of several sizes."""
    folder = tmp_path / "bags"
    folder.mkdir()
    for name, size in zip("abcd", SIZES, strict=True):
        write_bag(bag_path(folder, name), make_bag(size, "jpeg"))
    return Store(folder, list(open_bags(folder).refs.values()))


def assert_right(found: TileCache | None, refs: list[BagRef], px: int = PX) -> None:
    """The files of a cache hold what the bags give now."""
    assert found is not None
    for ref in refs:
        stored, expected = found(ref), PixelReader(px)(ref).numpy()
        assert stored.path.read_bytes() == expected.tobytes()
        assert stored.shape == expected.shape


def no_decoding(monkeypatch: pytest.MonkeyPatch, at_most: int = 0) -> list[BagRef]:
    """A list of the bags that are decoded from now on, of which there may be so many."""
    made: list[BagRef] = []
    read = PixelReader.__call__

    def counted(self: PixelReader, ref: BagRef) -> Any:
        made.append(ref)
        assert len(made) <= at_most
        return read(self, ref)

    monkeypatch.setattr(PixelReader, "__call__", counted)
    return made


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("px", [PX, 16, 20])
def test_it_holds_what_the_bags_give(store: Store, px: int) -> None:
    found = store.open(px=px)
    assert_right(found, store.refs, px)
    assert found is not None
    assert found(store.refs[3].path) == found(store.refs[3])


def test_it_is_made_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.open()
    before = {path: path.stat().st_ino for path in (store.folder / "cache").iterdir()}
    no_decoding(monkeypatch)
    again = store.open()
    assert first is not None
    assert again is not None
    assert again.files == first.files
    assert {path: path.stat().st_ino for path in (store.folder / "cache").iterdir()} == before


def test_sizes_lie_side_by_side(store: Store) -> None:
    small, large = store.open(px=4), store.open(px=8)
    assert_right(small, store.refs, 4)
    assert_right(large, store.refs, 8)


def test_a_merged_file_has_its_own(store: Store) -> None:
    merged = store.folder.parent / "all.h5"
    write_merged(merged, [(name, make_bag(size, "png")) for name, size in zip("abcd", SIZES, strict=True)], [])
    refs = [merged_ref(merged, name) for name in "abcd"]
    found = Store(merged, refs).open()
    assert_right(found, refs)
    assert len(files(store.folder.parent / "all.h5.cache")) == 5
    together = store.folder.parent / "both"
    assert_right(store.open(str(together)), store.refs)
    assert_right(Store(merged, refs).open(str(together)), refs)
    assert files(together) == {OWN_FOLDER}
    assert len(files(together / OWN_FOLDER)) == 9


def change_pixels(store: Store) -> None:
    write_bag(store.refs[1].path, make_bag(SIZES[1], "jpeg"))


def touch(store: Store) -> None:
    os.utime(store.refs[1].path, ns=(0, 1))


def cut_file(store: Store) -> None:
    found = store.open()
    assert found is not None
    path = found(store.refs[1]).path
    path.write_bytes(path.read_bytes()[:-1])


def lose_file(store: Store) -> None:
    found = store.open()
    assert found is not None
    found(store.refs[1]).path.unlink()


@pytest.mark.parametrize("change", [change_pixels, touch, cut_file, lose_file])
def test_what_changed_is_made_again_alone(
    store: Store, change: Callable[[Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.open()
    change(store)
    made = no_decoding(monkeypatch, at_most=1)
    found = store.open()
    assert made == [store.refs[1]]
    monkeypatch.undo()
    assert_right(found, store.refs)


def disuse(path: Path, seconds: float) -> None:
    """Let a file be one that was made and read last so long ago."""
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("what", ["bag", "software", "version"])
def test_an_older_state_stays_while_it_may_be_in_use(store: Store, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bags that are opened; and a file that is used again is not taken for one that nobody uses."""
    first = store.open()
    assert first is not None
    kept = first(store.refs[1]).path
    disuse(kept, 2 * UNUSED_S)
    assert_right(store.open(), store.refs)
    if what == "bag":
        touch(store)
    elif what == "software":
        monkeypatch.setattr(cache, "software", lambda: "gigabag 0.0.0")
    else:
        monkeypatch.setattr(cache, "version", lambda name: "0" if name == "simplejpeg" else "1")
    second = store.open()
    assert second is not None
    assert second(store.refs[1]) != first(store.refs[1])
    assert kept.exists()
    disuse(kept, UNUSED_S - 60)
    store.open()
    assert kept.exists()
    disuse(kept, UNUSED_S + 60)
    os.utime(kept, (time.time(), kept.stat().st_mtime))  # read now
    store.open()
    assert kept.exists()
    disuse(kept, UNUSED_S + 60)
    store.open(px=2 * PX)
    open_cache(store.refs[2:], SIZES[2:], SPEC, PX, "auto", show=False)
    assert kept.exists()
    assert_right(store.open(), store.refs)
    assert not kept.exists()


def test_a_bag_of_two_names_has_one_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = store.folder / "link.h5"
    link.symlink_to(store.refs[3].path)
    made = no_decoding(monkeypatch, at_most=4)
    found = open_cache([*store.refs, BagRef(link)], [*SIZES, SIZES[3]], SPEC, PX, "auto", 4, show=False)
    assert found is not None
    assert found(link) == found(store.refs[3])
    assert len(made) == 4


def test_what_vanishes_from_the_folder_hides_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open()
    (store.folder / "cache" / "link").symlink_to("nowhere")
    no_decoding(monkeypatch)
    found = store.open()
    monkeypatch.undo()
    assert_right(found, store.refs)


def test_a_folder_of_the_users_stays_the_users(store: Store) -> None:
    mine = store.folder.parent / "mine"
    mine.mkdir()
    (mine / "data.csv").touch()
    assert_right(store.open(str(mine)), store.refs)
    assert files(mine) == {"data.csv", OWN_FOLDER}
    assert "CACHEDIR.TAG" in files(mine / OWN_FOLDER)


def test_a_bag_of_other_size(store: Store) -> None:
    store.open()
    write_bag(store.refs[1].path, make_bag(4, "jpeg"))
    assert_right(store.open(sizes=(1, 4, 2, 5)), store.refs)
    write_bag(store.refs[1].path, make_bag(2, "jpeg"))
    with pytest.raises(BagError, match="was changed while it was read"):
        store.open(sizes=(1, 4, 2, 5))


@pytest.mark.parametrize("what", ["software", "version", "spec", "moved"])
def test_what_else_pixels_depend_on(store: Store, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of other programs and settings are not taken, and not deleted: another training may be reading them."""
    first = store.open()
    assert first is not None
    spec, refs = SPEC, store.refs
    if what == "software":
        monkeypatch.setattr(cache, "software", lambda: "gigabag 0.0.0")
    elif what == "version":
        monkeypatch.setattr(cache, "version", lambda name: "0" if name == "simplejpeg" else "1")
    elif what == "spec":
        spec = {"size": 17}
    else:
        moved = shutil.copytree(store.folder, store.folder.parent / "moved")
        refs = list(open_bags(moved).refs.values())
    other = open_cache(refs, SIZES, spec, PX, str(store.folder / "cache"), show=False)
    assert other is not None
    assert not {each.path.name for each in first.files.values()} & {each.path.name for each in other.files.values()}
    if what != "spec":
        assert_right(first, store.refs)


def run_apart(work: Callable[[], object]) -> int:
    """The exit code of a process that does some work."""
    process = get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def test_a_killed_maker_leaves_nothing_half(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies with two bags done (and the note for backups) and half of the third written."""
    done = []
    sync = os.fsync

    def dies(fd: int) -> None:
        done.append(fd)
        if len(done) == 4:
            os.ftruncate(fd, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(fd)

    monkeypatch.setattr(os, "fsync", dies)
    code = run_apart(lambda: open_cache(store.refs, SIZES, SPEC, PX, "auto", threads=1, show=False))
    monkeypatch.undo()
    assert code == -signal.SIGKILL
    left = files(store.folder / "cache")
    assert len([name for name in left if "-" in name and not name.startswith(".")]) == 2
    assert len([name for name in left if name.endswith(".tmp")]) == 1
    made = no_decoding(monkeypatch, at_most=2)
    found = store.open()
    assert len(made) == 2
    monkeypatch.undo()
    assert_right(found, store.refs)
    assert len(files(store.folder / "cache")) == 5


def test_two_make_it_at_once(store: Store) -> None:
    refs = [*store.refs]
    for number in range(20):
        refs.append(BagRef(bag_path(store.folder, f"n{number}")))
        write_bag(refs[-1].path, make_bag(2, "jpeg"))
    sizes = [*SIZES, *[2] * 20]

    makers = [get_context("fork").Process(target=open_cache, args=(refs, sizes, SPEC, PX, "auto", 2, False))
              for _ in range(3)]  # fmt: skip
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert len(files(store.folder / "cache")) == 25
    assert_right(open_cache(refs, sizes, SPEC, PX, "auto", show=False), refs)


def test_a_damaged_bag_is_named_and_the_rest_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    good = store.refs[2].path.read_bytes()
    write_bag(store.refs[2].path, replace(make_bag(2, "jpeg"), tiles=(b"spoilt",) * 2))
    with pytest.raises(BagError, match="tile 0 of bag 'slide é' cannot be decoded"):
        store.open()
    store.refs[2].path.write_bytes(good)
    assert_right(store.open(), store.refs)
    store.refs[0].path.unlink()
    with pytest.raises(BagError, match="cannot read the bag '.*a.h5' .No such file or directory.; delete it and tile"):
        store.open()


class TestWhereItCannotBeMade:
    def test_the_disk_is_too_small(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        needed = sum(SIZES) * 3 * PX * PX
        free = 2 * needed - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free))
        assert store.open() is None
        said = capsys.readouterr().err
        assert "no cache: the tiles of 4 bags take 0.0 GB, and the disk of the folder" in said
        assert "of which a cache takes 50% at most unless it is asked for; give --cache FOLDER on another disk" in said
        assert not (store.folder / "cache").exists()
        assert_right(store.open(str(store.folder / "cache")), store.refs)  # all of it fits
        free = 2 * needed
        assert store.open(px=PX) is not None  # nothing is missing
        free = needed * 4 - 1
        with pytest.raises(CacheError, match=r"take 0.0 GB, and the disk of the folder .* has 0.0 GB free; give --cac"):
            store.open(str(store.folder / "cache"), px=2 * PX)

    def test_the_disk_is_full_after_all(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CacheError, match=r"cannot be used as a cache \(No space left on device\)"):
            store.open(str(store.folder / "other"))
        assert store.open() is None
        assert files(store.folder / "cache") == set()

    def test_the_folder_cannot_be_written(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A file in its place: permissions mean nothing to root."""
        (store.folder / "cache").touch()
        assert store.open() is None
        assert "no cache: the folder" in capsys.readouterr().err
        with pytest.raises(CacheError, match=r"cannot be used as a cache \(Not a directory\); give --cache FOLDER"):
            store.open(str(store.folder / "cache"))
        with pytest.raises(CacheError, match=r"below/gigabag-tiles' cannot be used as a cache \(Not a dir"):
            store.open(str(store.folder / "cache" / "below"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_complete_one_in_a_folder_that_cannot_be_written_is_used(self, store: Store) -> None:
        store.open()
        (store.folder / "cache").chmod(0o500)
        assert_right(store.open(), store.refs)

    def test_a_complete_one_is_not_written(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.open()
        monkeypatch.delattr(cache, "make_writable")
        assert_right(store.open(), store.refs)

    def test_large_tiles(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        assert store.open(px=513) is None
        assert "no cache: tiles of 513 px are no faster from a disk than decoded" in capsys.readouterr().err
        assert not (store.folder / "cache").exists()
        assert_right(store.open(str(store.folder / "own"), px=513), store.refs, 513)


def test_it_is_in_nobodys_way(cohort: Any, bags: Path, tmp_path: Path) -> None:
    """Neither of a batch that goes on, nor of its status, nor of a merge."""
    from tests.conftest import TILING_FLAGS

    folder = tmp_path / "bags"
    shutil.copytree(bags, folder)
    refs = open_bags(folder).refs
    found = open_cache(list(refs.values()), [6] * 12, SPEC, PX, "auto", show=False)
    assert found is not None
    assert found(refs["s00"]).path.parent == auto_folder(refs["s00"]) == folder / "cache"
    before = files(folder / "cache")
    assert open_bags(folder).refs == refs
    assert tile([str(cohort.slides), "--out", str(folder), *TILING_FLAGS]) == 0
    assert status.main([str(folder)]) == 0
    assert merge.main([str(folder), "--out", str(tmp_path / "all.h5")]) == 0
    assert open_bags(tmp_path / "all.h5").refs.keys() == refs.keys()
    assert files(folder / "cache") == before
    np.testing.assert_array_equal(np.fromfile(found(refs["s00"]).path, np.uint8), PixelReader(PX)(refs["s00"]).ravel())
