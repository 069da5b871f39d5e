"""How fast training gets its bags: decoded, from the cache, and against bare reading; and how long it waits for them.

`python benchmarks/loader.py SLIDES…` tiles the slides (a drawn one if none are given), puts their tiles into bags of
--instances each, and stores these in each way. All ways of a table take turns in several rounds; shown are medians, and
medians of the ratios within a round. What is fed is first compared: all ways to read a store give the same tensors.

- Cold: bags/s of batches decoded from the bags, by the thread that asks and by others ahead of it.
- Warm: from the cache, against reading the same files in the same order into the memory of two batches in turns (one is
  with the training while the next is read); epochs of twenty times the bags.
- Steps: an epoch of training steps fed from the cache against the same steps on batches that lie on the device; with
  --decode, fed by the device's own JPEG decoder, at the tiles' full size. On a CPU the network is a tiny one, for there
  is nothing to wait for with another.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from benchmarks.machine import device_name, machine
from mil.cache import TileCache, open_cache
from mil.data import BagDataset, Batch, JpegReader, PixelReader, Reader
from mil.feed import feed
from mil.model import build_model
from mil.order import Batches
from mil.predict import pick_device
from mil.settings import ModelSpec
from mil.task import Task
from tiling import merge
from tiling.bag import Bag, BagRef, read_header, write_bag
from tiling.bags import open_bags
from tiling.sources import find_slides
from tiling.spec import TileSpec
from tiling.synthetic.cohort import SlidePlan, write_slide
from tiling.tile import tile_slide

Epoch = Callable[[], None]
CPU = torch.device("cpu")
WARM_EPOCHS, WARM_ROUNDS = 20, 5  # one after the other in a round, and rounds for each of the cold ones: they are short
_SMALL = " with small copies"


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0, or 1 where two ways give other tensors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path, help="slides or folders of slides")
    parser.add_argument("--downsample", type=float, default=1, help="level-0 pixels per pixel of the tiles")
    parser.add_argument("--size", type=int, default=1024, help="side of a tile in pixels")
    parser.add_argument("--train-px", type=int, default=256, help="side at which the network takes tiles")
    parser.add_argument("--instances", type=int, default=16, help="tiles of a bag")
    parser.add_argument("--bags", type=int, default=24, help="bags of an epoch")
    parser.add_argument("--batch", type=int, default=4, help="bags of a batch")
    parser.add_argument("--codecs", nargs="+", default=["jpeg"], help="jpeg, png, webp, raw; jpeg is always among them")
    parser.add_argument("--threads", type=int, default=2, help="threads that read ahead")
    parser.add_argument("--rounds", type=int, default=5, help="times everything is measured")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train")
    parser.add_argument("--backbones", nargs="*", help="timm models to train; none: no steps are measured")
    parser.add_argument("--decode", action="store_true", help="steps also at --size, decoded by the device")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    if args.backbones is None:
        args.backbones = ["test_resnet"] if device == CPU else ["resnet18", "efficientnetv2_rw_t"]
    print(
        f"{machine('torch', 'simplejpeg', 'h5py')}; {args.bags} bags of {args.instances} tiles of {args.size} px, in "
        f"batches of {args.batch}, at {args.train_px} px; {args.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        stores = make_stores(args, Path(folder))
        return measure_all(args, stores, device)


def measure_all(args: argparse.Namespace, stores: dict[str, list[BagRef]], device: torch.device) -> int:
    """Print all tables; gives the status."""
    plan = Batches(args.bags, args.batch, 0, shuffle=True).plan(0)
    refs = stores["jpeg"]
    cache = open_cache(refs, [args.instances] * args.bags, read_header(refs[0]).spec, args.train_px, "auto")
    if cache is None:
        return 1
    same = compare(args, stores, cache, plan)
    print(f"\nall ways give the same tensors: {'yes' if same else 'NO'}")
    cold, warm, by_processor = measure_reading(args, stores, cache, plan)
    print(f"\n| cold | MB a bag | bags/s, no threads | ratio | bags/s, {args.threads} threads | ratio |")
    print("|---|---|---|---|---|---|")
    for name, its in stores.items():
        size = sum(path.stat().st_size for path in {ref.path for ref in its}) / args.bags / 1e6
        columns = [f"{median(cold[name, n])} | {ratio(cold[name, n], cold['jpeg', n])}" for n in (0, args.threads)]
        print(f"| {name} | {size:.1f} | {' | '.join(columns)} |")
    print("\n| warm | bags/s | of bare reading | bags a core-second | of bare reading | of decoding |")
    print("|---|---|---|---|---|---|")
    for name, rates in warm.items():
        cores, least = by_processor[name], by_processor["bare reading"]
        print(
            f"| {name} | {median(rates)} | {ratio(rates, warm['bare reading'])} | {median(cores)} | "
            f"{ratio(cores, least)} | {times(rates, cold['jpeg', 0])} |"
        )
    if args.backbones:
        print(f"\nsteps on {device_name(device.type)}, forward, backward and AdamW{'' if device == CPU else ', bf16'}")
        print("\n| backbone | px | fed by | bags/s | on batches that are there | ratio |\n|---|---|---|---|---|---|")
    for backbone in args.backbones:
        measure_steps(args, backbone, args.train_px, "cache", BagDataset(refs, targets(refs), cache), plan, device)
        if args.decode:
            read = JpegReader(args.size)
            measure_steps(args, backbone, args.size, "decoder", BagDataset(refs, targets(refs), read), plan, device)
    return 0 if same else 1


def median(values: list[float]) -> str:
    """With three digits or more."""
    value = statistics.median(values)
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def ratio(ones: list[float], others: list[float]) -> str:
    """The median of the ratios within a round."""
    value = statistics.median(one / other for one, other in zip(ones, others, strict=True))
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def times(ones: list[float], others: list[float]) -> str:
    """The ratio of medians from different rounds."""
    return f"{statistics.median(ones) / statistics.median(others):.0f}"


def targets(refs: Sequence[BagRef]) -> np.ndarray:
    """Two classes in turns."""
    return np.arange(len(refs)) % 2


def make_stores(args: argparse.Namespace, folder: Path) -> dict[str, list[BagRef]]:
    """The bags in each way to store them."""
    if not args.slides:
        (folder / "slides").mkdir()
        write_slide(SlidePlan(label=1), folder / "slides")
    slides = find_slides(args.slides or [folder / "slides"])
    stores: dict[str, list[BagRef]] = {}
    for codec in dict.fromkeys(["jpeg", *args.codecs]):
        for small in (None, args.train_px):
            spec = TileSpec(downsample=args.downsample, size=args.size, codec=codec, train_px=small)
            tiles = [bag for bag in (tile_slide(ref.path, spec) for ref in slides) if len(bag)]
            out = folder / f"{codec}-{small}"
            out.mkdir()
            for number in range(args.bags):
                write_bag(out / f"{number:04d}.h5", composed(tiles, number, args.instances))
            stores[codec + (_SMALL if small else "")] = list(open_bags(out).refs.values())
    merged = folder / "merged.h5"
    merge.merge(*merge.together([open_bags(folder / f"jpeg-{args.train_px}")]), merged)
    stores[f"jpeg{_SMALL}, merged"] = list(open_bags(merged).refs.values())
    return stores


def composed(bags: Sequence[Bag], number: int, instances: int) -> Bag:
    """A bag of so many tiles, those of all bags in turn."""
    of = [(bag, index) for bag in bags for index in range(len(bag))]
    chosen = [of[(number * instances + place) % len(of)] for place in range(instances)]
    arrays = {name: np.array([getattr(bag, name)[index] for bag, index in chosen]) for name in _ARRAYS}
    first = chosen[0][0]
    header = replace(first.header, slide_id=f"{number:04d}", tiles=instances)
    tiles = tuple(bag.tiles[index] for bag, index in chosen if bag.tiles)
    small = tuple(bag.small[index] for bag, index in chosen if bag.small) or None
    return Bag(header, tiles, **arrays, overview=first.overview, small=small)


_ARRAYS = ("x0", "y0", "score", "tissue")


def compare(
    args: argparse.Namespace, stores: dict[str, list[BagRef]], cache: TileCache, plan: list[np.ndarray]
) -> bool:
    """Whether threads, the cache, and merging change nothing of what is fed."""
    pixels: Reader = PixelReader(args.train_px)
    merged = f"jpeg{_SMALL}"
    pairs = [(refs, pixels, refs, pixels) for refs in stores.values()]
    pairs += [(stores["jpeg"], pixels, stores["jpeg"], cache)]
    pairs += [(stores[merged], pixels, stores[f"{merged}, merged"], pixels)]
    for refs, read, others, its in pairs:
        one = feed(BagDataset(refs, targets(refs), read), plan, CPU, 0)
        other = feed(BagDataset(others, targets(others), its), plan, CPU, args.threads)
        if not all(
            torch.equal(*parts) for batches in zip(one, other, strict=True) for parts in zip(*batches, strict=True)
        ):
            return False
    return True


def measure_reading(
    args: argparse.Namespace, stores: dict[str, list[BagRef]], cache: TileCache, plan: list[np.ndarray]
) -> tuple[dict[tuple[str, int], list[float]], dict[str, list[float]], dict[str, list[float]]]:
    """Bags/s in each round: of each store by the number of threads, and of each way to have what the cache holds.

    The last once more by processor time, which other work on the machine changes less.
    """
    pixels, refs = PixelReader(args.train_px), stores["jpeg"]
    cold = {
        (name, threads): partial(fed, BagDataset(its, targets(its), pixels), plan, threads)
        for name, its in stores.items()
        for threads in (0, args.threads)
    }
    fast, plan = BagDataset(refs, targets(refs), cache), WARM_EPOCHS * plan
    files = [[cache(refs[place]) for place in places] for places in plan]
    paths, size = [[stored.path for stored in batch] for batch in files], 3 * args.instances * args.train_px**2
    buffers = [np.zeros(max(map(len, plan)) * size, np.uint8) for _ in range(2)]
    warm = {
        "bare reading": partial(bare, paths, buffers, size),
        "bare reading, always into the same memory": partial(bare, paths, buffers[:1], size),
        "copying from new memory maps": partial(mapped, paths, buffers, size),
        "the cache, no threads": partial(fed, fast, plan, 0),
        f"the cache, {args.threads} threads": partial(fed, fast, plan, args.threads),
    }
    bags, rounds = WARM_EPOCHS * args.bags, WARM_ROUNDS * args.rounds
    return (
        in_turns(cold, args.bags, args.rounds),
        in_turns(warm, bags, rounds),
        in_turns(warm, bags, rounds, time.process_time),
    )


def in_turns(
    ways: Mapping[Any, Epoch], bags: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Any, list[float]]:
    """Bags/s of each way in each round; the first round warms up."""
    rates: dict[Any, list[float]] = {key: [] for key in ways}
    for turn in range(rounds + 1):
        for key, epoch in ways.items():
            start = clock()
            epoch()
            if turn:
                rates[key].append(bags / (clock() - start))
    return rates


def fed(dataset: BagDataset, plan: list[np.ndarray], threads: int) -> None:
    """An epoch of batches of which nothing is done."""
    for _ in feed(dataset, plan, CPU, threads):
        pass


def bare(paths: list[list[Path]], buffers: list[np.ndarray], size: int) -> None:
    """The files of each batch, read one after the other; two buffers in turns, for a batch is in use meanwhile."""
    for turn, batch in enumerate(paths):
        memory = buffers[turn % len(buffers)].data
        for place, path in enumerate(batch):
            with path.open("rb", buffering=0) as file:
                count = file.readinto(memory[place * size : (place + 1) * size])
            assert count == size, "a file was read in part"


def mapped(paths: list[list[Path]], buffers: list[np.ndarray], size: int) -> None:
    """The same from memory maps."""
    for turn, batch in enumerate(paths):
        for place, path in enumerate(batch):
            into = buffers[turn % len(buffers)][place * size : (place + 1) * size]
            np.copyto(into, np.memmap(path, np.uint8, "r"))


def measure_steps(
    args: argparse.Namespace, backbone: str, px: int, by: str, dataset: BagDataset, plan: list[np.ndarray],
    device: torch.device,
) -> None:  # fmt: skip
    """Print bags/s of an epoch that is fed, and of one on batches that lie on the device."""
    task, spec = Task(("0", "1")), ModelSpec(backbone=backbone, train_px=px)
    net = build_model(spec, task, {"instances": args.instances}).to(device).train()
    net.half_precision = None if device == CPU else torch.bfloat16
    optimizer = torch.optim.AdamW(net.parameters(), 1e-5)
    there = list(feed(dataset, plan, device))

    def epoch(batches: Sequence[Batch] | None) -> None:
        for batch in feed(dataset, plan, device) if batches is None else batches:
            optimizer.zero_grad()
            logits = net(batch.instances_M, batch.mask_BN, batch.metadata_BF).logits_BK
            torch.autograd.backward(nn.functional.cross_entropy(logits, batch.target_B))
            optimizer.step()
        if device != CPU:
            torch.cuda.synchronize()

    rates = in_turns({"fed": partial(epoch, None), "there": partial(epoch, there)}, len(dataset), args.rounds)
    print(
        f"| {backbone} | {px} | {by} | {median(rates['fed'])} | {median(rates['there'])} | "
        f"{ratio(rates['fed'], rates['there'])} |", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
