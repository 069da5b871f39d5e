"""Tables in CSV of whoever wrote them, as text; what would take more memory than it looks is refused."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from tiling.cells import plain

MOST_BYTES = 2**28


class Sheet(NamedTuple):
    """A table: its header, and its rows, each of as many cells; text as it was before it was written."""

    header: list[str]
    rows: list[list[str]]


def read_sheet(path: Path, strip: bool = False) -> Sheet:
    """The table in a file, without empty lines; with `strip` without blanks around each cell.

    Raises OSError or ValueError where it cannot be read or is larger than 256 MiB, and where a row has more or fewer
    cells than the header: filled up, a short file could be a table larger than memory.
    Columns may have the same name.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
    if b"\0" in content:
        raise ValueError("it has a zero byte, as no text has; save it as CSV in UTF-8")
    lines = _rows(content.decode("utf-8-sig"), strip)
    header = next(lines, None)
    if header is None:
        raise ValueError("it is empty")
    return Sheet(header, list(_of_length(len(header), lines)))


def _rows(text: str, strip: bool) -> Iterator[list[str]]:
    try:
        for row in csv.reader(StringIO(text, newline=""), strict=True):
            if row:
                yield [plain(cell.strip()) if strip else plain(cell) for cell in row]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _of_length(cells: int, rows: Iterator[list[str]]) -> Iterator[list[str]]:
    for number, row in enumerate(rows, start=2):
        if len(row) != cells:
            raise ValueError(f"row {number} has {len(row)} cells and the header {cells}")
        yield row
