"""How fast training gets its bags, by how they are stored: bags/s of the loader with and without worker processes.

`python benchmarks/loading.py SLIDES…` tiles the slides (a drawn one if none are given) in each way, and lets all ways
take turns in several rounds; medians are shown, and the ratio to JPEG without small copies.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from mil.data import BagDataset, PixelReader, loader
from tiling import merge
from tiling.bag import write_bag
from tiling.bags import open_bags
from tiling.sources import find_slides
from tiling.synthetic.cohort import SlidePlan, write_slide
from tiling.tile import TileSpec, tile_slide

BATCH = 4


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path, help="slides or folders of slides")
    parser.add_argument("--downsample", type=float, default=1, help="level-0 pixels per pixel of the tiles")
    parser.add_argument("--size", type=int, default=1024, help="side of a tile in pixels")
    parser.add_argument("--train-px", type=int, default=256, help="side at which the network takes tiles")
    parser.add_argument("--bags", type=int, default=24, help="bags in a round: the slides' own, over and over")
    parser.add_argument("--workers", type=int, default=2, help="worker processes beside the main one")
    parser.add_argument("--rounds", type=int, default=5, help="times everything is measured")
    args = parser.parse_args(argv)
    spec = TileSpec(downsample=args.downsample, size=args.size)
    with tempfile.TemporaryDirectory() as folder:
        stores = make_stores(args.slides, spec, args.train_px, args.bags, Path(folder))
        rates = measure(stores, args.train_px, (0, args.workers), args.rounds)
    print(
        machine("torch", "simplejpeg", "h5py")
        + f"; {args.bags} bags of up to {spec.instances} tiles of {args.size} px, read at {args.train_px} px"
    )
    print(f"\n| bags | MB a bag | bags/s, no workers | ratio | bags/s, {args.workers} workers | ratio |")
    print("|---|---|---|---|---|---|")
    for name, (alone, with_workers) in rates.items():
        ratios = [rate / base for rate, base in zip((alone, with_workers), rates["jpeg"], strict=True)]
        size = stores[name][1] / args.bags / 1e6
        print(f"| {name} | {size:.1f} | {alone:.1f} | {ratios[0]:.1f} | {with_workers:.1f} | {ratios[1]:.1f} |")
    return 0


def make_stores(
    sources: Sequence[Path], spec: TileSpec, train_px: int, bags: int, folder: Path
) -> dict[str, tuple[Path, int]]:
    """Each way to store the bags: its folder or merged file, and its bytes."""
    if not sources:
        (folder / "slides").mkdir()
        write_slide(SlidePlan(label=1), folder / "slides")
        sources = [folder / "slides"]
    slides = find_slides(sources)
    stores: dict[str, tuple[Path, int]] = {}
    for codec in ("jpeg", "webp", "raw"):
        for small in (None, train_px):
            out = folder / f"{codec}-{small}"
            out.mkdir()
            made = [tile_slide(ref.path, replace(spec, codec=codec, train_px=small)) for ref in slides]
            for number in range(bags):
                write_bag(out / f"{number:04d}.h5", made[number % len(made)])
            size = sum(path.stat().st_size for path in out.iterdir())
            stores[codec if small is None else f"{codec} with small copies"] = out, size
    merged = folder / "merged.h5"
    merge.merge(*merge.together([open_bags(stores["jpeg with small copies"][0])]), merged)
    stores["jpeg with small copies, merged"] = merged, merged.stat().st_size
    return stores


def measure(
    stores: dict[str, tuple[Path, int]], px: int, workers: Sequence[int], rounds: int
) -> dict[str, list[float]]:
    """Bags/s of each store for each number of workers."""
    loaders = {
        (name, count): loader(BagDataset(refs, np.zeros(len(refs), int), PixelReader(px)), BATCH, count)
        for name, refs in ((name, list(open_bags(path).refs.values())) for name, (path, _) in stores.items())
        for count in workers
    }
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in loaders}
    for turn in range(rounds + 1):
        for key, batches in loaders.items():
            start = time.perf_counter()
            bags = sum(len(batch.target_B) for batch in batches)
            if turn:  # the first round starts the workers
                rates[key].append(bags / (time.perf_counter() - start))
    return {name: [float(np.median(rates[name, count])) for count in workers] for name in stores}


if __name__ == "__main__":
    raise SystemExit(main())
