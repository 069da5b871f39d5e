"""How fast slides are scored, against the slower of the two halves of it alone; and whether memory stays flat.

`python benchmarks/infer.py SLIDES…` scores the slides (a drawn one if none are given), each as often as it takes to
have --slides, with untrained networks, which are as fast as trained ones. In every round three things take turns:

- Ready: the slides tiled, or their bags read, and decoded for the network, and nothing done with them.
- Scored: the same, which lie in memory, given to the thread that scores.
- Whole: both at once, as infer.py does it, with a table that is written as rows come.

Shown are medians of slides a minute, and of the share that the whole has of the slower half within a round. A machine
has to do both halves on the cores there are: with one worker and one thread of PyTorch, as is the default, each half
has a core of its own where there are two. --slides must be many against what starting a worker takes, which both the
first and the last pay.

Then --many small slides are scored, and the resident memory of all processes is shown as it goes on.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in workers

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import device_name, machine
from tiling.bag import bag_path, write_bag
from tiling.bags import open_bags
from tiling.ready import Ready, Stream, Wanted, reader, tiler
from tiling.sources import SlideRef, find_slides
from tiling.spec import TileSpec
from tiling.synthetic.cohort import SlidePlan, write_slide
from tiling.tile import tile_slide
from tiling.todo import Todo

if TYPE_CHECKING:  # workers begin with what this file imports, and those of infer.py do without torch
    import torch

    from mil.scorer import Scorer
    from mil.scoring import Scored

CLASSES = ("0", "1")
Make = Callable[[Todo], Stream]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="slides or folders of slides")
    parser.add_argument("--downsample", type=float, default=1, help="level-0 pixels per pixel of the tiles")
    parser.add_argument("--size", type=int, default=512, help="side of a tile in pixels")
    parser.add_argument("--train-px", type=int, default=224, help="side at which the network takes tiles")
    parser.add_argument("--instances", type=int, default=16, help="tiles of a slide")
    parser.add_argument("--backbone", default="resnet18", help="timm model")
    parser.add_argument("--folds", type=int, default=1, help="networks that score each slide")
    parser.add_argument("--slides", type=int, default=64, help="slides of a round")
    parser.add_argument("--rounds", type=int, default=3, help="times everything is measured")
    parser.add_argument("--workers", type=int, default=1, help="processes that tile, or threads that read")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--ways", nargs="+", choices=["slides", "bags"], default=["slides", "bags"], help="from what")
    parser.add_argument("--many", type=int, default=1000, help="small slides for the memory; 0: it is not measured")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to score")
    args = parser.parse_args(argv)
    import torch

    from mil.predict import pick_device

    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    print(
        f"{machine('torch', 'timm')}; {args.slides} slides of {args.instances} tiles of {args.size} px, {args.folds} x "
        f"{args.backbone} at {args.train_px} px on {device_name(device.type)}, {args.workers} workers; "
        f"{args.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.rounds:
            measure_speed(args, Path(folder), device)
        if args.many:
            measure_memory(args, Path(folder), device)
    return 0


def make_run(folder: Path, spec: TileSpec, backbone: str, px: int, folds: int, device: "torch.device") -> "Scorer":
    """A run with untrained networks."""
    import torch

    from mil.checkpoint import ModelCard, save_model
    from mil.metadata import MetadataCoder
    from mil.model import build_model
    from mil.scorer import load_scorer
    from mil.settings import ModelSpec
    from mil.task import Task

    torch.manual_seed(0)
    task = Task(CLASSES)
    model = ModelSpec(backbone=backbone, train_px=px, pretrained=False)
    for fold in range(folds):
        card = ModelCard(model, task, asdict(spec), MetadataCoder({}, {}), fold, 1)
        network = build_model(model, task, card.bag_spec, card.metadata)
        save_model(folder / f"fold_{fold}", network, card)
    (folder / "folds.csv").write_text("slide_id,patient_id,label,fold\na,a,0,0\nb,b,1,1\n")
    named = ", ".join(f'{{"fold": {fold}}}' for fold in range(folds))
    (folder / "metrics.json").write_text(f'{{"folds": [{named}]}}')
    return load_scorer([folder], device)


def measure_speed(args: argparse.Namespace, folder: Path, device: "torch.device") -> None:
    """Print how fast slides and bags are made ready, scored, and both."""
    spec = TileSpec(size=args.size, longest_edge=None, downsample=args.downsample, instances=args.instances)
    scorer = make_run(folder / "run", spec, args.backbone, args.train_px, args.folds, device)
    if not args.sources:
        (folder / "slides").mkdir()
        write_slide(SlidePlan(label=1), folder / "slides")
    sources = find_slides(args.sources or [folder / "slides"])
    wanted = Wanted(scorer.card.bag_spec, scorer.sides)
    slides = [sources[n % len(sources)]._replace(slide_id=f"n{n:05d}") for n in range(args.slides)]
    for slide in slides:
        source = bag_path(folder / "bags", slide.path.stem)
        if not source.exists():
            source.parent.mkdir(exist_ok=True)
            write_bag(source, tile_slide(slide.path, spec, slide.slide_id))
        os.link(source, bag_path(folder / "bags", slide.slide_id))
    ways: dict[str, Make] = {
        "slides": tiler(wanted, None, args.workers, 600.0),
        "bags": reader(open_bags(folder / "bags"), wanted, args.workers),
    }
    print("\n| from | ready alone, slides/min | scored alone | whole | of the slower half |\n|---|---|---|---|---|")
    for name in args.ways:
        rounds = [one_round(scorer, slides, ways[name], folder, turn) for turn in range(args.rounds)]
        ready, scored, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
        share = statistics.median(all_of / min(first, second) for first, second, all_of in rounds)
        print(f"| {name} | {ready:.1f} | {scored:.1f} | {whole:.1f} | {share:.2f} |", flush=True)


def one_round(
    scorer: "Scorer", slides: list[SlideRef], make: Make, folder: Path, turn: int
) -> tuple[float, float, float]:
    """Slides a minute: made ready, scored from memory, and both; which of them comes first is another each `turn`."""
    from mil.scoring import Scoring

    with closing(make(Todo(slides[:4]))) as found:
        kept = [(slide, ready) for slide, ready in found if isinstance(ready, Ready)]

    def only_ready() -> None:
        with closing(make(Todo(slides))) as found:
            for _ in found:
                pass

    def only_scored() -> None:
        with Scoring(scorer, None, lambda _: None) as scoring:
            for number in range(len(slides)):
                scoring.put(*kept[number % len(kept)])

    works = [only_ready, only_scored, lambda: score(scorer, slides, make, folder, lambda _: None)]
    rates = {place: rate(len(slides), works[place]) for place in ((turn + shift) % 3 for shift in range(3))}
    return rates[0], rates[1], rates[2]


def rate(count: int, work: Callable[[], None]) -> float:
    """How many of `count` a minute."""
    start = time.perf_counter()
    work()
    return 60 * count / (time.perf_counter() - start)


def score(scorer: "Scorer", slides: list[SlideRef], make: Make, folder: Path, also: "Callable[[Scored], None]") -> None:
    """Score as infer.py does."""
    from mil.origin import Origin
    from mil.predictions import score_columns
    from mil.score_all import score_all
    from mil.score_table import begin

    origin = Origin(scorer.digest, scorer.task, {})
    table = begin(folder / "scores.csv", score_columns(scorer.task), origin, resume=False)
    score_all(scorer, None, table, Todo(slides), make, [also], tell=lambda _: None)
    errors = {row["error"] for row in table.rows}
    assert errors == {""}, errors


def measure_memory(args: argparse.Namespace, folder: Path, device: "torch.device") -> None:
    """Print the resident memory of this process and its workers while many small slides are scored."""
    spec = TileSpec(size=64, longest_edge=None, downsample=1, instances=8)
    scorer = make_run(folder / "small", spec, "test_resnet", 64, 2, device)
    write_slide(SlidePlan("small", size_px=(512, 512)), folder)
    slides = [SlideRef(f"n{number:05d}", folder / "small.tiff") for number in range(args.many)]
    watch = MemoryWatch({max(1, args.many * part // 10) for part in range(1, 11)})
    score(scorer, slides, tiler(Wanted(scorer.card.bag_spec, scorer.sides), None, args.workers, 600.0), folder, watch)
    print(f"\n| of {args.many} slides | this process, MiB | its workers, MiB |\n|---|---|---|")
    for count, own, others in watch.seen:
        print(f"| {count} | {own:.0f} | {others:.0f} |")


class MemoryWatch:
    """Notes the resident memory of this process and of its workers, in MiB, when so many slides are scored."""

    def __init__(self, marks: set[int]) -> None:
        self.marks, self.count = marks, 0
        self.seen: list[tuple[int, float, float]] = []

    def __call__(self, _: "Scored") -> None:
        """Another slide is scored."""
        self.count += 1
        if self.count in self.marks:
            self.seen.append((self.count, resident_mib("self"), sum(map(resident_mib, children()))))


def resident_mib(process: str) -> float:
    """What a process has in memory."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def children() -> list[str]:
    """The processes that this one has started."""
    tasks = Path("/proc/self/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


if __name__ == "__main__":
    raise SystemExit(main())
