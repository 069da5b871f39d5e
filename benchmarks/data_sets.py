"""The data sets on which ways to pick tiles are compared: how each is made, tiled and learned from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.catch import LESION_SHARE, write_truth
from benchmarks.commands import ROOT, command
from benchmarks.digits import TILE_PX, compose_pages
from benchmarks.patches import PATCH_PX, compose_large
from tiling.rank import make_grid
from tiling.spec import TileSpec
from tiling.synthetic.cohort import lesion_share, read_lesions

INSTANCES = 16
PALE_PX, PALE_TILE_PX = (2048, 1536), 128
WEIGHTS = "weights/tf_efficientnet_lite0.safetensors"  # in the folder of real data
LOOKING = ("--config", str(ROOT / "configs" / "chipnet-frozen.yaml"))
TRAINING = (
    *("--backbone", "tf_efficientnet_lite0", "--freeze", "all", "--reduction", "32", "--no-augment"),
    *("--lr", "2e-3", "--lr-attention", "1e-3", "--lr-end", "2e-5", "--epochs", "30", "--patience", "12"),
    *("--batch-size", "8"),
)


@dataclass(frozen=True)
class DataSet:
    """How a data set is made, tiled and learned from."""

    compose: Callable[[Path, Path, int], None]  # from the folder of real data, into a folder, so many slides
    slides: int
    tiles: TileSpec
    overview_px: tuple[int, int]  # of the rounds
    train_px: int
    figure: str
    looking: tuple[str, ...]  # the training of ChipNet
    training: tuple[str, ...]  # the training on the tiles picked

    @property
    def tiling(self) -> list[str]:
        """The flags of `python -m tiling` for its tiles, but for the rank."""
        spec = self.tiles
        return [
            *("--size", str(spec.size), "--downsample", "1", "--instances", str(spec.instances)),
            *("--min-tissue", str(spec.min_tissue), "--codec", spec.codec),
        ]


def compose_pale(_: Path, out: Path, slides: int) -> None:
    """Draw the slides with pale lesions."""
    width, height = PALE_PX
    command(
        "-m", "tiling.synthetic", "--out", out, "--lesions", "pale", "--slides", slides, "--seed", 3, "--no-faults",
        "--width", width, "--height", height,
    )  # fmt: skip
    grid = make_grid(width, height, 1, PALE_TILE_PX)
    x0, y0 = grid.corners0(np.arange(grid.rows * grid.columns))
    truth = {}
    for slide_id, lesions in read_lesions(out / "lesions.csv").items():
        is_lesion = lesion_share(lesions, x0, y0, grid.side0_px) >= LESION_SHARE
        truth[slide_id] = frozenset(zip(x0[is_lesion].tolist(), y0[is_lesion].tolist(), strict=True))
    write_truth(out / "tiles.csv", truth)


DATA_SETS = {
    "pale": DataSet(
        compose_pale, 600, TileSpec(INSTANCES, PALE_TILE_PX, downsample=1), (512, 1024), 64, "auc",
        (*LOOKING, "--folds", "3", "--epochs", "40"), (*TRAINING, "--folds", "3"),
    ),
    "patches": DataSet(
        lambda data, out, slides: compose_large(data / "patches" / "patches.zip", out, slides),
        116, TileSpec(INSTANCES, PATCH_PX, downsample=1, min_tissue=0, codec="png"), (320, 640), 96, "auc",
        LOOKING, TRAINING,
    ),
    "digits": DataSet(
        lambda data, out, slides: compose_pages(data / "digits", out, slides),
        600, TileSpec(INSTANCES, TILE_PX, downsample=1, min_tissue=0, codec="png"), (480, 960), 96, "accuracy",
        LOOKING, TRAINING,
    ),
}  # fmt: skip
