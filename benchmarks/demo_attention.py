"""Attention picks the tiles: tile, ChipNet, reselect, train, infer; prints each command, and what it was good for.

`make demo-attention` runs it. The slides are made up, with pale lesions of a few tiles, which the ranking by tissue
passes over. So that one sees the difference, a model is trained on its tiles as well. The networks are kept as ImageNet
left them: fetched from timm's hub, or read from a file (`--weights`, or `make demo-attention WEIGHTS=FILE`).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.commands import command, figure
from benchmarks.data_sets import LOOKING, TRAINING
from benchmarks.demo import empty, held_out_auc, lesion_tiles

MADE = ["--lesions", "pale", "--no-faults", "--width", "2048", "--height", "1536"]
TILES = ["--size", "128", "--downsample", "1", "--instances", "16"]
NETWORK = ["--folds", "3", "--device", "cpu"]
CHIPNET = ["--arch", "chipnet", "--overview-px", "1024", *LOOKING, "--epochs", "40", *NETWORK]
MODEL = ["--train-px", "64", *TRAINING, *NETWORK]
WAYS = ("tissue", "attention")


def main(argv: list[str] | None = None) -> int:
    """Run the demo; status 0 if every step did what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-attention"), help="folder for all it makes, emptied")
    parser.add_argument("--weights", type=Path, help="file of the network's weights; timm's hub has them")
    parser.add_argument("--slides", type=int, default=300, help="slides to train on")
    parser.add_argument("--held-out", type=int, default=60, help="slides to score")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        empty(args.out)
        for words in recipe(args.out.resolve(), args.slides, args.held_out, args.weights):
            step(words)
    except (OSError, CalledProcessError) as error:
        print(f"demo-attention: error: {error}", file=sys.stderr)
        return 2
    print(f"\n{report(args.out)}\n\nThe demo took {(time.perf_counter() - start) / 60:.1f} minutes.")
    return 0


def recipe(out: Path, slides: int, held_out: int, weights: Path | None) -> list[list[object]]:
    """The words of each command behind `python`, in their order."""
    start = ["--pretrained"] if weights is None else ["--weights", weights.resolve()]
    train, new = out / "train", out / "held-out"
    made = train / "slides"
    bags, new_bags, runs = ({way: out / what / way for way in WAYS} for what in ("bags", "new-bags", "runs"))
    labels, chipnet = ["--labels", train / "labels.csv"], out / "runs" / "chipnet"
    by_attention = ["--rank", "attention", "--chipnet", chipnet]
    return [
        ["-m", "tiling.synthetic", "--out", train, "--slides", slides, "--seed", 1, *MADE],
        ["-m", "tiling.synthetic", "--out", new, "--slides", held_out, "--seed", 2, "--prefix", "new", *MADE],
        ["-m", "tiling", made, "--out", bags["tissue"], *TILES],
        ["train.py", "--bags", bags["tissue"], *labels, "--out", chipnet, *CHIPNET, *start],
        ["-m", "tiling.reselect", bags["tissue"], "--out", bags["attention"], "--slides", made, *by_attention],
        *(["train.py", "--bags", bags[way], *labels, "--out", runs[way], *MODEL, *start] for way in WAYS),
        ["-m", "tiling", new / "slides", "--out", new_bags["tissue"], *TILES],
        ["-m", "tiling", new / "slides", "--out", new_bags["attention"], *TILES, *by_attention],
        *(
            ["infer.py", "--run", runs[way], "--bags", out / "new-bags" / way, "--out", scores(out, way)]
            for way in WAYS
        ),
    ]


def scores(out: Path, way: str) -> Path:
    """Where the scores of the held-out slides are, whose tiles were picked in this way."""
    return out / f"scores-{way}.csv"


def step(words: Sequence[object]) -> None:
    """Print a command as one would type it, and run it."""
    print(f"\n$ python {' '.join(map(str, words))}", flush=True)
    command(*words)


def report(out: Path) -> str:
    """What each way to pick tiles caught, and how good the models are."""
    lines = ["Lesion tiles among those picked, and AUC with its interval (95 %, over patients):"]
    for way in WAYS:
        caught, among, _ = lesion_tiles(out / "bags" / way, out / "train" / "lesions.csv")
        caught_new, among_new, _ = lesion_tiles(out / "new-bags" / way, out / "held-out" / "lesions.csv")
        lines += [
            f"  {way:10} out of fold      {caught} of {among} tiles, AUC {figure(out / 'runs' / way, 'auc')}",
            f"  {'':10} held-out slides  {caught_new} of {among_new} tiles, "
            f"AUC {held_out_auc(scores(out, way), out / 'held-out' / 'labels.csv')}",
        ]
    return "\n".join(
        [*lines, f"  ChipNet on overviews alone: AUC {figure(out / 'runs' / 'chipnet', 'auc')} out of fold"]
    )


if __name__ == "__main__":
    sys.exit(main())
