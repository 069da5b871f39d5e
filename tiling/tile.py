"""One slide to one bag: the one place where reading, tissue, ranking and encoding meet."""

import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tiling.bag import Bag, BagHeader
from tiling.codec import CODECS, SMALL_CHROMA, SMALL_QUALITY, decode_overview, encode_overview
from tiling.errors import InputError
from tiling.places import Look, Places
from tiling.rank import RANKS, Choice, Grid, Picture, choose, make_grid, mean_per_cell, tissue_share
from tiling.resample import resize
from tiling.slide import Slide, open_slide
from tiling.spec import TileSpec
from tiling.view import View, look, overview_of
from tiling.whole import whole_picture

NO_TISSUE = "no tissue was found, or no cell has enough of it; look at the slide, or lower --min-tissue"

Encoded = tuple[bytes, bytes]

_MOST_TRIED = 1.5  # times the tiles of a bag


def tile_slide(
    path: Path,
    spec: TileSpec,
    slide_id: str | None = None,
    mpp: float | None = None,
    default_mpp: float | None = None,
    score_map: np.ndarray | None = None,
    look: Look | None = None,
) -> Bag:
    """The bag of the slide at `path`; it has no tiles where there is no tissue.

    `mpp` (µm per level-0 pixel) overrides what the file says, `default_mpp` stands in where it says nothing. A
    `score_map`, float (H, W) over the whole slide, ranks cells by its mean in them, in place of `spec.rank`. `look`
    gives the map of attention for an overview, RGB uint8 (H, W, 3), where the spec asks for one. Raises SlideError
    where the slide cannot be read.
    """
    slide = open_slide(path)
    mpp, mpp_from = _mpp_of(slide, mpp, default_mpp)
    grid = make_grid(slide.width_px, slide.height_px, spec.downsample_for(slide, mpp), spec.size)
    given = None if score_map is None else mean_per_cell(score_map, grid, slide.width_px, slide.height_px)
    if spec.whole is not None:
        cut = _whole(slide, grid, spec, spec.whole)
    elif spec.needs_chipnet and given is None:
        cut = _picked(slide, grid, spec, look)
    else:
        cut = _best(slide, grid, spec, given)
    return _bag(path, slide, spec, cut, slide_id or path.stem, (mpp, mpp_from))


def glance(
    path: Path,
    spec: TileSpec,
    slide_id: str | None = None,
    mpp: float | None = None,
    default_mpp: float | None = None,
) -> Bag:
    """The bag of the slide at `path` as `tile_slide` would make it, with its overview and without the pixels of tiles.

    Where a slide is sketched for want of a pyramid, places and scores are those before any tile was looked at, and the
    overview lacks what tiles would have added to it.
    Raises SlideError where the slide cannot be read.
    """
    slide = open_slide(path)
    mpp, mpp_from = _mpp_of(slide, mpp, default_mpp)
    grid = make_grid(slide.width_px, slide.height_px, spec.downsample_for(slide, mpp), spec.size)
    if spec.whole is not None:
        cut = _whole(slide, grid, spec, spec.whole)
    else:
        view = look(slide, grid, spec.instances, spec.size)
        tissue = view.tissue()
        scores = RANKS[spec.rank].score(Picture(view.rgb, tissue, view.seen, view.bytes), grid)
        choice = choose(scores, tissue_share(tissue, grid), spec.instances, spec.min_tissue)
        overview, downsample = overview_of(view.rgb, slide, grid)
        cut = _Cut(_on_grid(choice, grid), [], encode_overview(overview), downsample, view.share_seen)
    return replace(_bag(path, slide, spec, cut, slide_id or path.stem, (mpp, mpp_from)), tiles=None, small=None)


def _bag(
    path: Path, slide: Slide, spec: TileSpec, cut: "_Cut", slide_id: str, mpp_and_source: tuple[float | None, str]
) -> Bag:
    places, (mpp, mpp_from) = cut.places, mpp_and_source
    header = BagHeader(
        slide_id=slide_id,
        slide_path=os.path.abspath(path),
        slide_bytes=path.stat().st_size,
        width_px=slide.width_px,
        height_px=slide.height_px,
        mpp=mpp,
        mpp_from=mpp_from,
        vendor=slide.vendor,
        spec=asdict(spec),
        codec=spec.codec,
        tiles=len(places.x0),
        side0_px=places.side0_px,
        overview_downsample=cut.overview_downsample,
        overview_seen=cut.overview_seen,
        train_px=spec.train_px,
        picked=places.picked,
    )
    return Bag(
        header, tuple(tile for tile, _ in cut.pictures), places.x0, places.y0, places.score, places.tissue,
        cut.overview, None if spec.train_px is None else tuple(small for _, small in cut.pictures),
    )  # fmt: skip


def _mpp_of(slide: Slide, given: float | None, default: float | None) -> tuple[float | None, str]:
    """µm per level-0 pixel, and where it is from: a table, the file, the default, or nowhere."""
    for mpp, source in ((given, "table"), (slide.mpp, "file"), (default, "default")):
        if mpp is not None:
            return mpp, source
    return None, ""


class _Cut(NamedTuple):
    """Where the tiles lie, for each its pixels and the small copy of it, and the slide's overview; all encoded."""

    places: Places
    pictures: list[Encoded]
    overview: bytes
    overview_downsample: float
    overview_seen: float


def _whole(slide: Slide, grid: Grid, spec: TileSpec, padding: str) -> _Cut:
    whole = whole_picture(slide, grid, spec.size, padding)
    places = _on_grid(whole.choice, grid)
    return _Cut(places, [_encode(whole.tile, spec)], encode_overview(whole.overview), whole.overview_downsample, 1.0)


def _best(slide: Slide, grid: Grid, spec: TileSpec, given: np.ndarray | None) -> _Cut:
    view = look(slide, grid, spec.instances, spec.size)
    choice, pictures = _cut(slide, grid, spec, view, given)
    overview, downsample = overview_of(view.rgb, slide, grid)
    return _Cut(_on_grid(choice, grid), pictures, encode_overview(overview), downsample, view.share_seen)


def _picked(slide: Slide, grid: Grid, spec: TileSpec, look_at: Look | None) -> _Cut:
    """The tiles that a ChipNet chooses, on the overview as it is stored: by those pixels it was trained."""
    if look_at is None:
        raise InputError(f"--rank {spec.rank} needs a ChipNet that looks; give --chipnet RUN")
    view = look(slide, grid, spec.instances, spec.size)
    overview, downsample = overview_of(view.rgb, slide, grid)
    stored = encode_overview(overview)
    places = spec.places_on(decode_overview(stored), (slide.width_px, slide.height_px), grid, look_at)
    corners = list(zip(places.x0.tolist(), places.y0.tolist(), strict=True))
    return _Cut(places, cut_tiles(slide, corners, places.side0_px, spec), stored, downsample, view.share_seen)


def cut_tiles(slide: Slide, corners0: list[tuple[int, int]], side0_px: int, spec: TileSpec) -> list[Encoded]:
    """The tiles with these corners (x0, y0), each with its small copy, encoded; SlideError where one is damaged."""
    tiles = {}
    for x0, y0 in sorted(corners0, key=lambda corner: corner[::-1]):  # from the top, as some files must be read
        tiles[x0, y0] = _encode(slide.read_region(x0, y0, side0_px, side0_px, (spec.size, spec.size)), spec)
    return [tiles[corner] for corner in corners0]


def _on_grid(choice: Choice, grid: Grid) -> Places:
    return Places(*grid.corners0(choice.cells), grid.side0_px, choice.score, choice.tissue, None)


def _cut(
    slide: Slide, grid: Grid, spec: TileSpec, view: View, given: np.ndarray | None
) -> tuple[Choice, list[Encoded]]:
    """The chosen cells, and for each its tile and the small copy of it, encoded.

    The scores of a sketch are estimates. A chosen cell is read, which makes its own score exact, and the choice is made
    again, until all that are chosen have been read: what cannot win is never decoded. Where estimates promise too much,
    only so many are tried, and the best of what was read is taken.
    """
    # A map that is given is used whoever else would have ranked.
    rank, is_sketch = RANKS["tissue" if given is not None else spec.rank], view.is_sketch
    tiles: dict[int, Encoded] = {}
    most = math.ceil(_MOST_TRIED * spec.instances)
    while True:
        tissue = view.tissue()
        scores = rank.score(Picture(view.rgb, tissue, view.seen, view.bytes), grid) if given is None else given
        share = tissue_share(tissue, grid)
        if len(tiles) >= most:
            share[~np.isin(np.arange(share.size).reshape(share.shape), list(tiles))] = 0
        choice = choose(scores, share, spec.instances, spec.min_tissue)
        cells = choice.cells.tolist()
        unread = [cell for cell in cells if cell not in tiles][: most - len(tiles)]
        unread.sort()  # from the top, as some files must be read
        for cell, x0, y0 in zip(unread, *grid.corners0(np.array(unread, np.int64)), strict=True):
            rgb = slide.read_region(x0, y0, grid.side0_px, grid.side0_px, (spec.size, spec.size))
            tiles[cell] = _encode(rgb, spec)
            if is_sketch:
                view.look_closer(cell // grid.columns, cell % grid.columns, rgb)
        if not (unread and is_sketch and given is None and rank.looks_closer):
            return choice, [tiles[cell] for cell in cells]


def _encode(rgb: np.ndarray, spec: TileSpec) -> Encoded:
    """A tile, and the small copy of it where the settings ask for one, as bytes."""
    encode = CODECS[spec.codec].encode
    tile = encode(rgb, spec.quality, spec.chroma)
    if spec.train_px is None:
        return tile, b""
    return tile, encode(resize(rgb, (spec.train_px, spec.train_px)), SMALL_QUALITY, SMALL_CHROMA)
