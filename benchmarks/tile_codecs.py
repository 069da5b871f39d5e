"""What each way to store tiles costs: MB and seconds a bag of 16, and the error it makes, on tiles of given slides.

`python benchmarks/tile_codecs.py SLIDES…` prints the machine and three tables: tiles, their small copies, and what
small pictures cost without those. Without slides it draws one. All candidates take turns in each of several rounds;
times are medians over the rounds.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from tiling.codec import CODECS
from tiling.resample import resize
from tiling.slide import open_slide
from tiling.sources import find_slides
from tiling.spec import TileSpec
from tiling.synthetic.cohort import SlidePlan, write_slide
from tiling.tile import tile_slide

BAG = 16  # tiles, to which all figures are brought


class Candidate(NamedTuple):
    """One way to store tiles."""

    codec: str
    quality: int = 0
    chroma: int = 0

    def __str__(self) -> str:
        return f"{self.codec} q{self.quality} {':'.join(str(self.chroma))}" if self.quality else self.codec


JPEGS = [Candidate("jpeg", quality, chroma) for quality in (80, 85, 90, 95) for chroma in (420, 422, 444)]
LOSSLESS = [Candidate("webp"), Candidate("png"), Candidate("raw")]
SMALL_JPEGS = [Candidate("jpeg", quality, chroma) for quality in (90, 95, 97, 98, 99) for chroma in (420, 444)]
LARGE = [*(jpeg for jpeg in JPEGS if jpeg.chroma != 422), Candidate("raw")]


class Cost(NamedTuple):
    """MB, seconds and dB of a candidate; MB and seconds for a bag of 16."""

    mb: float
    encode_s: float
    decode_s: float
    worst_db: float
    mean_db: float


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path, help="slides or folders of slides")
    parser.add_argument("--downsample", type=float, default=1, help="level-0 pixels per pixel of the tiles")
    parser.add_argument("--size", type=int, default=1024, help="side of a tile in pixels")
    parser.add_argument("--train-px", type=int, default=256, help="side of the small copies in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="times everything is measured")
    args = parser.parse_args(argv)
    px = args.train_px
    tiles, slides = read_tiles(args.slides, args.downsample, args.size)
    small = [at_size(tile, px) for tile in tiles]
    print(
        machine("simplejpeg", "pillow", "numpy", "h5py")
        + f"\n{len(tiles)} tiles of {slides} slides at a downsample of {args.downsample:g}; per {BAG} tiles:"
    )
    for what, sources, wanted, candidates in (
        (f"Tiles of {args.size} px", tiles, tiles, [*JPEGS, *LOSSLESS]),
        (f"Small copies of {px} px", small, small, [*SMALL_JPEGS, *LOSSLESS]),
        (f"Tiles of {args.size} px brought to {px} px, against the small ones", tiles, small, LARGE),
    ):
        print(f"\n{what}\n\n{table(measure(sources, wanted, candidates, args.rounds))}")
    return 0


def read_tiles(sources: Sequence[Path], downsample: float, size: int) -> tuple[list[np.ndarray], int]:
    """The best tiles of the slides (of a drawn one if there are none) as RGB uint8, and the number of slides.

    They are cut off the grid of 16 px blocks that a slide in JPEG has of its own: on it, the error would look smaller.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not sources:
            write_slide(SlidePlan(label=1), Path(folder))
            sources = [Path(folder)]
        slides = find_slides(sources)
        tiles = []
        for ref in slides:
            bag, slide = tile_slide(ref.path, TileSpec(downsample=downsample, size=size)), open_slide(ref.path)
            side = bag.header.side0_px
            tiles += [
                slide.read_region(x - x % 16 + 5, y - y % 16 + 5, side, side, (size, size))
                for x, y in zip(bag.x0.tolist(), bag.y0.tolist(), strict=True)
            ]
    return tiles, len(slides)


def measure(
    tiles: Sequence[np.ndarray], wanted: Sequence[np.ndarray], candidates: Sequence[Candidate], rounds: int
) -> dict[Candidate, Cost]:
    """The cost of each candidate to store `tiles` and to get pictures of the size of `wanted` back, like those."""
    px, bags = len(wanted[0]), len(tiles) / BAG
    encode_s: dict[Candidate, list[float]] = {each: [] for each in candidates}
    decode_s: dict[Candidate, list[float]] = {each: [] for each in candidates}
    rest: dict[Candidate, tuple[float, float, float]] = {}
    for _ in range(rounds):
        for candidate in candidates:
            codec, *settings = CODECS[candidate.codec], candidate.quality, candidate.chroma
            start = time.perf_counter()
            encoded = [codec.encode(tile, *settings) for tile in tiles]
            middle = time.perf_counter()
            decoded = [at_size(codec.decode(data, px), px) for data in encoded]
            decode_s[candidate].append((time.perf_counter() - middle) / bags)
            encode_s[candidate].append((middle - start) / bags)
            errors = [psnr(*pair) for pair in zip(wanted, decoded, strict=True)]
            rest[candidate] = sum(map(len, encoded)) / bags / 1e6, min(errors), float(np.mean(errors))
    return {
        each: Cost(mb, float(np.median(encode_s[each])), float(np.median(decode_s[each])), worst, mean)
        for each, (mb, worst, mean) in rest.items()
    }


def at_size(rgb: np.ndarray, px: int) -> np.ndarray:
    """The picture at px x px."""
    return rgb if len(rgb) == px else resize(rgb, (px, px))


def psnr(rgb: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all channels, infinite where the pictures are the same."""
    error = float(np.mean((rgb.astype(np.float64) - other) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def table(costs: dict[Candidate, Cost]) -> str:
    """The costs as a Markdown table."""
    lines = ["| codec | MB | encode s | decode s | worst tile dB | mean dB |", "|---|---|---|---|---|---|"]
    for candidate, cost in costs.items():
        errors = ["exact" if np.isinf(error) else f"{error:.1f}" for error in (cost.worst_db, cost.mean_db)]
        cells = [str(candidate), f"{cost.mb:.2f}", f"{cost.encode_s:.3f}", f"{cost.decode_s:.3f}", *errors]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
