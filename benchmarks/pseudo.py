"""What do unlabelled slides bring? Labels of a fifth of the slides, spread to the others, against all labels.

`python benchmarks/pseudo.py PATCHES.zip WEIGHTS --out FOLDER` takes the slides of `benchmarks/accuracy.py`, composed of
real patches, and its frozen backbone, whose features it writes once: a vector for each tile, the mean over positions,
which is what `train.py --freeze all --no-augment` computes too. Then, for each draw:

1. The patients are dealt into five parts. Each is tested once by models that have seen nothing of it.
2. Of the other four parts' patients a fifth is drawn, as stratified: their slides are labelled, all others are not.
3. `train.py` on the labelled slides; `python -m mil.pseudo`, and `train.py` on the wider table; `train.py` on all
   slides with their own labels. Three folds each; epochs so many that all make about as many steps.
4. `infer.py` scores the fifth part with each of the three runs.

Every slide thus has a score of each of the three in each draw. AUCs are of slides tested by the same models; figures
are means over draws, intervals are over patients, whose resamples are the same for all, and so of differences in pairs.
With `--choose` the same is done on the 80 slides on which settings are chosen, with labels for two fifths.

A run that is finished is not run again. The table is printed at the end, or at once with `--table`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import infer
import train
from benchmarks import accuracy
from benchmarks.commands import command, is_finished
from benchmarks.machine import machine
from benchmarks.patches import PATCH_PX
from mil import pseudo
from mil.chance import seed_of
from mil.data import PixelReader
from mil.folds import deal
from mil.labels import Labels, read_labels
from mil.metrics import METRICS, auc_within_folds, problems
from mil.model import build_model, start_from_weights
from mil.settings import ModelSpec
from mil.task import Task
from tiling.bags import open_bags
from tiling.features import write_features
from tiling.output import write_table

PARTS = 5
SHARES = {"test": 5, "choice": 2.5}  # one in so many patients is labelled
STEPS, BATCH = 200, 8
ARMS = ("labelled only", "with pseudo labels", "all labels")
RESAMPLES = 2000
TRAINING = [
    *("--folds", "3", "--batch-size", str(BATCH), "--device", "cpu", "--lr", "2e-3", "--lr-end", "2e-5"),
    *("--lr-attention", "1e-5", "--loader-workers", "0"),
]


def main(argv: list[str] | None = None) -> int:
    """Train and score what is not there yet, and print the table; status 0."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    part = args.out / ("choice" if args.choose else "test")
    if not args.table:
        if not (args.out / "patches.txt").exists():
            accuracy.compose(args.patches, args.out, 0)
        if not (part / "features").exists():
            command("-m", "tiling", part / "slides", "--out", part / "bags", *accuracy.TILING)
            extract(part, args.weights)
        for draw in args.draws:
            run_draw(part, draw, args.pooling, args.spread)
    print("\n".join(table(part, args.pooling, args.spread)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", type=Path, help="zip with normal/*.jpg and tumor/*.jpg of 96 x 96 px")
    parser.add_argument("weights", type=Path, help=f"weights of {accuracy.BACKBONE}")
    parser.add_argument("--out", type=Path, required=True, help="folder for slides, bags and runs")
    parser.add_argument(
        "--draws", type=int, nargs="+", default=[*range(5)], help="numbers of the draws of the labelled"
    )
    parser.add_argument("--pooling", default="avg", help="how the tiles of a slide become one")
    parser.add_argument("--choose", action="store_true", help="run on the 80 slides for the choice of settings")
    parser.add_argument("--table", action="store_true", help="print what is there, and train nothing")
    parser.add_argument("--spread", nargs=argparse.REMAINDER, default=[], help="flags of mil.pseudo, at the end")
    return parser


def extract(part: Path, weights: Path) -> None:
    """Write the features of all tiles, float32 (N, C) for each slide, by the backbone with its weights."""
    spec = ModelSpec(backbone=accuracy.BACKBONE, train_px=PATCH_PX, weights=str(weights.resolve()))
    net = build_model(spec, Task(("0", "1")), {}).eval()
    start_from_weights(net, spec)
    read, out = PixelReader(PATCH_PX), part / "features.part"
    out.mkdir(exist_ok=True)
    for name, ref in open_bags(part / "bags").refs.items():
        with torch.inference_mode():
            vectors_NC = net.encoder.backbone(read(ref)).mean(dim=(2, 3))
        write_features(out / f"{name}.h5", vectors_NC.numpy(), encoder=accuracy.BACKBONE)
    out.rename(part / "features")


def run_draw(part: Path, draw: int, pooling: str, spread: Sequence[str]) -> None:
    """Train and score all arms for each part of a draw, as far as that is not done."""
    labels = read_labels(part / "labels.csv")
    slides, part_of = labels.table, deal(labels.table["patient_id"], labels.strata, PARTS, draw)
    for tested in range(PARTS):
        folder = part / "pseudo" / pooling / f"draw_{draw}" / f"part_{tested}"
        folder.mkdir(parents=True, exist_ok=True)
        rest = np.flatnonzero(part_of != tested)
        known = labelled(labels.at(rest), SHARES[part.name], seed_of(draw, tested))
        write_labels(folder / "all labels.csv", slides.iloc[rest])
        write_labels(folder / "labelled only.csv", slides.iloc[rest], known)
        write_labels(folder / "few.csv", slides.iloc[rest[known]])
        wide = folder / name_of(ARMS[1], spread, ".csv")
        train_arm(part, folder, folder / "few.csv", ARMS[0], pooling)
        if not wide.exists():
            # The tested slides have bags too, but no row: those they must not be spread to are moved out of reach.
            reach(part, folder, slides["slide_id"].iloc[rest])
            run, bags, few = folder / ARMS[0], folder / "features", folder / "labelled only.csv"
            words = ["--run", run, "--bags", bags, "--labels", few, "--out", wide, "--device", "cpu", *spread]
            assert pseudo.main([*map(str, words)]) == 0
        train_arm(part, folder, wide, ARMS[1], pooling, spread)
        train_arm(part, folder, folder / "all labels.csv", ARMS[2], pooling)


def labelled(labels: Labels, share: float, seed: int) -> np.ndarray:
    """The places of the slides of one in `share` patients, int (n,)."""
    return np.flatnonzero(deal(labels.table["patient_id"], labels.strata, round(2 * share), seed) < 2)


def write_labels(path: Path, slides: pd.DataFrame, known: np.ndarray | None = None) -> None:
    """A labels table of these slides, in which only those at the places `known` have a label, if it is given."""
    has = np.ones(len(slides), bool) if known is None else np.isin(np.arange(len(slides)), known)
    label = slides["label"].where(has, "")
    rows = zip(slides["slide_id"], slides["patient_id"], label, strict=True)
    write_table(path, ["slide_id", "patient_id", "label"], rows)


def reach(part: Path, folder: Path, slides: pd.Series) -> None:
    """A folder with links to the features of these slides."""
    (folder / "features").mkdir(exist_ok=True)
    for slide in slides:
        link = folder / "features" / f"{slide}.h5"
        if not link.exists():
            link.symlink_to((part / "features" / f"{slide}.h5").resolve())


def name_of(arm: str, spread: Sequence[str], end: str = "") -> str:
    """The name of what belongs to an arm; that of the pseudo labels has the flags in it."""
    return "_".join([arm, *(word.strip("-") for word in spread)]) + end


def train_arm(part: Path, folder: Path, labels: Path, arm: str, pooling: str, spread: Sequence[str] = ()) -> None:
    """Train a run of an arm and score all slides with it, unless that is done."""
    run, scores = folder / name_of(arm, spread), folder / name_of(arm, spread, ".scores.csv")
    words = ["--bags", part / "features", "--labels", labels, "--out", run, "--pooling", pooling, "--resume"]
    epochs = str(math.ceil(STEPS / math.ceil(learned_from(labels) / BATCH)))
    if not is_finished(run):
        assert train.main([*map(str, words), *TRAINING, "--epochs", epochs, "--patience", epochs]) == 0
    if not scores.exists():
        words = ["--run", run, "--bags", part / "features", "--out", scores, "--device", "cpu", "--workers", "1"]
        assert infer.main([*map(str, words)]) == 0


def learned_from(labels: Path) -> float:
    """About how many slides a fold of a table learns from: of three folds two, of these four fifths, and all others."""
    table = pd.read_csv(labels, dtype=str, keep_default_na=False)
    pseudo_fold = table["pseudo_fold"] if "pseudo_fold" in table else pd.Series("", index=table.index)
    own = pseudo_fold == ""
    return own.sum() * 2 / 3 * 4 / 5 + (~own).sum() / 3


def table(part: Path, pooling: str, spread: Sequence[str]) -> list[str]:
    """A Markdown table of the figures of the arms and their differences, and of the AUC in each draw."""
    labels = read_labels(part / "labels.csv")
    folders = sorted((part / "pseudo" / pooling).glob("draw_*"), key=lambda path: int(path.name.partition("_")[2]))
    names = [name_of(arm, spread if arm == ARMS[1] else (), ".scores.csv") for arm in ARMS]
    done = [
        each for each in folders if all((each / f"part_{k}" / name).exists() for k in range(PARTS) for name in names)
    ]
    found: dict[str, dict[str, np.ndarray]] = {"AUC": {}, "log loss": {}}
    for arm in ARMS:
        scores = [scores_of(labels.table["slide_id"], draw, part_of(labels, draw), arm, spread) for draw in done]
        for name, of in found.items():
            of[arm] = np.stack([figures(name, *each, labels) for each in scores])
    lines = [machine("torch"), f"{len(done)} draws, {len(labels)} slides", "", "| | AUC | log loss |", "|---|---|---|"]
    for what, first, second in (*((arm, arm, None) for arm in ARMS), *((f"{b} less {a}", b, a) for a, b in PAIRS)):
        cells = [in_words(of[first] - (of[second] if second else 0)) for of in found.values()]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += ["", "AUC of each draw, " + ", ".join(ARMS) + ":"]
    return lines + [" ".join(f"{found['AUC'][arm][draw, 0]:.3f}" for arm in ARMS) for draw in range(len(done))]


PAIRS = ((ARMS[0], ARMS[1]), (ARMS[0], ARMS[2]), (ARMS[1], ARMS[2]))


def part_of(labels: Labels, draw: Path) -> np.ndarray:
    """The part that tested each slide in a draw, int (slides,)."""
    number = int(draw.name.partition("_")[2])
    return deal(labels.table["patient_id"], labels.strata, PARTS, number)


def scores_of(
    slides: pd.Series, draw: Path, tested_in: np.ndarray, arm: str, spread: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (slides, 2) of each slide by the models that had not seen it, and which part they are of."""
    name = name_of(arm, spread if arm == ARMS[1] else (), ".scores.csv")
    found = np.full((len(slides), 2), np.nan)
    for tested in range(PARTS):
        scores = pd.read_csv(draw / f"part_{tested}" / name).set_index("slide_id")
        rows = tested_in == tested
        found[rows] = scores.loc[slides[rows], ["prob_normal", "prob_tumour"]]
    return found, tested_in


def figures(name: str, chances: np.ndarray, tested_in: np.ndarray, labels: Labels) -> np.ndarray:
    """A figure of the slides as they are, and behind it in each resample of the patients, float (1 + RESAMPLES,)."""
    metric = auc_within_folds(tested_in) if name == "AUC" else METRICS["log_loss"]
    return metric.weighted(problems(chances, labels.targets), resamples(labels.table["patient_id"]))


def resamples(patients: pd.Series) -> np.ndarray:
    """How often each slide counts, float (1 + RESAMPLES, slides): once, then with patients drawn with replacement."""
    names, patient_of = np.unique(patients, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return np.concatenate([np.ones((1, len(names))), drawn])[:, patient_of]


def in_words(figures: np.ndarray) -> str:
    """The mean over draws (draws, 1 + RESAMPLES) with its 95 % interval over patients."""
    mean = figures.mean(axis=0)
    low, high = np.percentile(mean[1:], [2.5, 97.5])
    return f"{mean[0]:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    sys.exit(main())
