"""The tiler against the bare cost of its own parts and against the published recipe; memory; workers; many slides.

    python benchmarks/tiling.py --folder /tmp/slides

makes its slides in that folder (4 GB, kept for the next time), measures each figure in processes of its own, in turns,
and prints medians, ratios and peak memory. Every process computes on one thread, but for the recipe, which is given
all that libvips takes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine

LONGEST_EDGE_PX, TILE_PX, INSTANCES, QUALITY = 20000, 1024, 16, 90
SMALL_SLIDES = 2000
FLAT_FROM = 100  # slides after which memory must no longer grow


class Run(NamedTuple):
    """One measurement: seconds and peak memory of its process in MB."""

    seconds: float
    peak_mb: float


def main(argv: list[str] | None = None) -> int:
    """Make the slides, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-slides"), help="where the slides are made")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--width", type=int, default=80000, help="of the slides, in pixels")
    parser.add_argument("--height", type=int, default=60000, help="of the slides, in pixels")
    parser.add_argument("--only", choices=["speed", "workers", "many"], help="one part of it")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "SLIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        what, slide = args.measure
        seconds = MEASURES[what](Path(slide))
        print(json.dumps(Run(seconds, peak_mb())))
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    print(machine("openslide-python", "pyvips", "simplejpeg", "h5py"))
    for name, part in (("speed", speed), ("workers", workers), ("many", many)):
        if args.only in (None, name):
            part(args.folder, (args.width, args.height), args.rounds)
    return 0


# ---- speed and memory of one slide -----------------------------------------------------------------------------------


def speed(folder: Path, size_px: tuple[int, int], rounds: int) -> None:
    """Ours, the bare parts and the recipe, with and without a pyramid, and ours on slides of twice the area."""
    twice = size_px[0] * 3 // 2, size_px[1] * 4 // 3
    slides = {
        "pyramid": make(folder, size_px, True), "flat": make(folder, size_px, False),
        "pyramid twice": make(folder, twice, True), "flat twice": make(folder, twice, False),
    }  # fmt: skip
    jobs = [
        ("ours", "pyramid"), ("bare_pyramid_tiles", "pyramid"), ("bare_pyramid_vips", "pyramid"),
        ("recipe", "pyramid"), ("ours", "flat"), ("bare_flat_tiles", "flat"), ("bare_flat_vips", "flat"),
        ("recipe", "flat"), ("ours", "pyramid twice"), ("ours", "flat twice"),
    ]  # fmt: skip
    found = interleaved([(what, slides[slide]) for what, slide in jobs], rounds)
    medians = dict(zip(jobs, found, strict=True))
    print(f"\nA bag of {INSTANCES} tiles of {TILE_PX} px, longest edge {LONGEST_EDGE_PX} px; medians of {rounds} runs")
    print(f"{'slide':16}{'what':22}{'seconds':>9}{'peak MB':>9}   ours is")
    for kind in ("pyramid", "flat"):
        ours = medians["ours", kind]
        bare = min((medians[what, kind] for what, slide in jobs if slide == kind and what.startswith("bare")))
        for (what, slide), run in medians.items():
            if slide == kind:
                ratio = "" if what == "ours" else ratio_of(ours, run, fastest=run == bare)
                print(f"{slide:16}{what:22}{run.seconds:9.2f}{run.peak_mb:9.0f}   {ratio}")
    for slide in ("pyramid twice", "flat twice"):
        run = medians["ours", slide]
        print(f"{slide:16}{'ours':22}{run.seconds:9.2f}{run.peak_mb:9.0f}")


def ratio_of(ours: Run, other: Run, fastest: bool) -> str:
    """How ours stands to another run, in words."""
    ratio = ours.seconds / other.seconds
    text = f"{1 / ratio:.1f} times faster" if ratio < 1 / 3 else f"{ratio:.2f} times its time"
    return text + (" (the fastest reader)" if fastest else "")


def make(folder: Path, size_px: tuple[int, int], pyramid: bool) -> Path:
    """A slide of that size, made where it is not there yet."""
    from tiling.output import replacing
    from tiling.synthetic.large import write_large

    path = folder / f"{size_px[0]}x{size_px[1]}-{'pyramid' if pyramid else 'flat'}.tiff"
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        with replacing(path) as temporary:
            write_large(temporary, *size_px, seed=1, pyramid=pyramid)
    return path


def interleaved(jobs: Sequence[tuple[str, Path]], rounds: int) -> list[Run]:
    """The median of each job, all run in turns; the first round, which fills the system's caches, does not count."""
    runs: list[list[Run]] = [[] for _ in jobs]
    for turn in range(rounds + 1):
        for index, (what, slide) in enumerate(jobs):
            run = in_process(what, slide)
            if turn:
                runs[index].append(run)
            print(f"round {turn}: {what} {slide.name} {run.seconds:.2f} s", file=sys.stderr)
    return [Run(*(statistics.median(values) for values in zip(*each, strict=True))) for each in runs]


def in_process(what: str, slide: Path) -> Run:
    """One measurement in a process of its own."""
    environment = dict(os.environ)
    if what != "recipe":
        environment["VIPS_CONCURRENCY"] = "1"
    command = [sys.executable, __file__, "--measure", what, str(slide)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} of {slide} ended with status {done.returncode}\n{done.stderr}")
    return Run(*json.loads(done.stdout))


def best_of(work: Callable[[], object], times: int = 3) -> float:
    """The median of the seconds that `work` takes, after it was done once for nothing."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_ours(slide: Path) -> float:
    """From the path of a slide to its bag on the disk."""
    from tiling.bag import write_bag
    from tiling.spec import TileSpec
    from tiling.tile import tile_slide

    bag_path = slide.with_suffix(f".{os.getpid()}.h5")
    spec = TileSpec(INSTANCES, TILE_PX, LONGEST_EDGE_PX)
    try:
        return best_of(lambda: write_bag(bag_path, tile_slide(slide, spec)))
    finally:
        bag_path.unlink(missing_ok=True)


def corners_of(slide: Path) -> tuple[list[tuple[int, int]], int]:
    """The level-0 corners and side of the tiles that we choose, all inside the slide."""
    from tiling.spec import TileSpec
    from tiling.tile import tile_slide

    cache = slide.with_suffix(".json")
    if not cache.exists():
        bag = tile_slide(slide, TileSpec(INSTANCES, TILE_PX, LONGEST_EDGE_PX))
        corners = zip(bag.x0.tolist(), bag.y0.tolist(), strict=True)
        cache.write_text(json.dumps([list(corners), bag.header.side0_px]))
    corners, side0_px = json.loads(cache.read_text())
    return [tuple(corner) for corner in corners], side0_px


def measure_bare(slide: Path, by: str) -> float:
    """Reading the same regions, at the tiles' scale or at full resolution, reducing and encoding them; an overview."""
    import numpy as np
    import pyvips
    import simplejpeg
    from PIL import Image

    from tiling.tiff import read_pages

    corners, side0_px = corners_of(slide)
    pages = read_pages(slide)
    downsample = side0_px // TILE_PX
    index = max(i for i, page in enumerate(pages) if pages[0].width_px <= downsample * page.width_px)
    region = pyvips.Region.new(pyvips.Image.tiffload(str(slide), page=index))
    scale = pages[0].width_px // pages[index].width_px
    side_px, tiled = side0_px // scale, pages[index].tiled
    assert tiled is not None

    def read(x0: int, y0: int) -> np.ndarray:
        x, y = max(0, min(x0 // scale, tiled.width_px - side_px)), max(0, min(y0 // scale, tiled.height_px - side_px))
        if by == "tiles":
            return tiled.read(x, y, side_px, side_px)
        return np.frombuffer(region.fetch(x, y, side_px, side_px), np.uint8).reshape(side_px, side_px, 3)

    def work() -> None:
        for corner in corners:
            rgb = read(*corner)
            if side_px > TILE_PX:
                rgb = np.asarray(Image.fromarray(rgb).reduce(side_px // TILE_PX))
            simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), QUALITY, "RGB", "420")
        if len(pages) > 1:
            level = max(i for i, page in enumerate(pages) if page.width_px >= TILE_PX)
            overview = pyvips.Image.tiffload(str(slide), page=level).numpy()
            small = Image.fromarray(overview).resize((TILE_PX, TILE_PX * overview.shape[0] // overview.shape[1]))
            simplejpeg.encode_jpeg(np.asarray(small), QUALITY, "RGB", "420")

    return best_of(work)


def measure_recipe(slide: Path) -> float:
    """The published recipe: thumbnail, pad half on each side, cut, sort by the sum of the pixels, keep the darkest."""
    import numpy as np
    import pyvips

    start = time.perf_counter()
    rgb = pyvips.Image.thumbnail(str(slide), LONGEST_EDGE_PX).numpy()
    pad = [(-length % TILE_PX // 2, -length % TILE_PX - -length % TILE_PX // 2) for length in rgb.shape[:2]]
    rgb = np.pad(rgb, [*pad, (0, 0)], constant_values=255)
    rows, columns = rgb.shape[0] // TILE_PX, rgb.shape[1] // TILE_PX
    tiles = rgb.reshape(rows, TILE_PX, columns, TILE_PX, 3).swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX, 3)
    tiles = tiles[np.argsort(tiles.reshape(len(tiles), -1).sum(axis=-1))[:INSTANCES]]
    assert tiles.shape[0] == INSTANCES
    return time.perf_counter() - start


# ---- many slides -----------------------------------------------------------------------------------------------------


def workers(folder: Path, size_px: tuple[int, int], rounds: int) -> None:
    """Slides per minute with one and with two workers."""
    from tiling.batch import tile_batch
    from tiling.sources import SlideRef
    from tiling.spec import TileSpec
    from tiling.workers import run_slides

    count, spec = 60, TileSpec(INSTANCES, TILE_PX, LONGEST_EDGE_PX)
    slide, out = make(folder, size_px, True), folder / "bags"
    refs = [SlideRef(f"copy {index:03d}", slide) for index in range(count)]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(max(1, rounds // 2)):
        for number, found in seconds.items():
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            rows = tile_batch(refs, spec, out, partial(run_slides, workers=number))
            found.append(time.perf_counter() - start)
            assert all(row.status == "done" for row in rows)
    shutil.rmtree(out)
    one, two = (statistics.median(seconds[number]) for number in (1, 2))
    print(f"\n{count} slides with a pyramid, processes started and ended: {60 * count / one:.0f} slides a minute with")
    print(f"one worker, {60 * count / two:.0f} with two: {one / two:.2f} times as many")


def many(folder: Path, size_px: tuple[int, int], rounds: int) -> None:
    """Memory over 2,000 small slides in one process, and the time of a run that finds them all done."""
    from tiling.bag import bag_path, write_bag
    from tiling.batch import tile_batch
    from tiling.sources import SlideRef
    from tiling.spec import TileSpec
    from tiling.tile import tile_slide
    from tiling.workers import run_slides

    run = partial(run_slides, workers=2)
    slide, out = make(folder, (4096, 3072), True), folder / "bags"
    spec = TileSpec(INSTANCES, 256, downsample=1)
    refs = [SlideRef(f"copy {index:04d}", slide) for index in range(SMALL_SLIDES)]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    memory_mb = []
    for ref in refs:
        write_bag(bag_path(out, ref.slide_id), tile_slide(slide, spec, ref.slide_id))
        memory_mb.append(resident_mb())
    early, late = memory_mb[FLAT_FROM - 1], max(memory_mb[FLAT_FROM:])
    tile_batch(refs, spec, out, run)  # writes the manifest
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        tile_batch(refs, spec, out, run)
        seconds.append(time.perf_counter() - start)
    shutil.rmtree(out)
    print(f"\n{SMALL_SLIDES} small slides: {early:.0f} MB after {FLAT_FROM}, at most {late:.0f} MB from then on;")
    print(f"a run that finds all done: {1000 * statistics.median(seconds) / SMALL_SLIDES:.2f} ms a slide")


def resident_mb() -> float:
    """The memory of this process now."""
    return _memory_mb("VmRSS")


def peak_mb() -> float:
    """The most memory that this process has had."""
    return _memory_mb("VmHWM")


def _memory_mb(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


MEASURES: dict[str, Callable[[Path], float]] = {
    "ours": measure_ours,
    "bare_pyramid_tiles": lambda slide: measure_bare(slide, "tiles"),
    "bare_pyramid_vips": lambda slide: measure_bare(slide, "vips"),
    "bare_flat_tiles": lambda slide: measure_bare(slide, "tiles"),
    "bare_flat_vips": lambda slide: measure_bare(slide, "vips"),
    "recipe": measure_recipe,
}


if __name__ == "__main__":
    sys.exit(main())
