"""`python -m tiling SLIDES… --out BAGS`: slides to bags."""

import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.progress import shown

if TYPE_CHECKING:
    from tiling.batch import Runner
    from tiling.shards import Shard


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
    cli.add_default_mpp(parser)
    cli.add_config(parser)
    cli.add_workers(parser, "read slides")
    cli.add_time_limit(parser)
    parser.add_argument("--overwrite", action="store_true", help="make bags again that are there already")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="tile only the I-th of N parts; in a Slurm array, the element's part",
    )
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help="work on a Dask cluster: the address of its scheduler, or slurm, pbs, lsf or sge",
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="with --dask slurm and the like: how many jobs, a slide each"
    )
    return parser


def _work(args: Namespace) -> int:
    from tiling.batch import tile_batch
    from tiling.manifest import manifest_name
    from tiling.sources import find_slides
    from tiling.tile import TileSpec

    out, run, shard = Path(args.out), _runner(args), _shard(args.shard)
    if args.dask is not None:
        out = Path(os.path.abspath(out))  # the workers may be in another folder
    spec = cli.settings_from(args, TileSpec)
    slides = shard.pick(find_slides(map(Path, args.slides), cli.default_mpp_from(args)))
    with cli.interrupted_by_sigterm():
        rows = tile_batch(slides, spec, out, run, args.overwrite, shard)
    counts = Counter(row.status for row in rows)
    print(
        f"{counts['done']} bags in {shown(out)}, {counts['empty']} slides without tissue, {counts['failed']} failed; "
        f"a row for each in {shown(out / manifest_name(shard))}"
    )
    return cli.SOME_FAILED if counts["failed"] else cli.OK


def _runner(args: Namespace) -> "Runner":
    workers, time_limit_s = cli.count_from(args, "workers"), cli.time_limit_from(args)
    if args.dask is None:
        from tiling.workers import run_slides

        return partial(run_slides, workers=workers, time_limit_s=time_limit_s)
    from tiling.cluster import run_on_dask

    return partial(run_on_dask, where=args.dask, jobs=cli.count_from(args, "jobs"), time_limit_s=time_limit_s)


def _shard(given: str | None) -> "Shard":
    """The shard that the flag or Slurm's array gives, said aloud."""
    from tiling.shards import WHOLE, parse_shard, shard_of_array

    shard = shard_of_array(os.environ) if given is None else parse_shard(given)
    if shard != WHOLE:
        why = "--shard" if given else f"element {os.environ['SLURM_ARRAY_TASK_ID']} of a Slurm array"
        print(f"shard {shard} ({why})", file=sys.stderr)
    return shard


if __name__ == "__main__":
    sys.exit(main())
