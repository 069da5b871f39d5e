"""A table of scores while its slides are scored: a row is in the file as soon as there is one, and no half row ever.

The file is written anew under a temporary name which then takes its place, by a thread of its own: at once when a row
comes, but not again within a second, nor before twenty times as long has gone by as the writing took. What a kill can
cost is what came in that time.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from mil.errors import TableError
from mil.origin import Origin, read_origin, refuse_other, write_origin
from mil.parquet import is_parquet, write_parquet
from mil.predictions import OK, Row, is_score, read_rows, row_line
from tiling.output import csv_line, sweep, write_lines
from tiling.shards import WHOLE, Shard

EVERY_S = 1.0
_PART_OF_TIME = 20


def shard_path(path: Path, shard: Shard) -> Path:
    """Where a shard's part of a table goes: each has its own file, so that no two jobs write one."""
    return path if shard == WHOLE else path.with_name(f"{path.stem}-{shard.number}-of-{shard.of}{path.suffix}")


def begin(path: Path, columns: Mapping[str, type], origin: Origin, resume: bool) -> "ScoreTable":
    """The table that scores go into: empty, or with `resume` with the rows of the file that have a score.

    Rows of slides that nobody asks for now stay. Raises TableError where the file was made with something else, cannot
    be read, or is Parquet and there is no pyarrow. Nothing is written before the table is used in a `with` block.
    """
    is_parquet(path)
    rows: list[Row] = []
    if resume and path.exists():
        refuse_other(path, read_origin(path), origin)
        rows = read_rows(path)
        _check(path, rows, columns, origin)
        rows = [row for row in rows if row["status"] == OK]
    return ScoreTable(path, columns, rows, origin)


def _check(path: Path, rows: Iterable[Row], columns: Mapping[str, type], origin: Origin) -> None:
    for row in rows:
        if list(row) != list(columns):
            raise TableError(
                f"the table {str(path)!r} has the columns {', '.join(row)}, and this run writes {', '.join(columns)}; "
                "choose another --out"
            )
        if not is_score(row, columns):
            raise TableError(
                f"the table {str(path)!r} has a row that is none of a slide ({row['slide_id']!r}); choose another --out"
            )
        if row["model"] != origin.model:
            raise TableError(
                f"the table {str(path)!r} has scores of the model {row['model']}, and this one is {origin.model}; "
                "choose another --out"
            )


class ScoreTable:
    """The rows of a table by slide, in the order of their names, and its file, which follows them.

    To be used in a `with` block, in which the file and its origin are there, and at whose end it has all rows.
    """

    def __init__(self, path: Path, columns: Mapping[str, type], rows: Iterable[Row], origin: Origin) -> None:
        self.path, self._columns, self._origin = path, columns, origin
        self._rows: dict[str, Row] = {}
        self._lines: dict[str, str] = {}
        self._lock, self._news, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._follow, name="scores", daemon=True)
        for row in rows:
            self._note(row)

    @property
    def names(self) -> frozenset[str]:
        """The slides that have a row, by their names as they are written."""
        with self._lock:
            return frozenset(self._rows)

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the slides' names."""
        with self._lock:
            return [self._rows[name] for name in sorted(self._rows)]

    def add(self, row: Row) -> None:
        """Take in the row of a slide, in place of one that it had; raises OSError where the file cannot be written."""
        self._refuse_broken()
        self._note(row)
        self._news.set()

    def write(self) -> float:
        """Bring the file up to date; the seconds that it took."""
        start = time.perf_counter()
        if is_parquet(self.path):
            write_parquet(self.path, self._columns, self.rows)
        else:
            with self._lock:
                lines = [self._lines[name] for name in sorted(self._lines)]
            write_lines(self.path, [csv_line(self._columns), *lines])
        return time.perf_counter() - start

    def __enter__(self) -> "ScoreTable":
        """Begin to follow; raises OSError where nothing can be written."""
        sweep(self.path.parent)
        self.write()  # before its origin: a table without rows goes with any
        write_origin(self.path, self._origin)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """End with all rows in the file; raises OSError where that cannot be."""
        self._closing.set()
        self._news.set()
        self._thread.join()
        if kind is None:
            self._refuse_broken()

    def _note(self, row: Row) -> None:
        line = row_line(self._columns, row)
        with self._lock:
            self._rows[row["slide_id"]] = row
            self._lines[row["slide_id"]] = line

    def _follow(self) -> None:
        try:
            while not self._closing.is_set():
                self._news.wait()
                self._news.clear()
                took_s = self.write()
                self._closing.wait(max(EVERY_S, _PART_OF_TIME * took_s))
            self.write()
        except OSError as error:
            self._error = error

    def _refuse_broken(self) -> None:
        if self._error is not None:
            raise self._error
