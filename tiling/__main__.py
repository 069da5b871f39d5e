"""`python -m tiling SLIDES… --out BAGS`: slides to bags."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.running import (
    add_chipnet,
    add_running,
    chipnet_from,
    out_from,
    runner_from,
    shard_from,
    summary,
    tell_strangers,
)


def main(argv: list[str] | None = None) -> int:
    """Tile slides; status 0 if all went well, 1 if some slide failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv)


def _parser() -> ArgumentParser:
    from tiling.spec import TileSpec

    parser = cli.make_parser(
        "python -m tiling", "Choose the best tiles of each slide and store them as one bag a slide."
    )
    parser.add_argument(
        "slides", nargs="+", help="slides, folders of slides, or a CSV with slide_id, path and maybe mpp, patient_id"
    )
    parser.add_argument("--out", required=True, help="folder for the bags and manifest.csv")
    cli.add_settings(parser, TileSpec, "tiles")
    add_chipnet(parser, "run of `train.py --arch chipnet` that says where to look, for --rank attention and box")
    cli.add_default_mpp(parser)
    cli.add_config(parser)
    add_running(parser, "read slides")
    return parser


def _work(args: Namespace) -> int:
    from tiling.batch import tile_batch
    from tiling.sources import find_slides
    from tiling.spec import TileSpec

    out, run, shard = out_from(args), runner_from(args), shard_from(args)
    spec = cli.settings_from(args, TileSpec)
    slides = shard.pick(find_slides(map(Path, args.slides), cli.default_mpp_from(args)))
    chipnet = chipnet_from(args, spec.rank, spec.needs_chipnet)
    if chipnet is not None:
        tell_strangers(chipnet, slides)
    with cli.interrupted_by_sigterm():
        rows = tile_batch(slides, spec, out, run, args.overwrite, shard, chipnet)
    return summary(rows, out, shard)


if __name__ == "__main__":
    sys.exit(main())
