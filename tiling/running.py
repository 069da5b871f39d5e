"""Who does the work of a batch, and which part of it: the flags that `python -m tiling` and `reselect` share."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.errors import InputError
from tiling.progress import shown

if TYPE_CHECKING:
    from tiling.batch import Runner
    from tiling.manifest import ManifestRow
    from tiling.picker import Chipnet
    from tiling.shards import Shard
    from tiling.sources import SlideRef

_NAMED = 5  # slides


def add_running(parser: ArgumentParser, what: str) -> None:
    """Add the flags that say who does `what`."""
    cli.add_workers(parser, what)
    cli.add_time_limit(parser)
    parser.add_argument("--overwrite", action="store_true", help="make bags again that are there already")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="make only the I-th of N parts; in a Slurm array, the element's part",
    )
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help="work on a Dask cluster: the address of its scheduler, or slurm, pbs, lsf or sge",
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="with --dask slurm and the like: how many jobs, a slide each"
    )


def runner_from(args: Namespace) -> "Runner":
    """Who works on the slides."""
    workers, time_limit_s = cli.count_from(args, "workers"), cli.time_limit_from(args)
    if args.dask is None:
        from tiling.workers import run_slides

        return partial(run_slides, workers=workers, time_limit_s=time_limit_s)
    from tiling.cluster import run_on_dask

    return partial(run_on_dask, where=args.dask, jobs=cli.count_from(args, "jobs"), time_limit_s=time_limit_s)


def shard_from(args: Namespace) -> "Shard":
    """The shard that the flag or Slurm's array gives, said aloud."""
    from tiling.shards import WHOLE, parse_shard, shard_of_array

    shard = shard_of_array(os.environ) if args.shard is None else parse_shard(args.shard)
    if shard != WHOLE:
        why = "--shard" if args.shard else f"element {os.environ['SLURM_ARRAY_TASK_ID']} of a Slurm array"
        print(f"shard {shard} ({why})", file=sys.stderr)
    return shard


def out_from(args: Namespace) -> Path:
    """The folder for the bags, as workers elsewhere find it."""
    return Path(args.out) if args.dask is None else Path(os.path.abspath(args.out))


def add_chipnet(parser: ArgumentParser, help: str) -> None:
    """Add `--chipnet RUN`."""
    parser.add_argument("--chipnet", metavar="RUN", help=help)


def chipnet_from(args: Namespace, rank: str, needed: bool) -> "Chipnet | None":
    """The ChipNet run, opened; raises InputError where it is given and not `needed` by the rank, or the reverse."""
    if bool(args.chipnet) != needed:
        raise InputError(
            f"--rank {rank} needs a ChipNet that looks at the slides; give --chipnet RUN, which "
            "`train.py --arch chipnet` made"
            if needed
            else f"--chipnet says nothing with --rank {rank}; leave it out, or give --rank attention or box"
        )
    if not needed:
        return None
    from tiling.picker import open_chipnet

    return open_chipnet(Path(args.chipnet))


def tell_strangers(chipnet: "Chipnet", slides: "Sequence[SlideRef]") -> None:
    """Say which slides the ChipNet run does not know by name, and so may know by their patients.

    No error: mostly they are of new patients.
    """
    from tiling.picker import strangers

    new = [shown(slide.slide_id) for slide in strangers(chipnet, slides)]
    if new:
        more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        print(
            f"{len(new)} of {len(slides)} slides are new to the ChipNet run and have no patient_id, so all its folds "
            f"look at them: {', '.join(new[:_NAMED])}{more}. If it was trained on a patient among theirs, give a "
            "slides table with slide_id, path and patient_id: only the fold that has not seen the patient must look",
            file=sys.stderr,
        )


def summary(rows: "Sequence[ManifestRow]", out: Path, shard: "Shard") -> int:
    """Say what became of the slides; status 0 if all went well, 1 if some failed."""
    from tiling.manifest import manifest_name

    counts = Counter(row.status for row in rows)
    flat = sum(bool(row.note) for row in rows)
    noted = f" {flat} bags have a note there" if flat else ""
    print(
        f"{counts['done']} bags in {shown(out)}, {counts['empty']} slides without tissue, {counts['failed']} failed; "
        f"a row for each in {shown(out / manifest_name(shard))}{';' if noted else ''}{noted}"
    )
    return cli.SOME_FAILED if counts["failed"] else cli.OK
