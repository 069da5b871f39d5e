"""What augmentation does to tiles, as a picture to choose strengths by, and what it costs.

`python benchmarks/augment.py --bags BAGS --out sheet.png` shows some tiles as they are and, below, after each change at
a usual strength; with flags of train.py, such as `--hed-jitter 0.1 --rotate 15`, after these, drawn several times.
Then it prints how many tiles a second each change lets through, beside torchvision's own transform called for each tile
(where there is one), and beside the forward pass of resnet18. Without bags there is no picture, and the speed is that
of random pixels.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from matplotlib import pyplot as plt
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.machine import device_name, machine
from mil.augment import Augment
from mil.backbone import Backbone
from mil.errors import MilError
from mil.luminosity import standard_luminosity
from mil.panels import save
from mil.predict import pick_device
from mil.recipe import AugmentSpec
from tiling import cli
from tiling.bag import read_bag
from tiling.bags import open_bags
from tiling.errors import InputError, TilingError

Change = Callable[[Tensor], Tensor]
SHOWN = 8  # tiles of a row of the sheet
FLIPS = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])  # there are no quarter turns
PLAIN = {"flip": False, "quarter_turns": False}
USUAL: dict[str, tuple[dict[str, object], v2.Transform | None]] = {
    "flip, quarter turns": ({"flip": True, "quarter_turns": True}, FLIPS),
    "rotate 45": ({"rotate": 45.0}, v2.RandomRotation(45, v2.InterpolationMode.BILINEAR)),
    "color jitter 0.2": ({"color_jitter": 0.2}, v2.ColorJitter(0.2, 0.2, 0.2)),
    "hue jitter 0.04": ({"hue_jitter": 0.04}, v2.ColorJitter(hue=0.04)),
    "hed jitter 0.05": ({"hed_jitter": 0.05}, None),
    "hed jitter 0.2": ({"hed_jitter": 0.2}, None),
    "blur 1": ({"blur": 1.0}, v2.GaussianBlur(13, (0.5, 2.0))),
    "pixel dropout 0.02": ({"pixel_dropout": 0.02}, None),
    "coarse dropout 1": ({"coarse_dropout": 1.0}, v2.RandomErasing(1.0)),
    "hair 1": ({"hair": 1.0}, None),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Draw and measure; status 0, 2 for wrong input."""
    return cli.run(make_parser, work, argv, (MilError, TilingError))


def make_parser() -> ArgumentParser:
    """The command line: our flags, and those of augmentation as train.py has them."""
    parser = cli.make_parser("benchmarks/augment.py", "Show what augmentation does to tiles, and what it costs.")
    parser.add_argument("--bags", type=Path, help="folder of bags, or a merged file, whose tiles are shown")
    parser.add_argument("--out", type=Path, help="picture to write (.png, .jpg, .pdf)")
    parser.add_argument("--px", type=int, default=256, help="side of a tile in pixels, as --train-px of train.py")
    parser.add_argument("--tiles", type=int, default=64, help="tiles of the batch that is timed")
    parser.add_argument("--draws", type=int, default=5, help="rows of the picture, where flags are given")
    parser.add_argument("--rounds", type=int, default=3, help="times everything is measured; 0 leaves the table out")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--device", default="auto", help="where to compute: auto, cpu or cuda")
    cli.add_settings(parser, AugmentSpec, "augmentation")
    return parser


def work(args: Namespace) -> int:
    """Do what the command line asks."""
    device, spec = pick_device(args.device), cli.settings_from(args, AugmentSpec)
    if args.out is not None and args.bags is None:
        raise InputError("--out needs --bags, whose tiles it shows")
    tiles = torch.randint(256, (args.tiles, 3, args.px, args.px), dtype=torch.uint8)
    if args.bags is not None:
        tiles = read_tiles(args.bags, args.px, args.tiles)
    tiles = tiles.to(device)
    torch.manual_seed(args.seed)
    if args.out is not None:
        draw_sheet(args.out, tiles, spec, args.draws)
        print(f"wrote {args.out}")
    if args.rounds:
        print_speeds(tiles, spec, args.rounds)
    return 0


def read_tiles(path: Path, px: int, count: int) -> Tensor:
    """Tiles uint8 (count, 3, px, px): the bags' best, then their second, and so on, from the start again if need be."""
    bags = [read_bag(ref, px) for ref in open_bags(path).refs.values()]
    places = [(bag, rank) for rank in range(max(map(len, bags), default=0)) for bag in bags if rank < len(bag)]
    if not places:
        raise InputError(f"there are no tiles in {str(path)!r}")
    tiles = [places[number % len(places)] for number in range(count)]
    return torch.from_numpy(np.stack([bag.tile(rank, px) for bag, rank in tiles])).permute(0, 3, 1, 2).contiguous()


def changed_by(spec: AugmentSpec) -> Change:
    """What a spec does to tiles, each a bag of its own, and none of them left out."""
    augment = Augment(spec)

    def change(tiles: Tensor) -> Tensor:
        return augment(tiles, torch.ones(len(tiles), 1, dtype=torch.bool))[0]

    return change


def draw_sheet(path: Path, tiles: Tensor, spec: AugmentSpec, draws: int) -> None:
    """Write the picture: a row of tiles as they are, and a row for each change or draw."""
    shown = tiles[:SHOWN]
    rows: dict[str, Tensor] = {"as it is": shown}
    if spec == AugmentSpec():
        for name, (settings, _) in USUAL.items():
            rows[name] = changed_by(AugmentSpec(**PLAIN | settings))(shown)  # type: ignore[arg-type]
        rows["luminosity (model)"] = standard_luminosity(shown).round().to(torch.uint8)
    else:
        change = changed_by(spec)
        rows |= {f"draw {number}": change(shown) for number in range(1, draws + 1)}
    figure, axes = plt.subplots(len(rows), 1, figsize=(1.6 * SHOWN, 1.75 * len(rows)), layout="constrained")
    for axis, (name, pictures) in zip(axes, rows.items(), strict=True):
        axis.imshow(torch.cat(list(pictures.cpu()), dim=2).permute(1, 2, 0).numpy())
        axis.set_ylabel(name, fontsize="small")
        axis.set_xticks([])
        axis.set_yticks([])
    save(figure, path)


def print_speeds(tiles: Tensor, spec: AugmentSpec, rounds: int) -> None:
    """Print the table of speeds."""
    device = tiles.device
    print(f"{machine('torch', 'torchvision')}; {device_name(device.type)}; {len(tiles)} tiles of {tiles.shape[-1]} px")
    net = Backbone("resnet18", tiles.shape[-1]).to(device).eval()
    rows: dict[str, tuple[Change, v2.Transform | None]] = {
        name: (changed_by(AugmentSpec(**PLAIN | settings)), theirs)  # type: ignore[arg-type]
        for name, (settings, theirs) in USUAL.items()
    }
    rows["the flags given (by default flips and quarter turns)"] = changed_by(spec), None
    rows["all of the above but one hed jitter"] = changed_by(everything()), None
    rows["luminosity (in the model)"] = standard_luminosity, None
    rows["resnet18, forward"] = net, None
    print("\n| change | tiles/s, batch | tiles/s, torchvision tile by tile |\n|---|---|---|")
    for name, (ours, theirs) in rows.items():
        rates = [speed(ours, tiles, rounds)]
        if theirs is not None:
            rates.append(speed(lambda batch, one=theirs: torch.stack([one(tile) for tile in batch]), tiles, rounds))  # type: ignore[misc]
        print(f"| {name} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |" + "  |" * (2 - len(rates)), flush=True)


def everything() -> AugmentSpec:
    """All changes together, each at its usual strength."""
    settings: dict[str, object] = {}
    for each, _ in USUAL.values():
        settings |= each
    return AugmentSpec(**settings)  # type: ignore[arg-type]


@torch.inference_mode()
def speed(change: Change, tiles: Tensor, rounds: int) -> float:
    """Tiles a second, in the fastest of some rounds after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        change(tiles)
        if tiles.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return len(tiles) / min(seconds[1:])


if __name__ == "__main__":
    raise SystemExit(main())
