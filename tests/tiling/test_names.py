"""Names that lead nowhere else may become names of files."""

import pytest

from tiling.names import is_plain


@pytest.mark.parametrize("name", ["a", "a b.c", "..a", "...", "=1", "-", "a\\b", "é", "a\nb", "a\udce9"])
def test_plain(name: str) -> None:
    assert is_plain(name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/a", "a/b", "../a", "a/", "a\0b", "\ud800"])
def test_not_plain(name: str) -> None:
    assert not is_plain(name)
