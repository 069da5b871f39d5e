"""A slide as its page shows it: small pictures in a folder of its own, and a record of what to say of them.

The record is JSON, written when all pictures are there: a folder that has one is complete.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mil.canvas import scale_um
from mil.colours import NO_ATTENTION, rgb_of, top_of
from mil.markup import write
from mil.shapes import ranked, tile_boxes, tissue_polygons
from tiling.bag import Bag
from tiling.documents import read_json
from tiling.overview import square_of

RECORD = "slide.json"
TILES_SHOWN = 16  # with a picture; a bag has no more unless it was asked for
BOXES_SHOWN = 1000  # on the overview
TILE_PX, THUMB_PX = 512, 144  # longest sides, at most
_QUALITY = 85
_MOST_BYTES = 2**26  # of a record, which may have many outlines
_MAP_ALPHA = 130


def portray(
    folder: Path, bag: Bag, attention: np.ndarray | None = None, map_GG: np.ndarray | None = None
) -> dict[str, Any]:
    """Write the pictures of a slide into `folder`, and give what is to be said of them, as JSON has it.

    `attention` float (N,) and `map_GG` float (G, G) each sum to 1, and are None where there are none. The overview has
    outlines of tissue and boxes of tiles in level-0 pixels; `tiles` are those with a picture, the most attention first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rgb = bag.overview_rgb()
    order = ranked(bag, attention)[:BOXES_SHOWN].tolist()
    boxes = _boxes(bag, order, attention)
    return {
        "thumb": _save(folder / "thumb.jpg", rgb, THUMB_PX),
        "overview": {**_save(folder / "overview.jpg", rgb), **_overlay(folder, bag, map_GG)},
        "boxes": boxes,
        "tiles": _tiles(folder, bag, order, boxes),
        "count": len(bag),
        "attention": None if attention is None else {"top": top_of(attention), "even": 1 / len(bag)},
        "facts": facts(bag),
    }


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a slide, after which no picture that it does not name is left in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
    named = {RECORD, *_files(record)}
    for path in folder.glob("*.*"):
        if path.name not in named and path.suffix in (".jpg", ".png"):
            path.unlink()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a slide, None where there is none that can be read."""
    try:
        found = read_json(folder / RECORD, _MOST_BYTES)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def facts(bag: Bag) -> list[tuple[str, str]]:
    """What a bag says of its slide and of how it was tiled, a name and a value each."""
    header = bag.header
    found = [("File", Path(header.slide_path).name), ("Size", f"{header.width_px} × {header.height_px} px")]
    tile = f"{header.side0_px} px"
    if header.mpp is not None:
        size_mm = header.width_px * header.mpp / 1000, header.height_px * header.mpp / 1000
        found.append(("Extent", f"{size_mm[0]:.1f} × {size_mm[1]:.1f} mm"))
        tile += f" ({header.side0_px * header.mpp:.0f} µm)"
    scale = "unknown" if header.mpp is None else f"{header.mpp:.4g} µm per pixel, from the {header.mpp_from}"
    found += [("Scale", scale), ("Format", header.vendor or "unknown")]
    found += [("Tiles", f"{len(bag)} of {tile}"), ("Chosen by", _chosen_by(bag)), ("Tiled by", header.software)]
    return found


def _chosen_by(bag: Bag) -> str:
    picked, rank = bag.header.picked, str(bag.header.spec.get("rank", "unknown"))
    return rank if picked is None else f"{picked.by}: ChipNet run {picked.run}, fold {picked.folds}"


def _overlay(folder: Path, bag: Bag, map_GG: np.ndarray | None) -> dict[str, Any]:
    """What lies over the overview, in level-0 pixels."""
    header = bag.header
    found: dict[str, Any] = {
        "width0_px": header.width_px, "height0_px": header.height_px,
        "tissue": [_path(polygon) for polygon in tissue_polygons(bag)], "scale": None, "map": None,
    }  # fmt: skip
    if header.mpp is not None and (length_um := scale_um(header.width_px * header.mpp)) is not None:
        label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
        found["scale"] = {"length0_px": length_um / header.mpp, "label": label}
    if map_GG is not None:
        square = square_of(header.width_px, header.height_px)
        top = top_of(map_GG)
        heat = np.array(rgb_of((map_GG / top).ravel()), np.uint8).reshape(*map_GG.shape, 3)
        alpha = np.full((*map_GG.shape, 1), _MAP_ALPHA, np.uint8)
        write(folder / "map.png", _encoded(Image.fromarray(np.concatenate([heat, alpha], axis=2)), "png"))
        found["map"] = {"file": "map.png", **square._asdict(), "top": top, "even": 1 / map_GG.size}
    return found


def _path(polygon: Sequence[np.ndarray]) -> str:
    """Rings as the data of an SVG path, in whole level-0 pixels."""
    return "".join("M" + " ".join(f"{round(x)},{round(y)}" for x, y in ring[:-1].tolist()) + "Z" for ring in polygon)


def _boxes(bag: Bag, order: list[int], attention: np.ndarray | None) -> list[dict[str, Any]]:
    """Where tiles lie, in level-0 pixels, their colour as `#rrggbb`, and their weight, None where there is none."""
    weights = [None] * len(order) if attention is None else attention[order].tolist()
    rgbs = [NO_ATTENTION] * len(order) if attention is None else rgb_of(attention[order] / top_of(attention))
    corners = tile_boxes(bag)[order].tolist()
    return [
        {
            "rank": rank, "x0": left, "y0": top, "width0_px": right - left, "height0_px": bottom - top,
            "colour": "#{:02x}{:02x}{:02x}".format(*rgb), "attention": weight,
        }
        for rank, ((left, top, right, bottom), rgb, weight) in enumerate(zip(corners, rgbs, weights, strict=True), 1)
    ]  # fmt: skip


def _tiles(folder: Path, bag: Bag, order: list[int], boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tiles that get a picture; none where the bag was read without."""
    small_px = bag.header.train_px if bag.tiles is None else None
    if bag.tiles is None and small_px is None:
        return []
    return [
        {
            **_save(folder / f"tile-{box['rank']:02d}.jpg", bag.tile(index, small_px), TILE_PX),
            **box,
            "score": _finite(bag.score[index]),
            "tissue": _finite(bag.tissue[index]),
        }
        for index, box in zip(order[:TILES_SHOWN], boxes, strict=False)
    ]


def _save(path: Path, rgb: np.ndarray, longest_px: int | None = None) -> dict[str, Any]:
    """Write a picture as JPEG, reduced where it is larger; its name and size."""
    picture = Image.fromarray(rgb)
    if longest_px is not None:
        picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    write(path, _encoded(picture, "jpeg", quality=_QUALITY))
    return {"file": path.name, "width": picture.width, "height": picture.height}


def _encoded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _files(record: Mapping[str, Any]) -> list[str]:
    """The names of the pictures that a record speaks of."""
    shown = record.get("shown") or {}
    overview = shown.get("overview") or {}
    parts = [shown.get("thumb"), overview, overview.get("map"), *shown.get("tiles", ())]
    return [part["file"] for part in parts if part]
