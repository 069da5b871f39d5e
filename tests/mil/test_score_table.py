"""The file has every row soon, never half of one, and goes on only with what it was begun with."""

import csv
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mil import score_table
from mil.errors import TableError
from mil.origin import Origin, path_beside, read_origin, slides_named
from mil.predictions import Row, failed_row, score_columns, score_row
from mil.score_table import begin, shard_path
from mil.task import Task
from tiling.shards import WHOLE, Shard

TASK = Task(("0", "1"))
COLUMNS = score_columns(TASK)
ORIGIN = Origin("abc", TASK, {"default_mpp": None, "metadata": None}, slides_named(["a", "b", "c"]))


def row(name: str, chance: float = 0.25) -> Row:
    return score_row(name, name, TASK, "abc", 4, np.array([chance, 1 - chance]), 0.125)


def failed(name: str) -> Row:
    return failed_row(name, name, TASK, "abc", np.array([0.5, 0.5]), "lost")


def use(path: Path, origin: Origin, resume: bool) -> None:
    with begin(path, COLUMNS, origin, resume):
        pass


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.csv"


def test_order_is_that_of_the_names(path: Path) -> None:
    tables = []
    for names in ("abc", "cab"):
        with begin(path, COLUMNS, ORIGIN, resume=False) as table:
            for name in names:
                table.add(row(name))
        tables.append(path.read_bytes())
        assert [each["slide_id"] for each in table.rows] == ["a", "b", "c"]
    assert tables[0] == tables[1]
    assert [line.split(b",")[0] for line in tables[0].splitlines()] == [b"slide_id", b"a", b"b", b"c"]


def test_rows_are_there_before_the_end_and_the_file_is_always_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_table, "EVERY_S", 0.0)
    sizes, broken, over = set(), [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            with path.open(newline="") as file:
                rows = list(csv.reader(file))
            broken.extend(each for each in rows if len(each) != len(COLUMNS))
            sizes.add(len(rows) - 1)

    with begin(path, COLUMNS, ORIGIN, resume=False) as table:
        reader = threading.Thread(target=watch)
        reader.start()
        for number in range(300):
            table.add(row(f"{number:03d}"))
            if number % 100 == 0:
                until(lambda number=number: path.read_bytes().count(b"\n") == number + 2)  # type: ignore[misc]
        over.set()
        reader.join()
    assert broken == []
    assert {1, 101} <= sizes
    assert path.read_bytes().count(b"\n") == 301
    assert sorted(each.name for each in path.parent.iterdir()) == ["scores.csv", "scores.csv.json"]


def test_it_is_not_written_for_every_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_table, "EVERY_S", 3600.0)
    with begin(path, COLUMNS, ORIGIN, resume=False) as table:
        table.add(row("a"))
        until(lambda: path.read_bytes().count(b"\n") == 2)
        before = path.stat().st_ino
        for name in "bc":
            table.add(row(name))
        assert path.stat().st_ino == before
    assert path.read_bytes().count(b"\n") == 4


def test_resumed_it_keeps_the_scores_and_no_failures(path: Path) -> None:
    with begin(path, COLUMNS, ORIGIN, resume=True) as table:  # there is none yet
        for each in (row("a", 1 / 3), failed("b"), row("z")):
            table.add(each)
    table = begin(path, COLUMNS, ORIGIN, resume=True)
    assert table.rows == [row("a", 1 / 3), row("z")]
    assert table.names == {"a", "z"}
    assert path.read_bytes().count(b"\n") == 4  # nothing is written until it is used
    with table:
        assert path.read_bytes().count(b"\n") == 3


def test_not_resumed_it_is_made_anew(path: Path) -> None:
    with begin(path, COLUMNS, ORIGIN, resume=False) as table:
        table.add(row("a"))
    with begin(path, COLUMNS, replace(ORIGIN, model="other"), resume=False) as table:
        assert table.rows == []
    assert read_origin(path).model == "other"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (replace(ORIGIN, model="def"), "was made with another model; give what it was made with, or another --out"),
        (replace(ORIGIN, task=Task(("0", "2"))), "another model"),
        (replace(ORIGIN, settings={"default_mpp": 0.5, "metadata": "x"}), "another default_mpp, another metadata;"),
        (replace(ORIGIN, shard=Shard(1, 2)), "another shard"),
    ],
)
def test_resumed_with_something_else_it_is_refused(path: Path, other: Origin, sentence: str) -> None:
    with begin(path, COLUMNS, ORIGIN, resume=False) as table:
        table.add(row("a"))
    before = path.read_bytes(), path_beside(path).read_bytes()
    with pytest.raises(TableError, match=sentence):
        begin(path, COLUMNS, other, resume=True)
    assert (path.read_bytes(), path_beside(path).read_bytes()) == before


def test_more_slides_are_welcome_but_not_in_a_shard(path: Path) -> None:
    more = replace(ORIGIN, slides=slides_named("abcd"))
    use(path, ORIGIN, resume=False)
    use(path, more, resume=True)
    assert read_origin(path).slides == slides_named("dcba")
    use(path, replace(ORIGIN, shard=Shard(1, 2)), resume=False)
    with pytest.raises(TableError, match="was made with other slides"):
        begin(path, COLUMNS, replace(more, shard=Shard(1, 2)), resume=True)


def test_tables_that_nobody_can_go_on_with(path: Path) -> None:
    with begin(path, COLUMNS, ORIGIN, resume=False) as table:
        table.add(row("a"))
    whole = path.read_text()
    path.write_text(whole.replace("abc", "def"))
    with pytest.raises(TableError, match="has scores of the model def, and this one is abc"):
        begin(path, COLUMNS, ORIGIN, resume=True)
    path.write_text(whole.replace("prob_1", "prob_2"))
    with pytest.raises(TableError, match="has the columns slide_id, .*prob_2"):
        begin(path, COLUMNS, ORIGIN, resume=True)
    path.write_text("mine\n1\n")
    with pytest.raises(TableError, match="has the columns mine, and"):
        begin(path, COLUMNS, ORIGIN, resume=True)
    path_beside(path).write_text("{}")
    with pytest.raises(TableError, match="does not say what a table was made with"):
        begin(path, COLUMNS, ORIGIN, resume=True)
    path_beside(path).unlink()
    with pytest.raises(TableError, match="has no 'scores.csv.json' beside it"):
        begin(path, COLUMNS, ORIGIN, resume=True)


def test_a_disk_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = begin(path, COLUMNS, ORIGIN, resume=False)
    monkeypatch.setattr(score_table, "EVERY_S", 0.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(score_table, "write_lines", full)
    with pytest.raises(OSError, match="No space left"), table:
        while True:
            table.add(row("a"))


def test_each_shard_has_its_file() -> None:
    assert shard_path(Path("x/scores.csv"), Shard(2, 4)) == Path("x/scores-2-of-4.csv")
    assert shard_path(Path("x/scores.csv"), WHOLE) == Path("x/scores.csv")


def test_what_a_killed_one_left_is_swept(path: Path) -> None:
    left = path.with_name(f".scores.csv.{os.uname().nodename}.999999999.tmp")
    left.touch()
    use(path, ORIGIN, resume=False)
    assert not left.exists()
    shutil.rmtree(path.parent)
