"""Tiles and tissue as GeoJSON that QuPath opens (File, Import objects from file) and any GIS library reads.

Coordinates are level-0 pixels, x to the right and y down, as QuPath has them. The properties are those that QuPath
reads since 0.4: `objectType`, `name`, `color`, `classification`, `measurements`, `isLocked`.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mil.colours import NO_ATTENTION, rgb_of
from mil.shapes import Polygon, ranked, tile_boxes
from tiling.bag import Bag
from tiling.output import replacing, written_name

_NAMESPACE = uuid.UUID("6f1b0a52-7a2e-5b0e-9a57-2a5c8f1f6d0b")  # of the ids that are made here
_TISSUE_RGB = (90, 90, 90)
_DECIMALS = 2  # of a pixel, as QuPath itself writes them


def write_geojson(path: Path, bag: Bag, tissue: list[Polygon], attention: np.ndarray | None) -> None:
    """Write the tiles of a bag and the outlines of its tissue as a FeatureCollection, whole or not at all.

    `attention` float (N,), None for a pooling without one. The same bag and attention give the same bytes.
    """
    content = {"type": "FeatureCollection", "features": features(bag, tissue, attention)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def features(bag: Bag, tissue: list[Polygon], attention: np.ndarray | None) -> list[dict[str, Any]]:
    """A locked annotation of the tissue, if there is some, then a tile object for each tile, the best first.

    A tile has its attention, its rank (1 is the best; by score, where there is no attention), score and share of
    tissue as measurements: the finite ones.
    """
    order = ranked(bag, attention)
    shades = [NO_ATTENTION] * len(bag) if attention is None else rgb_of(attention / max(attention.max(), 1e-300))
    boxes = tile_boxes(bag)
    found = _tissue(bag, tissue)
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


def _feature(
    bag: Bag, kind: str, name: str, geometry: dict[str, Any], group: str, rgb: Sequence[int],
    measured: Mapping[str, float], **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A feature; its id depends on its slide and place alone, so that QuPath knows it again."""
    known = {key: round(float(value), 9) for key, value in measured.items() if np.isfinite(value)}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{written_name(bag.header.slide_id)} {json.dumps(geometry)}")),
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


def _corners(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])


def _ring(points: np.ndarray) -> list[list[float]]:
    return np.round(points, _DECIMALS).tolist()
