"""Tissue, ChipNet's map and tiles as GeoJSON that QuPath opens (File, Import objects from file), and any GIS library.

Coordinates are level-0 pixels, x to the right and y down, as QuPath has them. The properties are those that QuPath
reads since 0.4: `objectType`, `name`, `color`, `classification`, `measurements`, `isLocked`.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mil.colours import NO_ATTENTION, rgb_of, top_of
from mil.shapes import Polygon, cell_boxes, ranked, tile_boxes
from tiling.bag import Bag
from tiling.output import replacing, written_name

_NAMESPACE = uuid.UUID("6f1b0a52-7a2e-5b0e-9a57-2a5c8f1f6d0b")  # of the ids that are made here
_TISSUE_RGB = (90, 90, 90)
_DECIMALS = 2  # of a pixel, as QuPath itself writes them


def write_geojson(
    path: Path, bag: Bag, tissue: list[Polygon], attention: np.ndarray | None, map_GG: np.ndarray | None = None
) -> None:
    """Write the outlines of a slide's tissue, the cells of a map and the tiles as a FeatureCollection.

    `attention` float (N,), None for a pooling without one; `map_GG` float (G, G) over the slide's `square_of`, None
    where there is none; each sums to 1. Whole or not at all; the same values give the same bytes.
    """
    content = {"type": "FeatureCollection", "features": features(bag, tissue, attention, map_GG)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def features(
    bag: Bag, tissue: list[Polygon], attention: np.ndarray | None, map_GG: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """A locked annotation of the tissue, if there is some; a detection for each cell of the map; a tile object a tile.

    Cells go row by row, those without a hundredth of a pixel of the slide left out, and have their attention as a
    measurement. Tiles go by rank, 1 being the best (by score, where there is no attention), and have attention, rank,
    score and share of tissue: the finite ones.
    """
    order = ranked(bag, attention)
    shades = [NO_ATTENTION] * len(bag) if attention is None else rgb_of(attention / top_of(attention))
    boxes = tile_boxes(bag)
    found = [*_tissue(bag, tissue), *([] if map_GG is None else _map(bag, map_GG))]
    for rank, index in enumerate(order, start=1):
        weight = {} if attention is None else {"attention": attention[index]}
        measured = {**weight, "rank": rank, "score": bag.score[index], "tissue": bag.tissue[index]}
        name = f"tile {rank} of {len(bag)}" + (f", attention {attention[index]:.3f}" if attention is not None else "")
        geometry = {"type": "Polygon", "coordinates": [_ring(_corners(*boxes[index].tolist()))]}
        found.append(_feature(bag, "tile", name, geometry, "gigabag tile", shades[index], measured))
    return found


def _tissue(bag: Bag, tissue: list[Polygon]) -> list[dict[str, Any]]:
    polygons = [[_ring(ring) for ring in polygon] for polygon in tissue]
    if not polygons:
        return []
    # A MultiPolygon of one is refused by some readers.
    one = len(polygons) == 1
    geometry = {"type": "Polygon" if one else "MultiPolygon", "coordinates": polygons[0] if one else polygons}
    return [_feature(bag, "annotation", "tissue", geometry, "gigabag tissue", _TISSUE_RGB, {}, isLocked=True)]


def _map(bag: Bag, map_GG: np.ndarray) -> Iterator[dict[str, Any]]:
    boxes = np.round(cell_boxes(bag, len(map_GG)), _DECIMALS).reshape(-1, 4)
    shades = rgb_of(map_GG.ravel() / top_of(map_GG))
    for index in np.flatnonzero((boxes[:, :2] < boxes[:, 2:]).all(axis=1)).tolist():
        row, column = divmod(index, len(map_GG))
        share = map_GG[row, column]
        name = f"map row {row + 1}, column {column + 1} of {len(map_GG)}, attention {share:.3f}"
        geometry = {"type": "Polygon", "coordinates": [_ring(_corners(*boxes[index].tolist()))]}
        yield _feature(bag, "detection", name, geometry, "gigabag map", shades[index], {"attention": share})


def _feature(
    bag: Bag, kind: str, name: str, geometry: dict[str, Any], group: str, rgb: Sequence[int],
    measured: Mapping[str, float], **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A feature; its id depends on its slide, class and place alone, so that QuPath knows it again."""
    known = {key: round(float(value), 9) for key, value in measured.items() if np.isfinite(value)}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{written_name(bag.header.slide_id)} {group} {json.dumps(geometry)}")),
        "geometry": geometry,
        "properties": {
            "objectType": kind,
            "name": name,
            "color": list(rgb),
            "classification": {"name": group, "color": list(rgb if kind == "annotation" else NO_ATTENTION)},
            **({"measurements": known} if known else {}),
            **more,
        },
    }


def _corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])


def _ring(points: np.ndarray) -> list[list[float]]:
    return np.round(points, _DECIMALS).tolist()
