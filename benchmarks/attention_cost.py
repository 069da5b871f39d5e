"""What attention adds to a tiling job: seconds a slide with `--rank attention --chipnet RUN`, and with `--rank tissue`.

`python benchmarks/attention_cost.py --chipnet RUN --folder FOLDER` draws a slide of 80,000 x 60,000 px there, once
(2 GB; another with `--slide`), and tiles it under 60 names by `python -m tiling`, with one worker and with two. All of
it counts, as a user waits for it: the start of the programs, torch's too, the reading of the ChipNet and its looking at
overviews. The ranks take turns; the first round, which fills the system's caches, does not count. Shown are medians.
"""

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.commands import command
from benchmarks.machine import machine
from benchmarks.tiling import make
from tiling.output import write_table

RANKS = ("tissue", "attention")


def main(argv: list[str] | None = None) -> int:
    """Measure, and print the table; status 0."""
    args = _parser().parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    slide = args.slide or make(args.folder, (80_000, 60_000), True)
    table = args.folder / "copies.csv"
    write_table(table, ["slide_id", "path"], ((f"copy {n:03d}", slide.resolve()) for n in range(args.copies)))
    jobs = [(workers, rank) for workers in args.workers for rank in RANKS]
    seconds: dict[tuple[int, str], list[float]] = {job: [] for job in jobs}
    for turn in range(args.rounds + 1):
        for workers, rank in jobs:
            one = tile(table, args.folder / "bags", rank, workers, args.chipnet) / args.copies
            print(f"round {turn}: {workers} workers, {rank}: {one:.3f} s a slide", file=sys.stderr)
            if turn:
                seconds[workers, rank].append(one)
    print(f"{machine('torch', 'timm', 'openslide-python', 'pyvips')}\n{args.copies} times {slide.name}\n")
    print("| workers | by tissue | by attention | added | ratio |\n|---|---|---|---|---|")
    for workers in args.workers:
        tissue, attention = (statistics.median(seconds[workers, rank]) for rank in RANKS)
        added = f"{attention - tissue:.3f} s | {attention / tissue:.2f}"
        print(f"| {workers} | {tissue:.3f} s a slide | {attention:.3f} s | {added} |")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--chipnet", type=Path, required=True, help="run of ChipNet, such as demo-attention/runs/chipnet")
    add("--folder", type=Path, default=Path("benchmark-slides"), help="where the slide is made, and its bags")
    add("--slide", type=Path, help="tile this slide in its place")
    add("--copies", type=int, default=60, help="how many times in a job")
    add("--workers", type=int, nargs="+", default=[1, 2], help="processes that read slides")
    add("--rounds", type=int, default=5, help="jobs of each kind")
    return parser


def tile(table: Path, bags: Path, rank: str, workers: int, chipnet: Path) -> float:
    """Seconds of a whole job, from nothing to the last bag."""
    shutil.rmtree(bags, ignore_errors=True)
    flags = ("--chipnet", chipnet.resolve()) if rank == "attention" else ()
    start = time.perf_counter()
    command("-m", "tiling", table, "--out", bags, "--rank", rank, "--workers", workers, *flags)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
