"""Cells of tables that a spreadsheet would run as formulas, written so that it does not, and read as they were.

A spreadsheet takes a cell that begins with one of `= + - @`, a tab or a line break for a formula, and what it runs may
have come as the name of a file (OWASP, "CSV Injection"). An apostrophe before it makes it text. Here such a cell gets
one, and so does one that begins with apostrophes and then such a sign; who reads takes one away, which gives back every
text. A number such as -1 is no formula and stays.
"""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guarded(value: object) -> object:
    """A cell as it is written: text that would be run gets an apostrophe, all else is as it was."""
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def plain(text: str) -> str:
    """The text that was meant by a cell as `guarded` writes it."""
    return text[1:] if _GUARDED.match(text) else text
