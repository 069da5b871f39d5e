"""Names as a terminal shows them."""

from tiling.progress import short, shown, visible


def test_shown() -> None:
    assert shown("two words é") == "two words é"
    assert shown("two\nlines") == r"'two\nlines'"


def test_short_names() -> None:
    assert short("A" * 24) == "A" * 24
    assert short("A" * 12 + "B" * 13) == "A" * 12 + "…" + "B" * 11
    assert short("A" * 40, 40) == "A" * 40
    assert short("a\nb\t\x1b[0m é") == "a\\nb\\t\\x1b[0m é"


def test_visible() -> None:
    assert visible("µ\x1b[2J\na\u202eb") == r"µ\x1b[2J\na\u202eb"
    assert visible("a\nb\r", but="\n") == "a\nb\\r"
