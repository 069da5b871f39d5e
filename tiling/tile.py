"""One slide to one bag: the one place where reading, tissue, ranking and encoding meet."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tiling.bag import Bag, BagHeader
from tiling.codec import CODECS, SMALL_CHROMA, SMALL_QUALITY, encode_overview
from tiling.errors import InputError, SlideError
from tiling.rank import RANKS, Grid, choose, make_grid, tissue_share
from tiling.resample import resize
from tiling.settings import at_least, between, check, setting
from tiling.slide import Slide, open_slide
from tiling.tissue import tissue_mask

DEFAULT_LONGEST_EDGE_PX = 20000

NO_TISSUE = "no tissue was found, or no cell has enough of it; look at the slide, or lower --min-tissue"

_MAP_PX = 1280  # the longest side of the picture on which tissue is found, in whole pixels a cell
_CELL_PX = (8, 512)  # the fewest and most map pixels a cell gets
_OVERVIEW_PX = 1024
_MOST_ENLARGED = 16  # times; beyond, a tile shows no more than a few blurred pixels


@dataclass(frozen=True)
class TileSpec:
    """How tiles are chosen, cut and stored; bags of one spec can be trained on together."""

    instances: int = setting(16, "tiles kept of a slide, at most")
    size: int = setting(1024, "side of a tile in pixels")
    longest_edge: int | None = setting(
        None,
        "scale: bring the slide's longest side to this many pixels, enlarging a smaller slide "
        f"({DEFAULT_LONGEST_EDGE_PX} if no scale is given)",
    )
    mpp: float | None = setting(None, "scale: micrometres per pixel of the tiles")
    downsample: float | None = setting(None, "scale: level-0 pixels per pixel of the tiles")
    rank: Literal["tissue", "darkness", "uniform"] = setting("tissue", "what makes a tile good")
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
        scales = {name: getattr(self, name) for name in ("longest_edge", "mpp", "downsample")}
        given = [name for name, value in scales.items() if value is not None]
        if len(given) > 1:
            raise InputError(
                f"give one scale, not {len(given)} ({', '.join(given)}); null takes one back that a YAML file gives"
            )
        if not given:
            object.__setattr__(self, "longest_edge", DEFAULT_LONGEST_EDGE_PX)
        check(
            self, InputError, instances=at_least(1), size=at_least(8), longest_edge=at_least(8), mpp=at_least(0.01),
            downsample=at_least(0.01), min_tissue=between(0, 1), quality=between(1, 100),
            train_px=at_least(1),
        )  # fmt: skip
        if self.train_px is not None and self.train_px >= self.size:
            raise InputError(f"--train-px must be less than --size, which is {self.size}, not {self.train_px}")

    def downsample_for(self, slide: Slide, mpp: float | None) -> float:
        """Level-0 pixels per tile pixel on this slide; raises SlideError where its scale is needed but unknown."""
        if self.downsample is not None:
            downsample = self.downsample
        elif self.longest_edge is not None:
            downsample = max(slide.width_px, slide.height_px) / self.longest_edge
        elif self.mpp is not None and mpp is not None:
            downsample = self.mpp / mpp
        else:
            raise SlideError(
                f"{str(slide.path)!r} does not say its µm per pixel; give it in the column mpp of a slides table, "
                "or choose the scale by --longest-edge or --downsample"
            )
        if downsample < 1 / _MOST_ENLARGED:
            raise SlideError(
                f"{str(slide.path)!r} has only {slide.width_px} × {slide.height_px} px and would be enlarged "
                f"{1 / downsample:.0f} times (at most {_MOST_ENLARGED}); "
                "ask for less with --longest-edge, --mpp or --downsample"
            )
        return downsample


def tile_slide(path: Path, spec: TileSpec, slide_id: str | None = None, mpp: float | None = None) -> Bag:
    """The bag of the slide at `path`; it has no tiles where there is no tissue.

    `mpp` (µm per level-0 pixel) overrides what the file says. Raises SlideError where the slide cannot be read.
    """
    slide = open_slide(path)
    mpp = mpp if mpp is not None else slide.mpp
    grid = make_grid(slide.width_px, slide.height_px, spec.downsample_for(slide, mpp), spec.size)
    picture = read_map(slide, grid)
    mask = tissue_mask(picture)
    scores = RANKS[spec.rank](picture, mask, grid)
    choice = choose(scores, tissue_share(mask, grid), spec.instances, spec.min_tissue)
    x0, y0 = grid.corners0(choice.cells)
    encode = CODECS[spec.codec].encode
    tiles: list[bytes] = []
    small: list[bytes] = []
    for x, y in zip(x0.tolist(), y0.tolist(), strict=True):
        rgb = slide.read_region(x, y, grid.side0_px, grid.side0_px, (spec.size, spec.size))
        tiles.append(encode(rgb, spec.quality, spec.chroma))
        if spec.train_px is not None:
            small.append(encode(resize(rgb, (spec.train_px, spec.train_px)), SMALL_QUALITY, SMALL_CHROMA))
    overview, overview_downsample = overview_of(picture, slide, grid)
    header = BagHeader(
        slide_id=slide_id or path.stem,
        slide_path=os.path.abspath(path),
        slide_bytes=path.stat().st_size,
        width_px=slide.width_px,
        height_px=slide.height_px,
        mpp=mpp,
        vendor=slide.vendor,
        spec=asdict(spec),
        codec=spec.codec,
        tiles=len(tiles),
        side0_px=grid.side0_px,
        overview_downsample=overview_downsample,
        train_px=spec.train_px,
    )
    return Bag(
        header, tuple(tiles), x0, y0, choice.score, choice.tissue, encode_overview(overview),
        None if spec.train_px is None else tuple(small),
    )  # fmt: skip


def read_map(slide: Slide, grid: Grid) -> np.ndarray:
    """RGB uint8 of the whole grid at low resolution, white outside the slide, with the same square of pixels a cell.

    Its size follows from the grid alone; a slide smaller than that is not enlarged.
    """
    cell_px = min(int(np.clip(_MAP_PX // max(grid.columns, grid.rows), *_CELL_PX)), grid.side0_px)
    width0_px, height0_px = grid.columns * grid.side0_px, grid.rows * grid.side0_px
    return slide.read_region(grid.x0, grid.y0, width0_px, height0_px, (grid.columns * cell_px, grid.rows * cell_px))


def overview_of(picture: np.ndarray, slide: Slide, grid: Grid) -> tuple[np.ndarray, float]:
    """The part of the grid's map that is slide, at most 1024 px long, and its level-0 pixels per pixel."""
    map_px0 = grid.columns * grid.side0_px / picture.shape[1]
    left, top = -grid.x0 / map_px0, -grid.y0 / map_px0
    width, height = slide.width_px / map_px0, slide.height_px / map_px0
    # A cell may reach a pixel or two less far than the slide, where its side was rounded.
    box = (
        max(left, 0.0), max(top, 0.0), min(left + width, picture.shape[1]), min(top + height, picture.shape[0])
    )  # fmt: skip
    downsample = max(max(slide.width_px, slide.height_px) / _OVERVIEW_PX, map_px0)
    out_px = (max(1, round(slide.width_px / downsample)), max(1, round(slide.height_px / downsample)))
    return resize(picture, out_px, box), downsample
