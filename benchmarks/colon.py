"""AUC of bags and, by attention, of instances on nuclei of colon tissue, trained end to end on pixels.

`python benchmarks/colon.py COLON_BAGS.npz` reads `patches` uint8 (nuclei, 27, 27, 3), `bag` and `instance_label` (1 =
cancerous) of each nucleus, derived from CRCHistoPhenotypes (Sirinukunwattana et al. 2016), writes a bag of pixels for
every image, positive if it holds a cancerous nucleus, and trains every pooling with `mil.run.train_run`.

10-fold cross-validation over bags, stratified, no patients known. Every fold is trained from random weights on all the
other nine for a fixed number of epochs, the last is kept; nuclei are turned and mirrored. The backbone, the epochs and
the learning rate were chosen once, for attention, by the training loss of two folds in evaluation mode at equal time
(30 s a fold on one core), not by any tested fold:

| backbone, bags a step | epochs | learning rate | training loss |
|---|---|---|---|
| **test_byobnet, 8** | **6** | **.001** / .003 | **.152** / .149 |
| test_resnet, 8 | 4 | .001 / .003 | .237 / .185 |
| test_convnext, 1 (at 32 px) | 4 | .001 | .318 (one fold) |
| test_vit, 1 (at 32 px) | 6 | .001 / .003 | .357 / .415 (one fold) |
| test_resnet, 1 | 4 | .001 | 3.28 (one fold) |
| test_byobnet, 1 | 4 | .001 | 1.45 (one fold) |

The last two learned (.17 and .23 in training mode), but a batch norm over a single bag takes out what tells bags apart,
and its running statistics bring that back: such a backbone wants several bags a step.

Each bag is then scored by the model that has not seen it. Where attention should point is asked of the positive bags
that hold both kinds of nuclei: the AUC of "cancerous" by attention within each bag, its mean over bags; and that of all
their nuclei together, each by its rank within its bag. Intervals are percentiles of a bootstrap over bags.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.classic import FOLDS, with_folds
from benchmarks.machine import machine
from mil.checkpoint import load_model
from mil.cohort import gather
from mil.data import PixelReader
from mil.intervals import Estimate
from mil.labels import read_labels
from mil.pooling import POOLINGS
from mil.recipe import Recipe
from mil.run import train_run
from tiling.bag import Bag, BagHeader, bag_path, write_bag
from tiling.codec import CODECS, encode_overview
from tiling.output import write_table

CODEC = "raw"
WITH_ATTENTION = ("attention", "gated")
RESAMPLES = 1000


class Pointing(NamedTuple):
    """How well attention finds the cancerous nuclei: the mean AUC within bags, and the AUC over all by rank."""

    within: Estimate
    pooled: Estimate


def main(argv: list[str] | None = None) -> int:
    """Train and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="colon_bags.npz")
    parser.add_argument("--poolings", nargs="+", choices=POOLINGS, default=list(POOLINGS), help="which of them")
    parser.add_argument("--backbone", default="test_byobnet", help="a timm model")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training bags")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate at the start")
    parser.add_argument("--seed", type=int, default=0, help="of folds, weights, order and augmentation")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, that torch may use")
    parser.add_argument("--out", type=Path, help="keep bags, labels and runs in this new folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        size = convert(args.source, out, args.seed)
        cohort = gather(read_labels(out / "labels.csv"), out / "bags", skip_missing=False)
        for pooling in args.poolings:
            started = time.perf_counter()
            recipe = Recipe.of(
                backbone=args.backbone, train_px=size, pooling=pooling, attention_hidden=64, epochs=args.epochs,
                valid_share=0.0, batch_size=8, lr=args.lr, channels_last=True, seed=args.seed, device=args.device,
            )  # fmt: skip
            evaluation = train_run(cohort, out / pooling, recipe)
            assert evaluation is not None
            metrics = evaluation.slides.figures
            minutes = (time.perf_counter() - started) / 60
            found = point(out, pooling, size) if pooling in WITH_ATTENTION else ("", "")
            cells = [pooling, *map(_interval, (metrics["auc"], metrics["accuracy"], *found)), f"{minutes:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
    print(
        f"{machine('torch', 'timm')}; {args.threads} thread(s); {args.backbone}, {FOLDS} folds, {args.epochs} epochs\n"
    )
    print("| pooling | AUC of bags | accuracy | AUC of nuclei within bags | over all, by rank | min |")
    print("|---|---|---|---|---|---|")
    print("\n".join(lines))
    return 0


def convert(source: Path, out: Path, seed: int) -> int:
    """Write bags/, labels.csv with folds, and instances.csv with the truth of every nucleus; gives their side in px."""
    with np.load(source) as arrays:
        patches, bag_of, cancerous = arrays["patches"], arrays["bag"], arrays["instance_label"]
    (out / "bags").mkdir(parents=True)
    size, most = patches.shape[1], int(np.unique(bag_of, return_counts=True)[1].max())
    labels, instances = [], []
    for bag in np.unique(bag_of):
        slide_id, inside = f"{bag:03d}", np.flatnonzero(bag_of == bag)
        write_bag(bag_path(out / "bags", slide_id), make_bag(slide_id, source, patches[inside], most))
        labels.append((slide_id, int(cancerous[inside].max())))
        instances += [(slide_id, tile, int(cancerous[row])) for tile, row in enumerate(inside)]
    table = with_folds(pd.DataFrame(labels, columns=["slide_id", "label"]), seed)
    write_table(out / "labels.csv", ["slide_id", "label", "fold"], table.itertuples(index=False))
    write_table(out / "instances.csv", ["slide_id", "tile", "cancerous"], instances)
    return size


def make_bag(slide_id: str, source: Path, patches: np.ndarray, most: int) -> Bag:
    """A bag of these patches (N, px, px, 3), which hold no places: they lie in rows on a slide of their own."""
    count, size = patches.shape[:2]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, size, size, 3), 255, np.uint8)
    sheet[:count] = patches
    overview = sheet.reshape(rows, columns, size, size, 3).swapaxes(1, 2).reshape(rows * size, columns * size, 3)
    header = BagHeader(
        slide_id=slide_id, slide_path=str(source), slide_bytes=source.stat().st_size,
        width_px=columns * size, height_px=rows * size, mpp=None, mpp_from="", vendor="",
        spec={"instances": most, "size": size, "codec": CODEC}, codec=CODEC, tiles=count, side0_px=size,
        overview_downsample=1.0, overview_seen=1.0,
    )  # fmt: skip
    tiles = tuple(CODECS[CODEC].encode(patch, 100, 444) for patch in patches)
    place = np.arange(count)
    return Bag(
        header, tiles, place % columns * size, place // columns * size, np.zeros(count), np.ones(count),
        encode_overview(overview),
    )  # fmt: skip


def point(out: Path, pooling: str, px: int) -> Pointing:
    """How well the attention of each bag's unseen model points at its cancerous nuclei."""
    truth = pd.read_csv(out / "instances.csv", dtype={"slide_id": str}).groupby("slide_id")["cancerous"]
    folds = pd.read_csv(out / pooling / "folds.csv", dtype={"slide_id": str})
    read, bags = PixelReader(px), []
    for fold, slides in folds.groupby("fold"):
        model, _ = load_model(out / pooling / f"fold_{fold}")
        for slide_id in slides["slide_id"]:
            cancerous = truth.get_group(slide_id).to_numpy()
            if 0 < cancerous.sum() < len(cancerous):
                bags.append((attention(model, read(bag_path(out / "bags", slide_id))), cancerous))
    within = np.array([roc_auc_score(cancerous, scores) for scores, cancerous in bags])
    ranks = [(rankdata(scores) / len(scores), cancerous) for scores, cancerous in bags]

    def pooled(chosen: np.ndarray) -> float:
        scores, cancerous = (np.concatenate([ranks[bag][part] for bag in chosen]) for part in (0, 1))
        return float(roc_auc_score(cancerous, scores))

    drawn = np.random.default_rng(0).integers(len(bags), size=(RESAMPLES, len(bags)))
    return Pointing(
        Estimate(float(within.mean()), *np.percentile(within[drawn].mean(axis=1), [2.5, 97.5])),
        Estimate(pooled(np.arange(len(bags))), *np.percentile([pooled(each) for each in drawn], [2.5, 97.5])),
    )


@torch.inference_mode()
def attention(model: torch.nn.Module, tiles_NCHW: torch.Tensor) -> np.ndarray:
    """Attention (N,) of a model to the tiles of one bag."""
    output = model(tiles_NCHW, torch.ones(1, len(tiles_NCHW), dtype=torch.bool))
    return output.attention_BN[0].double().numpy()


def _interval(estimate: Estimate | str) -> str:
    return (
        estimate if isinstance(estimate, str) else f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
    )


if __name__ == "__main__":
    sys.exit(main())
