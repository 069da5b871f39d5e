"""Pictures, words and bars where they are put, in inches."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mil.arrangement import Box
from mil.canvas import Canvas, scale_um
from mil.panels import DPI


def drawn(canvas: Canvas, path: Path) -> np.ndarray:
    canvas.save(path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    ("width_um", "expected"),
    [(3.0, None), (3.6, 1), (100, 20), (178.0, 20), (178.6, 50), (20_000, 5000), (1e9, 50_000)],
)
def test_scale_bars_are_round_and_under_a_third(width_um: float, expected: int | None) -> None:
    assert scale_um(width_um) == expected


def test_a_scale_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    canvas = Canvas(4, 2)
    canvas.scale_bar(Box(1, 0.5, 2, 1), width_um=400)  # 100 µm are half an inch
    assert [text.get_text() for text in canvas.axis.texts] == ["100 µm"]
    rgb = drawn(canvas, tmp_path / "a.png")
    row = rgb[round((1.5 - 0.09 - 0.02) * DPI)]
    black = np.flatnonzero((row < 60).all(axis=1))
    assert black[0] == pytest.approx(1.09 * DPI, abs=2)
    assert black[-1] == pytest.approx(1.59 * DPI, abs=2)


def test_a_picture_fills_its_box(tmp_path: Path) -> None:
    canvas = Canvas(2, 2)
    canvas.picture(Box(0.5, 1, 1, 0.5), np.full((3, 3, 3), (200, 0, 0), np.uint8))
    rgb = drawn(canvas, tmp_path / "a.png")
    ys, xs = np.nonzero((rgb == (200, 0, 0)).all(axis=2))
    assert [ys.min(), ys.max(), xs.min(), xs.max()] == pytest.approx([150, 224, 75, 224], abs=1)


@pytest.mark.parametrize("name", ["a" * 500, "名前 " * 100, "$x_{" * 100, "a\nb" * 100])
def test_long_words_are_cut_in_the_middle(name: str, tmp_path: Path) -> None:
    canvas = Canvas(4, 1)
    text = canvas.text(0.1, 0.1, name, widest=2.0)
    assert "…" in text.get_text()
    assert len(text.get_text()) > 5
    rgb = drawn(canvas, tmp_path / "a.png")
    ink = np.nonzero((rgb < 200).any(axis=(0, 2)))[0]
    assert ink[0] >= 0.1 * DPI - 2
    assert ink[-1] <= 2.1 * DPI + 2


def test_short_words_stay() -> None:
    assert Canvas(4, 1).text(0.1, 0.1, "a  $b$\n", widest=2.0).get_text() == "a $b$"


@pytest.mark.parametrize(
    ("top", "ticks"),
    [(1.0, ["0", "0.25", "0.5", "0.75", "1"]), (0.125, ["0", "0.05", "0.1"]), (2.0, ["0", "0.5", "1", "1.5", "2"])],
)
def test_a_colour_bar_runs_from_0_to_its_top(top: float, ticks: list[str], tmp_path: Path) -> None:
    canvas = Canvas(3, 2)
    canvas.colour_bar(Box(0.5, 0.5, 2, 0.5), top, ("what", "how much"), even=top / 2)
    assert [text.get_text() for text in canvas.axis.texts] == [*ticks, "what", "how much"]
    rgb = drawn(canvas, tmp_path / "a.png").astype(int)
    row = rgb[round((1.0 + 0.12 + 0.06) * DPI)]
    np.testing.assert_allclose(row[round(0.52 * DPI)], (68, 1, 84), atol=12)
    np.testing.assert_allclose(row[round(2.48 * DPI)], (253, 231, 37), atol=12)
    assert (row[round(1.5 * DPI) - 3 : round(1.5 * DPI) + 3] > 240).all(axis=1).any()  # the mark, white on the bar
