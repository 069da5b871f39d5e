"""Tables come as the text that was meant, or a ValueError says what is wrong with them."""

from pathlib import Path

import pytest

from tiling import sheets
from tiling.output import write_table
from tiling.sheets import read_sheet

CELLS = [
    "=1+1",
    "'=1+1",
    "@a",
    "-x",
    "-1",
    "+1.5",
    "\tx",
    "a,b",
    'a"b',
    "a\nb",
    "a\rb",
    "a\r\nb",
    "'",
    "",
    " x ",
    "é\u202e",
]


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    """Names in the header too: a column of metadata may be called anything."""
    write_table(tmp_path / "table.csv", CELLS, [CELLS, CELLS[::-1]])
    assert read_sheet(tmp_path / "table.csv") == (CELLS, [CELLS, CELLS[::-1]])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_and_the_mark_of_utf8(tmp_path: Path, end: str, mark: str) -> None:
    text = mark + end.join(["a,b", "", "1,2", "3, ", "", ""])
    assert read_sheet(written(tmp_path, text)) == (["a", "b"], [["1", "2"], ["3", " "]])
    assert read_sheet(written(tmp_path, text), strip=True).rows == [["1", "2"], ["3", ""]]


def test_other_characters_end_no_line(tmp_path: Path) -> None:
    for character in "\x0b\x0c\x1c\x85\u2028":
        assert read_sheet(written(tmp_path, f"a,b\n1{character}2,3\n")).rows == [[f"1{character}2", "3"]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("a,b\n1\n", "row 2 has 1 cells and the header 2"),
        ("a,b\n1,2\n1,2,3\n", "row 3 has 3 cells and the header 2"),
        ('a,b\n"1,2\n', "unexpected end of data"),
        ("a,b\n" + "x" * 200_000 + ",1\n", r"field larger than field limit \(131072\)"),
        ("a,b\n1,\0\n", "it has a zero byte, as no text has"),
        ("a,b\n1,2\n".encode("utf-16"), "it has a zero byte"),
        ("a,b\n1,é\n".encode("latin-1"), "codec can't decode"),
    ],
)
def test_refused(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_sheet(written(tmp_path, content))


def test_a_short_file_is_no_large_table(tmp_path: Path) -> None:
    """Rows of one cell under a header of 100,000 would be 10,000,000,000 cells."""
    with pytest.raises(ValueError, match="row 2 has 1 cells and the header 100001"):
        read_sheet(written(tmp_path, "," * 100_000 + "\n" + "x\n" * 100_000))


def test_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_BYTES", 2**20)
    assert len(read_sheet(written(tmp_path, "a\n" + "1\n" * (2**19 - 1))).rows) == 2**19 - 1
    with pytest.raises(ValueError, match="it is larger than 1 MiB"):
        read_sheet(written(tmp_path, "a\n" + "1\n" * 2**19))
