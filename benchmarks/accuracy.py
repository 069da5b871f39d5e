"""Does it learn? Every pooling, frozen and end to end, on slides composed of real lymph-node patches.

`python benchmarks/accuracy.py PATCHES.zip WEIGHTS --out FOLDER` reads patches of 96 px (a zip with the folders normal/
and tumor/, of PatchCamelyon: Veeling et al. 2018, from Camelyon16) and the weights of a timm backbone, and goes the
whole road by the commands:

1. Patches that are there twice are dropped, and so are those that are all but alike: of which a copy of 12 x 12 px
   differs by less than 6 of 255, root mean square. Most of the latter are all but white.
2. 200 slides of 4 x 3 patches as PNG: 100 negative ones of normal patches, 100 positive ones, of whose patches 2 to 4
   are tumour. No patch is in two slides. Patients have one slide or two, of one label. Another 80 slides, of other
   patches, are for the choice of the settings below.
3. `python -m tiling`: tiles of 96 px at full resolution, all of a slide that have tissue, without loss.
4. `train.py`: five folds by patient; a fifth of the training patients chooses the epoch. End to end: all of the network
   learns, from pictures turned and mirrored; batch norms keep their statistics. Frozen: `--freeze all --no-augment`.

A run that is finished is not run again, an unfinished one goes on. The table of what is there is printed at the end,
or at once with `--table`.

A slide is a drawing here, and "patient" a name: which patches are of one person is not known, so that the folds are not
independent of staining and scanner as those of real patients would be.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.commands import command, interval, is_finished, train
from benchmarks.machine import machine
from benchmarks.patches import PATCH_PX, read_patches, sheet
from mil.pooling import POOLINGS
from tiling.output import write_table

COLUMNS, ROWS = 4, 3
SLIDES, CHOICE_SLIDES = 200, 80
TUMOUR = (2, 3, 4)  # patches of a positive slide, each as often
BACKBONE = "tf_efficientnet_lite0"
MODES = ("frozen", "end-to-end")
TILING = [
    *("--size", str(PATCH_PX), "--downsample", "1", "--instances", str(COLUMNS * ROWS)),
    *("--rank", "uniform", "--min-tissue", "0", "--codec", "png"),
]
COMMON = ["--channels-last", "--folds", "5", "--batch-size", "8", "--device", "cpu"]
# Chosen on the other 80 slides. Frozen, on maps computed once, 200 steps, 5 folds, lr of 3e-5 to 3e-3 and of the
# attention from 1e-6: avg, logsumexp, gated had their least loss at 3e-3 (.495, .542, .541), max and attention at 1e-3
# (.573, .561), attention the less its own lr was. End to end, one fold of three, by the loss on its validation part:
# without warm-up, or without clipping at 3e-4, the first steps spoil the weights and hardly anything is learned; avg
# had .512 at 1e-4, .499 with a head of 1e-3 beside, .395 at 3e-4 with that head and clipping; attention .227, max .487.
TRAINING = {
    "frozen": [
        *("--freeze", "all", "--no-augment", "--precision", "bf16", "--epochs", "12", "--patience", "12"),
        *("--lr", "2e-3", "--lr-end", "2e-5", "--lr-attention", "1e-5"),
    ],
    "end-to-end": [
        *("--batch-norm", "frozen", "--precision", "fp32", "--epochs", "8", "--patience", "8"),
        *("--lr", "3e-4", "--lr-end", "3e-6", "--lr-head", "1e-3", "--lr-attention", "1e-4"),
        *("--warmup-epochs", "1", "--clip-grad", "1"),
    ],
}


def main(argv: list[str] | None = None) -> int:
    """Compose, tile, train what is not there yet, and print the table; status 0."""
    args = _parser().parse_args(argv)
    part = args.out / ("choice" if args.choose else "test")
    runs = {
        part / "runs" / "_".join([mode, pooling, *(word.strip("-") for word in args.with_flags)]): (mode, pooling)
        for mode, pooling in product(MODES, POOLINGS)
        if not args.only or {pooling, f":{mode}", f"{pooling}:{mode}"} & {*args.only}
    }
    if not args.table:
        if not (args.out / "patches.txt").exists():
            compose(args.patches, args.out, args.seed)
        command("-m", "tiling", part / "slides", "--out", part / "bags", *TILING)
        more = ["--weights", args.weights.resolve(), "--seed", args.seed, *args.with_flags]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda run: train_run(part, run, *runs[run], more), [] if args.compose else runs))
    print((args.out / "patches.txt").read_text(encoding="utf-8"))
    print("\n".join(table(runs)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", type=Path, help="zip with normal/*.jpg and tumor/*.jpg of 96 x 96 px")
    parser.add_argument("weights", type=Path, help=f"weights of {BACKBONE}")
    parser.add_argument("--out", type=Path, required=True, help="folder for slides, bags and runs")
    parser.add_argument(
        "--only", nargs="+", metavar="POOLING:MODE", default=[], help=f"parts, such as avg:frozen, avg, :{MODES[1]}"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a thread each")
    parser.add_argument("--seed", type=int, default=0, help="of patches, folds, weights and order")
    parser.add_argument("--compose", action="store_true", help="stop before the training")
    parser.add_argument("--choose", action="store_true", help="run on the 80 slides for the choice of settings")
    parser.add_argument("--with-flags", nargs=argparse.REMAINDER, default=[], help="more flags of train.py, at the end")
    parser.add_argument("--table", action="store_true", help="print what is there, and train nothing")
    return parser


def compose(source: Path, out: Path, seed: int) -> None:
    """Write the slides of both parts, and labels.csv beside each: slide_id, label, patient_id, tumour_patches."""
    patches = read_patches(source, seed)
    normal, tumour = iter(patches.normal), iter(patches.tumour)
    random = np.random.default_rng(seed)
    for part, count in (("test", SLIDES), ("choice", CHOICE_SLIDES)):
        slides = out / part / "slides"
        slides.mkdir(parents=True, exist_ok=True)
        rows = []
        for index in range(count):
            positive, place = index % 2, index // 2
            tumours = TUMOUR[place % len(TUMOUR)] if positive else 0
            chosen = _take(tumour, tumours) + _take(normal, COLUMNS * ROWS - tumours)
            slide_id, label = f"{part[0]}{index:03d}", ("normal", "tumour")[positive]
            Image.fromarray(sheet(random.permutation(np.stack(chosen)), COLUMNS)).save(slides / f"{slide_id}.png")
            # Of three slides in a row, of one label, the last two are of one patient.
            rows.append((slide_id, label, f"{label[0]}{place // 3 * 2 + min(place % 3, 1):03d}", tumours))
        write_table(out / part / "labels.csv", ["slide_id", "label", "patient_id", "tumour_patches"], rows)
    found = f"{len(patches.normal)} normal and {len(patches.tumour)} tumour patches, {patches.dropped} twins dropped"
    used = f"{len(patches.normal) - len(list(normal))} and {len(patches.tumour) - len(list(tumour))} of them used"
    (out / "patches.txt").write_text(f"{found}; {used}\n", encoding="utf-8")


def _take(patches: Iterable[np.ndarray], count: int) -> list[np.ndarray]:
    """The next `count` of the patches; raises SystemExit where there are too few."""
    taken = [patch for _, patch in zip(range(count), patches, strict=False)]
    if len(taken) < count:
        raise SystemExit(f"too few patches for {SLIDES} + {CHOICE_SLIDES} slides of {COLUMNS * ROWS}")
    return taken


def train_run(part: Path, run: Path, mode: str, pooling: str, more: Sequence[object]) -> None:
    """Train all folds of a run, or what is left of them."""
    train(
        run, "--bags", part / "bags", "--labels", part / "labels.csv", "--pooling", pooling, "--backbone", BACKBONE,
        "--train-px", PATCH_PX, *COMMON, *TRAINING[mode], *more,
    )  # fmt: skip


def table(runs: Mapping[Path, tuple[str, str]]) -> list[str]:
    """A Markdown table of the finished runs: figures by slide out of fold, and the AUC of each fold."""
    lines = [
        machine("torch", "timm"), "",
        "| network | pooling | AUC | average precision | log loss | AUC of each fold |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for run, (mode, pooling) in runs.items():
        if is_finished(run):
            content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            cells = [interval(content["slides"][name]) for name in ("auc", "average_precision", "log_loss")]
            folds = " ".join(f"{fold['auc']:.2f}" for fold in content["folds"])
            lines.append(f"| {mode} | {pooling} | {' | '.join(cells)} | {folds} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
