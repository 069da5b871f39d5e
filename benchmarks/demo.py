"""The whole road on made-up slides: tile, train, score, draw; prints each command, and how good the result is.

`make demo` runs it. The slides are synthetic, so that where their lesions lie is known.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.catch import LESION_SHARE
from benchmarks.commands import ROOT

if TYPE_CHECKING:
    from mil.intervals import Estimate

MARK = "made-by-gigabag-demo"  # only a folder that holds this file is emptied
LEAST_SLIDES = 12  # a smaller cohort has none of the faulty slides that the demo is to show


def main(argv: list[str] | None = None) -> int:
    """Run the demo; status 0 if every step did what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all it makes, emptied first")
    parser.add_argument("--slides", type=int, default=40, help="slides to train on")
    parser.add_argument("--held-out", type=int, default=20, help="slides to score")
    args = parser.parse_args(argv)
    if min(args.slides, args.held_out) < LEAST_SLIDES:
        parser.error(f"--slides and --held-out are at least {LEAST_SLIDES} each")
    try:
        empty(args.out)
    except OSError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    run_steps(args.out, args.slides, args.held_out)
    print()
    print(report(args.out))
    print(f"\nThe demo took {(time.perf_counter() - start) / 60:.1f} minutes.")
    return 0


def empty(out: Path) -> None:
    """An empty folder of ours; raises FileExistsError rather than delete what the demo did not make."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise FileExistsError(f"the folder {str(out)!r} holds other things; choose another with --out (make: OUT=…)")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def run_steps(out: Path, slides: int, held_out: int) -> None:
    """Make slides, tile, train and score, each by its command."""
    import infer
    import train
    from tiling import __main__ as tile
    from tiling.synthetic import __main__ as synthetic

    bags, run = out / "bags", out / "run"
    configs = ROOT / "configs"
    step("python -m tiling.synthetic", synthetic.main, "--out", out / "train", "--slides", slides, "--seed", 1)
    step(
        "python -m tiling.synthetic", synthetic.main,
        "--out", out / "held-out", "--slides", held_out, "--seed", 2, "--prefix", "new",
    )  # fmt: skip
    # Status 1: one of the slides is cut short, on purpose.
    step(
        "python -m tiling", tile.main,
        out / "train" / "slides", "--out", bags, "--config", configs / "demo.tiling.yaml", expected=1,
    )  # fmt: skip
    step(
        "python train.py", train.main,
        "--bags", bags, "--labels", out / "train" / "labels.csv", "--out", run, "--config", configs / "demo.train.yaml",
    )  # fmt: skip
    step(
        "python infer.py", infer.main,
        "--run", run, "--slides", out / "held-out" / "slides", "--out", out / "scores.csv",
        "--heatmaps", out / "heatmaps", expected=1,
    )  # fmt: skip


def step(command: str, main: Callable[[list[str]], int], *arguments: object, expected: int = 0) -> None:
    """Print a command as one would type it, and run it; leaves the demo where its status is not the expected one."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {command} {' '.join(words)}", flush=True)
    status = main(words)
    if status != expected:
        sys.exit(f"demo: `{command}` ended with status {status}, not {expected}; see its messages above")


def held_out_auc(scores: Path, labels: Path) -> "Estimate":
    """The AUC, over patients, of the slides in a table of scores."""
    from mil.intervals import estimate
    from mil.metrics import auc
    from mil.predictions import read_predictions

    rows, probabilities = read_predictions(scores, ("0", "1"))
    known = pd.read_csv(labels, dtype=str).set_index("slide_id").loc[rows["slide_id"]]
    return estimate(auc, probabilities, known["label"].astype(int).to_numpy(), known["patient_id"].to_numpy())


def report(out: Path) -> str:
    """What was made, where, and how good it is."""
    held_out = held_out_auc(out / "scores.csv", out / "held-out" / "labels.csv")
    scored = len(pd.read_csv(out / "scores.csv"))
    metrics = json.loads((out / "run" / "metrics.json").read_text())["slides"]["auc"]
    caught, among, chance = lesion_tiles(out / "bags", out / "train" / "lesions.csv")
    rows = [
        ("slides", out / "train" / "slides", "and held-out/slides, with their labels.csv and lesions.csv"),
        ("bags", out / "bags", f"{caught} of the {among} lesion tiles there are (by chance: {chance:.0f})"),
        ("run", out / "run", f"AUC out of fold {metrics['value']:.3f} ({metrics['low']:.3f} to {metrics['high']:.3f})"),
        ("scores", out / "scores.csv", f"AUC on {scored} held-out slides {held_out}"),
        ("pictures", out / "heatmaps", "each held-out slide with its tiles and their attention"),
    ]
    width = max(len(str(path)) for _, path, _ in rows)
    lines = [f"  {name:9} {path!s:{width}}  {what}" for name, path, what in rows]
    return "\n".join(["Made (intervals are 95 %, over patients):", *lines])


def lesion_tiles(bags: Path, lesions: Path) -> tuple[int, int, float]:
    """Lesion tiles in the bags, lesion tiles there are, and how many as many random tissue tiles would have caught."""
    from tiling.bag import read_bag
    from tiling.rank import make_grid, tissue_share
    from tiling.slide import open_slide
    from tiling.synthetic.cohort import lesion_share, read_lesions
    from tiling.view import look

    caught, among, chance = 0, 0, 0.0
    for slide_id, truth in read_lesions(lesions).items():
        path = bags / f"{slide_id}.h5"
        if not path.exists():
            continue
        bag = read_bag(path)
        header = bag.header
        grid = make_grid(header.width_px, header.height_px, header.spec["downsample"], header.spec["size"])
        x0, y0 = grid.corners0(np.arange(grid.rows * grid.columns))
        there = int((lesion_share(truth, x0, y0, grid.side0_px) >= LESION_SHARE).sum())
        mask = look(open_slide(header.slide_path), grid, len(bag), header.spec["size"]).tissue()
        cells = int((tissue_share(mask, grid) >= header.spec["min_tissue"]).sum())
        caught += int((lesion_share(truth, bag.x0, bag.y0, header.side0_px) >= LESION_SHARE).sum())
        among += there
        chance += there * len(bag) / cells
    return caught, among, chance


if __name__ == "__main__":
    sys.exit(main())
