"""How tiles are chosen, cut and stored: the settings that bags which are used together share."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tiling.codec import MOST_SIDE_PX
from tiling.errors import InputError, SlideError
from tiling.pick import Rule
from tiling.places import Look, Places, place_of_box, places_of
from tiling.rank import Grid
from tiling.settings import at_least, between, check, setting
from tiling.slide import Slide

DEFAULT_LONGEST_EDGE_PX = 20000

_SCALES = ("longest_edge", "mpp", "magnification", "downsample", "whole")
_UM_AT_ONE = 10.0  # µm per pixel at a magnification of 1, as is customary
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
    rank: Literal["tissue", "darkness", "texture", "uniform", "attention", "box"] = setting(
        "tissue",
        "what makes a tile good; attention is that of --chipnet, and box the one square around what stands out of it",
    )
    min_tissue: float = setting(0.1, "share of a tile that must be tissue")
    attention_share: float | None = setting(
        None, "with --rank attention: share of the tiles that it picks, the rest being picked by tissue (all if none)"
    )
    min_distance: float | None = setting(
        None, "with --rank attention: least distance between the centres of tiles, in their sides"
    )
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
        if self.rank == "box":
            if self.instances not in (1, TileSpec.instances):
                raise InputError(f"--rank box gives one tile, not --instances {self.instances}; leave one of them out")
            if self.min_tissue != TileSpec.min_tissue:
                raise InputError("--min-tissue chooses among tiles, and --rank box gives one; leave it out")
            object.__setattr__(self, "instances", 1)
        if self.rank != "attention" and (self.attention_share, self.min_distance) != (None, None):
            raise InputError("--attention-share and --min-distance are for --rank attention; leave them out")
        if not given:
            object.__setattr__(self, "longest_edge", DEFAULT_LONGEST_EDGE_PX)
        check(
            self, InputError, instances=at_least(1), size=between(8, MOST_SIDE_PX), longest_edge=at_least(8),
            mpp=at_least(0.01), magnification=at_least(0.1), downsample=at_least(0.01), min_tissue=between(0, 1),
            quality=between(1, 100), train_px=at_least(1), attention_share=between(0, 1), min_distance=at_least(0),
        )  # fmt: skip
        if self.train_px is not None and self.train_px >= self.size:
            raise InputError(f"--train-px must be less than --size, which is {self.size}, not {self.train_px}")

    @property
    def needs_chipnet(self) -> bool:
        """Whether a ChipNet chooses the tiles."""
        return self.rank in ("attention", "box")

    def places_on(self, overview_rgb: np.ndarray, size0_px: tuple[int, int], grid: Grid, look: Look) -> Places:
        """Where tiles lie that a ChipNet chooses, given the overview of a slide of that level-0 size, and its grid."""
        if self.rank == "box":
            return place_of_box(overview_rgb, size0_px, look)
        share = 1.0 if self.attention_share is None else self.attention_share
        rule = Rule(self.instances, self.min_tissue, share, self.min_distance or 0.0)
        return places_of(overview_rgb, size0_px, grid, rule, look)

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
