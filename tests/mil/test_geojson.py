"""The file that QuPath opens: coordinates, properties, and nothing that is no number."""

import dataclasses
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mil.geojson import features, write_geojson
from mil.picture import colours_of
from mil.shapes import cell_boxes, ranked
from tests.mil.drawn import a_bag

SQUARE = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 40.004], [10.0, 20.0]])
ATTENTION = np.array([0.25, 0.75])


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def test_tiles_are_closed_rings_in_level_0_pixels(tmp_path: Path) -> None:
    bag = a_bag([(-10, 20), (380, 100)], slide_id="a $x$ é")
    write_geojson(tmp_path / "a.geojson", bag, [], ATTENTION)
    content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"), parse_constant=no_constant)
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[380, 100], [400, 100], [400, 150], [380, 150], [380, 100]]],
    }
    assert second["geometry"]["coordinates"] == [[[0, 20], [40, 20], [40, 70], [0, 70], [0, 20]]]
    assert first["properties"] == {
        "objectType": "tile",
        "name": "tile 1 of 2, attention 0.750",
        "color": [94, 201, 97],
        "classification": {"name": "gigabag tile", "color": [230, 159, 0]},
        "measurements": {"attention": 0.75, "rank": 1.0, "score": 0.1, "tissue": 0.5},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.geojson"]


def test_a_tile_has_the_colour_that_it_has_in_the_picture() -> None:
    bag = a_bag([(0, 0), (50, 50)])
    for attention in (ATTENTION, np.array([0.5, 0.5])):
        found = [each["properties"]["color"] for each in features(bag, [], attention)]
        pictured = colours_of(bag, attention)[ranked(bag, attention), :3]
        np.testing.assert_allclose(found, 255 * pictured, atol=1)


def test_cells_of_a_map_lie_on_its_square_and_end_with_the_slide() -> None:
    # The square of 400 x 200 px is 400 px wide and begins 100 px above the slide: the outer rows have none of it.
    map_GG = np.zeros((4, 4))
    map_GG[1, 0], map_GG[2, 3], map_GG[0, 0] = 0.75, 0.1234567891, 0.1
    *cells, tile = features(a_bag([(0, 0)]), [], None, map_GG)
    assert tile["properties"]["objectType"] == "tile"
    assert [cell["properties"]["name"] for cell in cells] == [
        f"map row {row}, column {column} of 4, attention {map_GG[row - 1, column - 1]:.3f}"
        for row in (2, 3)
        for column in (1, 2, 3, 4)
    ]
    assert cells[0]["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]],
    }
    assert cells[0]["properties"] == {
        "objectType": "detection",
        "name": "map row 2, column 1 of 4, attention 0.750",
        "color": [253, 231, 36],
        "classification": {"name": "gigabag map", "color": [230, 159, 0]},
        "measurements": {"attention": 0.75},
    }
    assert cells[7]["geometry"]["coordinates"] == [[[300, 100], [400, 100], [400, 200], [300, 200], [300, 100]]]
    assert cells[7]["properties"]["measurements"] == {"attention": 0.123456789}
    assert cells[1]["properties"]["color"] == [68, 1, 84]


def test_cells_that_the_edge_cuts_are_clipped_and_slivers_left_out() -> None:
    # Rows of 400 / 3 px; the first begins 50 px above the slide.
    cells = features(a_bag([(0, 0)], height_px=300), [], None, np.full((3, 3), 1 / 9))[:-1]
    assert [cell["geometry"]["coordinates"][0][0] for cell in cells[::3]] == [[0, 0], [0, 83.33], [0, 216.67]]
    assert cells[-1]["geometry"]["coordinates"][0][2] == [400, 300]
    assert cells[0]["properties"]["color"] == cells[4]["properties"]["color"] == [32, 144, 140]  # half of twice even
    # Of 28 rows the slide has 14; but for rounding, the arithmetic would find a sliver of one more.
    bag, map_GG = a_bag([(0, 0)], 58, 29), np.full((28, 28), 1 / 784)
    heights = np.ptp(cell_boxes(bag, 28)[:, 0, 1::2], axis=1)
    assert 0 < heights[heights < 1].max() < 1e-9
    assert len(features(bag, [], None, map_GG)) == 14 * 28 + 1


def test_without_attention_the_order_is_that_of_the_bag() -> None:
    found = features(a_bag([(0, 0), (50, 50)]), [], None)
    assert [each["properties"]["name"] for each in found] == ["tile 1 of 2", "tile 2 of 2"]
    assert [each["properties"]["color"] for each in found] == [[230, 159, 0]] * 2
    assert found[0]["properties"]["measurements"] == {"rank": 1.0, "score": 0.9, "tissue": 0.5}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_numbers_are_written(value: float, tmp_path: Path) -> None:
    bag = dataclasses.replace(a_bag([(0, 0)]), score=np.array([value]))
    write_geojson(tmp_path / "a.geojson", bag, [], None)
    content = json.loads((tmp_path / "a.geojson").read_text(), parse_constant=no_constant)
    assert content["features"][0]["properties"]["measurements"] == {"rank": 1.0, "tissue": 0.5}


@pytest.mark.parametrize(("pieces", "kind"), [(1, "Polygon"), (2, "MultiPolygon")])
def test_tissue_comes_first_as_one_locked_annotation(pieces: int, kind: str) -> None:
    tissue, tile = features(a_bag([(0, 0)]), [[SQUARE, SQUARE]] * pieces, None)
    rings = [[[10, 20], [30, 20], [30, 40.0], [10, 20]]] * 2
    assert tissue["geometry"] == {"type": kind, "coordinates": rings if pieces == 1 else [rings] * 2}
    properties = tissue["properties"]
    assert (properties["objectType"], properties["name"], properties["isLocked"]) == ("annotation", "tissue", True)
    assert "measurements" not in properties
    assert tile["properties"]["objectType"] == "tile"


def test_ids_are_those_of_the_place() -> None:
    corners = [(0, 0), (50, 50)]
    ids = [each["id"] for each in features(a_bag(corners), [], ATTENTION)]
    assert ids == [each["id"] for each in features(a_bag(corners), [], ATTENTION)]
    assert ids[::-1] == [each["id"] for each in features(a_bag(corners), [], None)]
    assert not {*ids} & {each["id"] for each in features(a_bag(corners, slide_id="b"), [], ATTENTION)}
    assert len({uuid.UUID(each) for each in ids}) == 2


def test_a_cell_and_a_tile_of_one_place_have_ids_of_their_own() -> None:
    cell, tile = features(a_bag([(0, 0)], 50, 50, tissue=None), [], None, np.ones((1, 1)))
    assert cell["geometry"] == tile["geometry"]
    assert cell["id"] != tile["id"]


def test_a_name_that_is_no_text_is_written(tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson", a_bag([(0, 0)], slide_id="a\udcff"), [], None)
    assert json.loads((tmp_path / "a.geojson").read_text())["features"]
