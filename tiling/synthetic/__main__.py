"""`python -m tiling.synthetic --out DIR`: slides with known lesions."""

import sys
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from tiling import cli


def main(argv: list[str] | None = None) -> int:
    """Make a cohort; status 0 if it went well, 2 for wrong input."""
    return cli.run(_parser, _work, argv)


def _parser() -> ArgumentParser:
    from tiling.synthetic.histology import DEFAULT_SIZE_PX

    parser = cli.make_parser("python -m tiling.synthetic", "Make slides that look like H&E, with known lesions.")
    add = parser.add_argument
    add("--out", required=True, help="new or empty folder for slides/, labels.csv and lesions.csv")
    add("--slides", type=int, default=36, help="how many slides")
    add("--seed", type=int, default=0, help="another seed, other slides")
    add("--prefix", type=str, default="slide", help="how the slides' names begin")
    cli.add_workers(parser, "draw slides")
    add("--width", type=int, default=DEFAULT_SIZE_PX[0], help="width of a slide in pixels")
    add("--height", type=int, default=DEFAULT_SIZE_PX[1], help="height of a slide in pixels")
    add(
        "--lesions",
        type=Literal["crowded", "pale"],
        default="crowded",
        help="crowded nuclei; or pale: small, and lighter than the tissue about them",
    )
    add("--no-faults", action="store_true", help="no truncated slide, none without tissue, none without mpp")
    return parser


def _work(args: Namespace) -> int:
    from tiling.synthetic.cohort import make_cohort

    size_px, workers = (args.width, args.height), cli.count_from(args, "workers")
    make_cohort(Path(args.out), args.slides, args.seed, args.prefix, workers, size_px, not args.no_faults, args.lesions)
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
