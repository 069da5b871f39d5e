"""Files appear whole or not at all."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tiling.cells import plain
from tiling.output import make_writable, placing, private_folder, replacing, sweep, write_table


class TestReplacing:
    def test_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        with pytest.raises(RuntimeError), replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert (tmp_path / "a").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_success(self, tmp_path: Path) -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("new")
            assert not (tmp_path / "a").exists()
        assert (tmp_path / "a").read_text() == "new"


def test_sweep_takes_what_a_dead_process_of_this_machine_left_and_what_is_old(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    gone = f".a.h5.{here}.{dead.pid}.tmp"
    stay = [f".a.h5.{here}.{os.getpid()}.tmp", f".a.h5.not-{here}x.{dead.pid}.tmp", ".notes.tmp", "a.h5"]
    old = [".b.h5.elsewhere.7.tmp", f".c.h5.{here}.{os.getpid()}.tmp", ".old.notes.tmp"]
    for name in (gone, *stay, *old):
        (tmp_path / name).touch()
    for name in old:
        os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, *old[1:]])


def test_make_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    make_writable(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []


def test_table_gives_back_every_name(tmp_path: Path) -> None:
    names = [
        "plain",
        "a b",
        "it's",
        'say "so"',
        "x,y",
        "two\nlines",
        "old\rmac",
        "dos\r\n",
        "ä 肾 🙂",
        " ",
        "#",
        "=1+1",
    ]
    write_table(tmp_path / "t.csv", ["name", "n"], [(name, 1) for name in names])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert [plain(row["name"]) for row in csv.DictReader(file)] == names


def test_private_folder_is_gone_with_its_files(tmp_path: Path) -> None:
    with private_folder(tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_sweep_takes_private_folders_of_dead_processes(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with private_folder(tmp_path) as own:
        dead = own.with_name(own.name.replace(f".{os.getpid()}.", f".{process.pid}."))
        dead.mkdir()
        (dead / ".tmpXYZ").touch()
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [own]


def test_placing_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    for text in ("first", "second"):
        with placing(path) as temporary:
            temporary.write_text(text)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_placing_on_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with placing(tmp_path / "settings") as temporary:
        temporary.write_text("first")
    assert (tmp_path / "settings").read_text() == "first"
