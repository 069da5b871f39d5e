"""No cell is a formula, and every text comes back."""

import pytest

from tiling.cells import guarded, plain


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-x", "-", "+", "-inf"],
)
def test_what_would_be_run_is_text(text: str) -> None:
    assert guarded(text) == f"'{text}"
    assert plain(f"'{text}") == text


@pytest.mark.parametrize("text", ["", "a=1", "'", "'a", "it's", "-1", "+1.5", "-.5e-3", " =1", "肾", "0007"])
def test_all_else_is_as_it_was(text: str) -> None:
    assert guarded(text) == text
    assert plain(text) == text


@pytest.mark.parametrize("value", [-1, -0.5, None, True])
def test_numbers_are_no_text(value: object) -> None:
    assert guarded(value) is value
