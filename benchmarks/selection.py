"""Does it help to let attention pick the tiles? Three data sets on which it is known where to look.

`python benchmarks/selection.py --out FOLDER --data DATA` goes the whole road by the commands on each of them:

1. pale: 120 made-up slides of 2048 x 1536 px, `python -m tiling.synthetic --lesions pale`. Every other has one or two
   pools of mucin of 150 to 240 px, which is lighter than the tissue about it, and 2 to 7 of some 80 tiles of 128 px
   with tissue. All slides have such pale areas, as many and as large: in benign ones all are oedema. The stains are of
   five looks, and pen, folds and dust lie on them as on the demo's slides.
2. patches: 120 slides of 12 x 12 patches of real lymph nodes, 96 px each, from DATA/patches/patches.zip (PatchCamelyon:
   Veeling et al. 2018). Every other has 4, 6 or 8 patches of tumour side by side; tumour is lighter than the crowded
   lymphocytes. A tile is a patch. There are too few patches for a slide each: `compose_large` says how they are shared.
3. digits: 600 pages of 900 tiles, of five digits of which three are of one class, which is to be told, and 50 scribbles
   (Bergner et al. 2023, majority task; 5,000 and 1,000 pages there), from DATA/digits.

For each way to pick: the share of lesion tiles among the first 4, 8 and 16 tiles of the slides that have any, the share
of those caught that could have been caught, and AUC or accuracy, by slide out of fold, of the model trained on 16.
The ways are the rules of `--rank`; attention, by ChipNet on a coarse overview (first round) and, trained again, on a
fine one (second round), in folds so that no slide is looked at by a model that has seen it; half by attention and half
by tissue; and the oracle, who takes all lesion tiles and fills up by lot. ChipNet's own figure stands beside.

A tile is lesion where a quarter of it is, or where it holds a quarter of a digit. What is finished is not done again;
the table of what is there is printed at the end, or at once with `--table`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.catch import LESION_SHARE, caught, picks_of, read_truth, write_oracle, write_truth
from benchmarks.commands import command, figure, is_finished, train
from benchmarks.digits import TILE_PX, compose_pages
from benchmarks.machine import machine
from benchmarks.patches import PATCH_PX, compose_large
from tiling.rank import make_grid
from tiling.synthetic.cohort import lesion_share, read_lesions
from tiling.tile import TileSpec

PALE_PX, PALE_TILE_PX = (2048, 1536), 128
KS = (4, 8, 16)
MOST = max(KS)
RULES = ("tissue", "darkness", "texture", "uniform")
ROUNDS = ("first", "second")
COMMON = ("--device", "cpu", "--batch-size", "4")
SMALL = ("--backbone", "test_resnet", "--lr", "2e-3", "--lr-end", "1e-5", "--epochs", "30", "--patience", "12")

FROZEN = (
    *("--backbone", "tf_efficientnet_lite0", "--freeze", "all", "--no-augment", "--lr", "2e-3", "--lr-end", "2e-5"),
    *("--lr-attention", "1e-3", "--epochs", "30", "--patience", "12"),
)
WHOLE = (
    *("--backbone", "tf_efficientnet_lite0", "--batch-norm", "frozen", "--lr", "1e-4", "--lr-head", "1e-3"),
    *("--epochs", "12", "--patience", "12", "--warmup-epochs", "1", "--clip-grad", "1"),
)


@dataclass(frozen=True)
class DataSet:
    """How a data set is made, tiled and learned from."""

    compose: Callable[[Path, Path, int], None]  # from the folder of real data, into a folder, so many slides
    slides: int
    tiles: TileSpec
    overview_px: tuple[int, int]  # of the rounds: a chip of 32 px is about a tile in the first, a half in the second
    figure: str
    training: tuple[str, ...]
    looking: tuple[str, ...]  # the training of ChipNet
    weights: str | None = None  # of the backbone, in the folder of real data

    @property
    def tiling(self) -> list[str]:
        """The flags of `python -m tiling` for its tiles, but for the rank."""
        spec = self.tiles
        return [
            *("--size", str(spec.size), "--downsample", "1", "--instances", str(spec.instances)),
            *("--min-tissue", str(spec.min_tissue), "--codec", spec.codec),
        ]


class Way(NamedTuple):
    """A way to pick tiles on a data set, and the folder where all of the set lies."""

    name: str
    data_set: DataSet
    folder: Path

    @property
    def bags(self) -> Path:
        """The bags picked so."""
        return self.folder / "bags" / self.name

    @property
    def run(self) -> Path:
        """The run trained on them."""
        return self.folder / "runs" / self.name


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
        compose_pale, 120, TileSpec(MOST, PALE_TILE_PX, downsample=1), (512, 1024), "auc",
        (*SMALL, "--train-px", "64", "--folds", "5"), (*SMALL, "--folds", "5"),
    ),
    "patches": DataSet(
        lambda data, out, slides: compose_large(data / "patches" / "patches.zip", out, slides),
        120, TileSpec(MOST, PATCH_PX, downsample=1, min_tissue=0, codec="png"), (384, 768), "auc",
        (*FROZEN, "--train-px", "96"), WHOLE, "weights/tf_efficientnet_lite0.safetensors",
    ),
    "digits": DataSet(
        lambda data, out, slides: compose_pages(data / "digits", out, slides),
        600, TileSpec(MOST, TILE_PX, downsample=1, min_tissue=0, codec="png"), (480, 960), "accuracy",
        (*SMALL, "--train-px", "48"), SMALL,
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Make, pick and train what is not there yet, and print the tables; status 0."""
    args = _parser().parse_args(argv)
    for name, data_set in DATA_SETS.items():
        folder = args.out / name
        ways = [
            Way(way, data_set, folder)
            for way in (*RULES, *ROUNDS, "mixed", "oracle")
            if not args.only or {name, f":{way}", f"{name}:{way}"} & {*args.only}
        ]
        if ways and not args.table:
            if not (folder / "tiles.csv").exists():
                data_set.compose(args.data, folder, args.slides or data_set.slides)
            weights = [] if data_set.weights is None else ["--weights", str((args.data / data_set.weights).resolve())]
            for way in ways:
                pick(way, [*weights, *args.looking])
            training = [*weights, *args.training]
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(partial(learn, training=training), [] if args.pick else ways))
        if (folder / "tiles.csv").exists():
            print("\n".join(table(name, data_set, folder)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for slides, bags and runs")
    add("--data", type=Path, default=Path("../shared/data"), help="folder with patches/patches.zip and digits/")
    add("--only", nargs="+", metavar="SET:WAY", default=[], help="parts, such as pale, pale:tissue, :oracle")
    add("--slides", type=int, help="so many slides a set, for a try")
    add("--jobs", type=int, default=1, help="trainings at a time, a thread each")
    add("--pick", action="store_true", help="stop before the models on the tiles are trained")
    add("--looking", type=str.split, default=[], metavar="'FLAGS'", help="more flags of ChipNet's training, in quotes")
    add("--training", type=str.split, default=[], metavar="'FLAGS'", help="more flags of the models', in quotes")
    add("--table", action="store_true", help="print what is there, and do nothing")
    return parser


def pick(way: Way, looking: list[str]) -> None:
    """Make the bags of a way to pick, where they are not there."""
    slides, data_set = way.folder / "slides", way.data_set
    if len(list(way.bags.glob("*.h5"))) == len(list(slides.iterdir())):
        return
    if way.name == "oracle":
        write_oracle(slides, read_truth(way.folder / "tiles.csv"), data_set.tiles, way.bags)
    elif way.name in RULES:
        command("-m", "tiling", slides, "--out", way.bags, "--rank", way.name, *data_set.tiling)
    else:
        tissue = way._replace(name="tissue")
        pick(tissue, looking)
        nth = ROUNDS.index(way.name) if way.name in ROUNDS else len(ROUNDS) - 1
        chipnet = look(tissue, nth, looking)
        share = ("--attention-share", "0.5") if way.name == "mixed" else ()
        command(
            "-m", "tiling.reselect", tissue.bags, "--out", way.bags, "--rank", "attention", "--chipnet", chipnet, *share
        )


def look(tissue: Way, nth: int, looking: list[str]) -> Path:
    """The run of ChipNet of a round, trained on the overviews in the bags picked by tissue."""
    run, data_set = tissue.folder / "runs" / f"chipnet-{ROUNDS[nth]}", tissue.data_set
    train(
        run, "--arch", "chipnet", "--bags", tissue.bags, "--labels", tissue.folder / "labels.csv",
        "--overview-px", data_set.overview_px[nth], *COMMON, *data_set.looking, *looking,
    )  # fmt: skip
    return run


def learn(way: Way, training: list[str]) -> None:
    """Train the model on the tiles picked."""
    flags = (*COMMON, *way.data_set.training, *training)
    train(way.run, "--bags", way.bags, "--labels", way.folder / "labels.csv", *flags)


def table(name: str, data_set: DataSet, folder: Path) -> Iterator[str]:
    """A Markdown table of what there is of a data set."""
    truth, slides = read_truth(folder / "tiles.csv"), len(list((folder / "slides").iterdir()))
    tiles = sum(map(len, truth.values())) / len(truth)
    yield f"\n{name}: {slides} slides, {len(truth)} of them with lesions, {tiles:.1f} lesion tiles each"
    yield f"{machine('torch', 'timm')}\n"
    heads = " | ".join(f"k = {k}: lesion among picked / of possible" for k in KS)
    yield f"| picked by | {heads} | {data_set.figure} |\n|---|{'---|' * len(KS)}---|"
    for way in (Way(each, data_set, folder) for each in (*RULES, *ROUNDS, "mixed", "oracle")):
        if way.bags.exists() and all((way.bags / f"{slide_id}.h5").exists() for slide_id in truth):
            picks = picks_of(way.bags, truth)
            cells = " | ".join(str(caught(picks, truth, k)) for k in KS)
            yield f"| {way.name} | {cells} | {figure(way.run, data_set.figure) if is_finished(way.run) else ''} |"
    for nth in ROUNDS:
        if is_finished(run := folder / "runs" / f"chipnet-{nth}"):
            yield f"| (ChipNet of the {nth} round) | {'| ' * len(KS)}{figure(run, data_set.figure)} |"


if __name__ == "__main__":
    sys.exit(main())
