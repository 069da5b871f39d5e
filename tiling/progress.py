"""What the terminal shows: one look for every progress bar, one line for every message."""

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm


def progress(total: int, unit: str, what: str, initial: int = 0) -> "tqdm[Any]":
    """A bar on stderr: live on a terminal, a line every half minute in the log of a job."""
    quiet = not sys.stderr.isatty()
    return tqdm(
        total=total, initial=initial, unit=unit, desc=what, dynamic_ncols=not quiet,
        mininterval=30.0 if quiet else 0.1, file=sys.stderr,
    )  # fmt: skip


def shown(name: object) -> str:
    """A name on one line: as it is, or quoted and escaped where it has line breaks or bytes that are no text."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def visible(text: object, but: str = "") -> str:
    """A sentence or lines for a terminal: what cannot be printed is escaped, `but` for characters that are meant.

    A name with control characters in it would else move the cursor, or forge lines.
    """
    return "".join(each if each.isprintable() or each in but else repr(each)[1:-1] for each in str(text))


def short(name: object, longest: int = 24) -> str:
    """A name for a table: on one line, the middle of a long one left out, what cannot be printed escaped."""
    text = visible(name)
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[1 - longest // 2 :]}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table's rows, the cells of each column below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
