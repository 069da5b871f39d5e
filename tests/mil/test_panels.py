"""Panels in rows, and figures that are whole."""

import math
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from PIL import Image

from mil.intervals import Estimate
from mil.panels import legend, name_left, panels, same_range, save, title, wrapped


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (5, 1, 5), (6, 2, 3), (8, 2, 4), (11, 3, 4)])
def test_rows_are_about_alike(count: int, rows: int, columns: int) -> None:
    figure, (above, below) = panels(count, 2.0, 1.0)
    places = [axis.get_subplotspec() for axis in above]
    assert len(above) == len(below) == count
    assert len(figure.axes) == 2 * count  # what is left over of the grid is gone
    assert places[0].get_gridspec().get_geometry() == (2 * rows, columns)
    name_left(above, "loss")
    assert [bool(axis.get_ylabel()) for axis in above] == [i % columns == 0 for i in range(count)]
    plt.close(figure)


def test_same_range_holds_every_curve() -> None:
    figure, (axes,) = panels(2, 1.0)
    axes[0].set_ylim(0, 2)
    axes[1].set_ylim(-1, 1)
    same_range(axes)
    assert [axis.get_ylim() for axis in axes] == [(-1, 2), (-1, 2)]
    plt.close(figure)


def test_one_entry_a_kind_of_line_in_the_legend() -> None:
    figure, (axes,) = panels(2, 1.0)
    for axis, label in zip([axes[0], axes[0], axes[1]], ["a", "a", "b"], strict=True):
        axis.plot([0, 1], label=label)
    legend(figure, axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tumour", "tumour"),
        ("two\nlines and\ta tab", "two lines\nand a tab"),
        ("one two three four five six", "one two\nthree four …"),
        ("x" * 25, "x" * 10 + "\n" + "x" * 10 + " …"),
        ("", ""),
    ],
)
def test_wrapped(name: str, expected: str) -> None:
    assert wrapped(name, 10) == expected


def test_names_are_no_formulas_and_any_script_is_written(tmp_path: Path) -> None:
    figure, (axes,) = panels(1, 1.0)
    title(axes[0], "$\\broken formula$ 日本", "AUC", Estimate(0.5, math.nan, 1))
    assert axes[0].get_title() == "$\\broken formula$ 日本\nAUC 0.500 (? to 1.000)"
    save(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert not plt.fignum_exists(figure.number)
