"""The pictures of a slide and the record of what to say of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mil.portrait import portray, read_record, save_record
from tests.mil.drawn import a_bag


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_pictures_and_places_in_the_order_of_attention(tmp_path: Path) -> None:
    bag = a_bag([(100, 40), (150, 40), (380, 180)])
    found = portray(tmp_path, bag, np.array([0.2, 0.7, 0.1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "overview.jpg", "thumb.jpg", "tile-01.jpg", "tile-02.jpg", "tile-03.jpg",
    ]  # fmt: skip
    assert [size(tmp_path / name) for name in ("overview.jpg", "thumb.jpg", "tile-01.jpg")] == [
        (200, 100), (144, 72), (16, 16),
    ]  # fmt: skip
    assert found["boxes"] == [
        {"rank": 1, "x0": 150, "y0": 40, "width0_px": 50, "height0_px": 50, "colour": "#fde724", "attention": 0.7},
        {"rank": 2, "x0": 100, "y0": 40, "width0_px": 50, "height0_px": 50, "colour": "#365b8c", "attention": 0.2},
        {"rank": 3, "x0": 380, "y0": 180, "width0_px": 20, "height0_px": 20, "colour": "#46317e", "attention": 0.1},
    ]  # fmt: skip
    assert found["attention"] == {"top": 0.7, "even": pytest.approx(1 / 3)}
    assert [(tile["file"], tile["score"]) for tile in found["tiles"]] == [
        ("tile-01.jpg", 0.5), ("tile-02.jpg", 0.9), ("tile-03.jpg", pytest.approx(0.1)),
    ]  # fmt: skip
    overview = found["overview"]
    assert overview["scale"] == {"length0_px": 100, "label": "200 µm"}
    assert len(overview["tissue"]) == 1
    assert overview["tissue"][0].startswith("M")
    assert overview["tissue"][0].endswith("Z")
    assert dict(found["facts"])["Extent"] == "0.8 × 0.4 mm"
    assert dict(found["facts"])["Tiles"] == "3 of 50 px (100 µm)"


def test_without_attention_tiles_are_orange_and_as_the_tiler_ranked_them(tmp_path: Path) -> None:
    found = portray(tmp_path, a_bag([(100, 40), (150, 40)], mpp=None))
    assert [(box["x0"], box["colour"], box["attention"]) for box in found["boxes"]] == [
        (100, "#e69f00", None), (150, "#e69f00", None),
    ]  # fmt: skip
    assert found["attention"] is None
    assert found["overview"]["scale"] is None
    assert dict(found["facts"])["Scale"] == "unknown"


def test_map_of_a_chipnet_lies_on_the_square_of_the_slide(tmp_path: Path) -> None:
    map_GG = np.array([[0.7, 0.1], [0.1, 0.1]])
    found = portray(tmp_path, replace(a_bag([(100, 40)]), tiles=None), None, map_GG)
    assert found["overview"]["map"] == {
        "file": "map.png", "x0": 0, "y0": -100, "side0_px": 400, "top": 0.7, "even": 0.25,
    }  # fmt: skip
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.getpixel((0, 0)) == (253, 231, 36, 130)
    assert found["tiles"] == []
    assert len(found["boxes"]) == 1


def test_many_tiles_have_no_pictures_and_more_no_boxes(tmp_path: Path) -> None:
    found = portray(tmp_path, a_bag([(index % 350, 0) for index in range(1010)]))
    assert (len(found["tiles"]), len(found["boxes"]), found["count"]) == (16, 1000, 1010)


def test_pictures_of_an_earlier_scoring_go_with_its_record(tmp_path: Path) -> None:
    for corners in ([(100, 40), (150, 40), (200, 40)], [(100, 40)]):
        save_record(tmp_path, {"shown": portray(tmp_path, a_bag(corners))})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "overview.jpg",
        "slide.json",
        "thumb.jpg",
        "tile-01.jpg",
    ]
    assert json.loads((tmp_path / "slide.json").read_text())["shown"]["count"] == 1


@pytest.mark.parametrize("content", [None, "{", "[1]", "\udcff"])
def test_a_record_of_no_use_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "slide.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_record(tmp_path) is None
