"""`python -m tiling SLIDES… --out BAGS`: slides to bags."""

import sys
from collections import Counter
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from tiling import cli


def main(argv: list[str] | None = None) -> int:
    """Tile slides; status 0 if all went well, 1 if some slide failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv)


def _parser() -> ArgumentParser:
    from tiling.tile import TileSpec

    parser = cli.make_parser(
        "python -m tiling", "Choose the best tiles of each slide and store them as one bag a slide."
    )
    parser.add_argument(
        "slides", nargs="+", help="slides, folders of slides, or a CSV with slide_id, path and maybe mpp"
    )
    parser.add_argument("--out", required=True, help="folder for the bags and manifest.csv")
    cli.add_settings(parser, TileSpec, "tiles")
    cli.add_config(parser)
    cli.add_workers(parser, "read slides")
    parser.add_argument("--overwrite", action="store_true", help="make bags again that are there already")
    return parser


def _work(args: Namespace) -> int:
    from tiling.batch import tile_batch
    from tiling.manifest import MANIFEST
    from tiling.sources import find_slides
    from tiling.tile import TileSpec

    out, workers = Path(args.out), cli.workers_from(args)
    spec = cli.settings_from(args, TileSpec)
    slides = find_slides(Path(slide) for slide in args.slides)
    rows = tile_batch(slides, spec, out, workers, args.overwrite)
    counts = Counter(row.status for row in rows)
    print(
        f"{counts['done']} bags in {out}, {counts['empty']} slides without tissue, {counts['failed']} failed; "
        f"a row for each in {out / MANIFEST}"
    )
    return cli.SOME_FAILED if counts["failed"] else cli.OK


if __name__ == "__main__":
    sys.exit(main())
