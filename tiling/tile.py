"""One slide to one bag: the one place where reading, tissue, ranking and encoding meet."""

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tiling.bag import Bag, BagHeader
from tiling.codec import CODECS, SMALL_CHROMA, SMALL_QUALITY, encode_overview
from tiling.errors import InputError, SlideError
from tiling.rank import RANKS, Choice, Grid, Picture, choose, make_grid, mean_per_cell, tissue_share
from tiling.resample import resize
from tiling.settings import at_least, between, check, setting
from tiling.slide import Slide, open_slide
from tiling.view import View, look, overview_of
from tiling.whole import whole_picture

DEFAULT_LONGEST_EDGE_PX = 20000

NO_TISSUE = "no tissue was found, or no cell has enough of it; look at the slide, or lower --min-tissue"

_SCALES = ("longest_edge", "mpp", "magnification", "downsample", "whole")
_UM_AT_ONE = 10.0  # µm per pixel at a magnification of 1, as is customary
_MOST_TRIED = 1.5  # times the tiles of a bag
_LEAST_PX = 8  # of a reduced slide's longer side
_MOST_ENLARGED = 16  # times; beyond, a tile shows no more than a few blurred pixels


@dataclass(frozen=True)
class TileSpec:
    """How tiles are chosen, cut and stored; bags of one spec can be trained on together."""

    instances: int = setting(16, "tiles kept of a slide, at most; 1 with --whole")
    size: int = setting(1024, "side of a tile in pixels")
    longest_edge: int | None = setting(
        None,
        "scale: bring the slide's longest side to this many pixels, enlarging a smaller slide "
        f"({DEFAULT_LONGEST_EDGE_PX} if no scale is given)",
    )
    mpp: float | None = setting(None, "scale: micrometres per pixel of the tiles")
    magnification: float | None = setting(None, "scale: that of the tiles, as of an objective (40 is about 0.25 µm/px)")
    downsample: float | None = setting(None, "scale: level-0 pixels per pixel of the tiles")
    whole: Literal["black", "white", "edge"] | None = setting(
        None,
        "scale: the whole picture is one tile, for photographs; its longer side is --size, and what it lacks to a "
        "square is black, white, or its edge drawn out",
    )
    rank: Literal["tissue", "darkness", "texture", "uniform"] = setting("tissue", "what makes a tile good")
    min_tissue: float = setting(0.1, "share of a tile that must be tissue")
    codec: Literal["jpeg", "webp", "png", "raw"] = setting(
        "jpeg", "how tiles are stored: webp and png lose nothing, raw is bare pixels"
    )
    quality: int = setting(90, "JPEG quality, 1 to 100")
    chroma: Literal[420, 422, 444] = setting(420, "JPEG colour resolution: 444 is full, 420 a quarter of the pixels")
    train_px: int | None = setting(
        None, "store each tile also at this size, so that training at it, or below, reads and decodes far less"
    )

    def __post_init__(self) -> None:
        scales = {name: getattr(self, name) for name in _SCALES}
        given = [name for name, value in scales.items() if value is not None]
        if len(given) > 1:
            raise InputError(
                f"give one scale, not {len(given)} ({', '.join(given)}); null takes one back that a YAML file gives"
            )
        if self.whole is not None:
            if (self.rank, self.min_tissue) != (TileSpec.rank, TileSpec.min_tissue):
                raise InputError("--rank and --min-tissue choose among tiles, and --whole gives one; leave them out")
            if self.instances not in (1, TileSpec.instances):
                raise InputError(f"--whole gives one tile, not --instances {self.instances}; leave one of them out")
            object.__setattr__(self, "instances", 1)
        if not given:
            object.__setattr__(self, "longest_edge", DEFAULT_LONGEST_EDGE_PX)
        check(
            self, InputError, instances=at_least(1), size=at_least(8), longest_edge=at_least(8), mpp=at_least(0.01),
            magnification=at_least(0.1), downsample=at_least(0.01), min_tissue=between(0, 1), quality=between(1, 100),
            train_px=at_least(1),
        )  # fmt: skip
        if self.train_px is not None and self.train_px >= self.size:
            raise InputError(f"--train-px must be less than --size, which is {self.size}, not {self.train_px}")

    def downsample_for(self, slide: Slide, mpp: float | None) -> float:
        """Level-0 pixels per tile pixel on this slide; raises SlideError where its scale is needed but unknown."""
        if self.whole is not None:
            downsample = max(slide.width_px, slide.height_px) / self.size
        elif self.downsample is not None:
            downsample = self.downsample
        elif self.longest_edge is not None:
            downsample = max(slide.width_px, slide.height_px) / self.longest_edge
        elif self.mpp is not None and mpp is not None:
            downsample = self.mpp / mpp
        elif self.magnification is not None and slide.magnification is not None:
            downsample = slide.magnification / self.magnification
        elif self.magnification is not None and mpp is not None:
            downsample = _UM_AT_ONE / mpp / self.magnification
        else:
            raise SlideError(
                f"{str(slide.path)!r} does not say its µm per pixel"
                + (" or its magnification" if self.magnification is not None else "")
                + "; give it in the column mpp of a slides table or as --default-mpp, "
                "or choose the scale by --longest-edge or --downsample"
            )
        if downsample > 1 and max(slide.width_px, slide.height_px) < _LEAST_PX * downsample:
            raise SlideError(
                f"{str(slide.path)!r} has only {slide.width_px} × {slide.height_px} px and would be reduced "
                f"{downsample:.0f} times, to a few pixels; check the scale (--mpp is in micrometres)"
            )
        if downsample < 1 / _MOST_ENLARGED:
            raise SlideError(
                f"{str(slide.path)!r} has only {slide.width_px} × {slide.height_px} px and would be enlarged "
                f"{1 / downsample:.0f} times (at most {_MOST_ENLARGED}); "
                "ask for less with --longest-edge, --mpp, --downsample, or --size beside --whole"
            )
        return downsample


def tile_slide(
    path: Path,
    spec: TileSpec,
    slide_id: str | None = None,
    mpp: float | None = None,
    default_mpp: float | None = None,
    score_map: np.ndarray | None = None,
) -> Bag:
    """The bag of the slide at `path`; it has no tiles where there is no tissue.

    `mpp` (µm per level-0 pixel) overrides what the file says, `default_mpp` stands in where it says nothing. A
    `score_map`, float (H, W) over the whole slide, ranks cells by its mean in them, in place of `spec.rank`. Raises
    SlideError where the slide cannot be read.
    """
    slide = open_slide(path)
    mpp, mpp_from = _mpp_of(slide, mpp, default_mpp)
    grid = make_grid(slide.width_px, slide.height_px, spec.downsample_for(slide, mpp), spec.size)
    given = None if score_map is None else mean_per_cell(score_map, grid, slide.width_px, slide.height_px)
    cut = _best(slide, grid, spec, given) if spec.whole is None else _whole(slide, grid, spec, spec.whole)
    return _bag(path, slide, spec, grid, cut, slide_id or path.stem, (mpp, mpp_from))


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
        cut = _Cut(choice, [], *overview_of(view.rgb, slide, grid), float(view.seen[view.inside].mean()))
    bag = _bag(path, slide, spec, grid, cut, slide_id or path.stem, (mpp, mpp_from))
    return replace(bag, tiles=None, small=None)


def _bag(
    path: Path, slide: Slide, spec: TileSpec, grid: Grid, cut: "_Cut", slide_id: str,
    mpp_and_source: tuple[float | None, str],
) -> Bag:  # fmt: skip
    choice, (mpp, mpp_from) = cut.choice, mpp_and_source
    x0, y0 = grid.corners0(choice.cells)
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
        tiles=len(choice.cells),
        side0_px=grid.side0_px,
        overview_downsample=cut.overview_downsample,
        overview_seen=cut.overview_seen,
        train_px=spec.train_px,
    )
    return Bag(
        header, tuple(tile for tile, _ in cut.pictures), x0, y0, choice.score, choice.tissue,
        encode_overview(cut.overview), None if spec.train_px is None else tuple(small for _, small in cut.pictures),
    )  # fmt: skip


def _mpp_of(slide: Slide, given: float | None, default: float | None) -> tuple[float | None, str]:
    """µm per level-0 pixel, and where it is from: a table, the file, the default, or nowhere."""
    for mpp, source in ((given, "table"), (slide.mpp, "file"), (default, "default")):
        if mpp is not None:
            return mpp, source
    return None, ""


class _Cut(NamedTuple):
    """The chosen cells, for each its tile and the small copy of it, encoded, and the slide's overview."""

    choice: Choice
    pictures: list[tuple[bytes, bytes]]
    overview: np.ndarray
    overview_downsample: float
    overview_seen: float


def _whole(slide: Slide, grid: Grid, spec: TileSpec, padding: str) -> _Cut:
    whole = whole_picture(slide, grid, spec.size, padding)
    return _Cut(whole.choice, [_encode(whole.tile, spec)], whole.overview, whole.overview_downsample, 1.0)


def _best(slide: Slide, grid: Grid, spec: TileSpec, given: np.ndarray | None) -> _Cut:
    view = look(slide, grid, spec.instances, spec.size)
    choice, pictures = _cut(slide, grid, spec, view, given)
    return _Cut(choice, pictures, *overview_of(view.rgb, slide, grid), float(view.seen[view.inside].mean()))


def _cut(
    slide: Slide, grid: Grid, spec: TileSpec, view: View, given: np.ndarray | None
) -> tuple[Choice, list[tuple[bytes, bytes]]]:
    """The chosen cells, and for each its tile and the small copy of it, encoded.

    The scores of a sketch are estimates. A chosen cell is read, which makes its own score exact, and the choice is made
    again, until all that are chosen have been read: what cannot win is never decoded. Where estimates promise too much,
    only so many are tried, and the best of what was read is taken.
    """
    rank, is_sketch = RANKS[spec.rank], view.is_sketch
    tiles: dict[int, tuple[bytes, bytes]] = {}
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


def _encode(rgb: np.ndarray, spec: TileSpec) -> tuple[bytes, bytes]:
    """A tile, and the small copy of it where the settings ask for one, as bytes."""
    encode = CODECS[spec.codec].encode
    tile = encode(rgb, spec.quality, spec.chroma)
    if spec.train_px is None:
        return tile, b""
    return tile, encode(resize(rgb, (spec.train_px, spec.train_px)), SMALL_QUALITY, SMALL_CHROMA)
