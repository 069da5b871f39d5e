"""`python -m tiling.status BAGS`: how far a batch is, what failed and why, what is noted, and how long is left."""

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.errors import InputError
from tiling.manifest import Manifest, ManifestRow, manifest_name, read_manifests
from tiling.output import written_name
from tiling.progress import shown
from tiling.shards import WHOLE, Shard

GONE = "its bag is gone; run the same again"

_PAUSE_S = 600.0  # no slide takes longer unless it is told to: a longer time without a bag is one without a job
_RECENT = 200  # bags whose times say how fast it goes
_SLIDES_SHOWN = 5  # of each cause, and of each kind of note


class Status(NamedTuple):
    """How far a folder of bags is.

    `rows` has a row a slide, `shard_of` the shard that has it, `not_started` the shards that must exist and have
    written nothing. `bag_times_s` are the times at which bags were finished, rising, and `changed_s` that of the last
    sign of life, in seconds since 1970.
    """

    rows: dict[str, ManifestRow]
    shard_of: dict[str, Shard]
    not_started: list[Shard]
    bag_times_s: list[float]
    changed_s: float

    @property
    def complete(self) -> bool:
        """Whether every slide has a bag, or no tissue."""
        return not self.not_started and all(row.status in ("done", "empty") for row in self.rows.values())


def main(argv: list[str] | None = None) -> int:
    """Say how far a batch is; status 0 if all is done, 1 if slides failed or are missing, 2 for wrong input."""
    return cli.run(_parser, _work, argv)


def _parser() -> ArgumentParser:
    parser = cli.make_parser("python -m tiling.status", "Say how far the tiling of slides is.")
    parser.add_argument("bags", help="folder of bags, as given to --out")
    return parser


def _work(args: Namespace) -> int:
    status = read_status(Path(args.bags))
    for line in report(status, time.time()):
        print(line)
    return cli.OK if status.complete else cli.SOME_FAILED


def read_status(folder: Path) -> Status:
    """How far a folder is, from its manifests and the times of its bags; no bag is opened."""
    if not folder.is_dir():
        raise InputError(f"no such folder of bags: {str(folder)!r}; check the path")
    manifests = read_manifests(folder)
    if not manifests:
        raise InputError(
            f"the folder {str(folder)!r} has no {manifest_name(WHOLE)}, so nothing was tiled into it; check the path"
        )
    times_s = {written_name(entry.name.removesuffix(".h5")): entry.stat().st_mtime for entry in _bags(folder)}
    rows, shard_of = {}, {}
    for manifest in manifests:
        for slide_id, row in manifest.rows.items():
            rows[slide_id] = _as_of_now(row, times_s.get(slide_id), manifest.written_s)
            shard_of[slide_id] = manifest.shard
    not_started = _not_started(manifests, set(shard_of.values()))
    changed_s = max([*(manifest.written_s for manifest in manifests), *times_s.values()])
    return Status(rows, shard_of, not_started, sorted(times_s.values()), changed_s)


def _as_of_now(row: ManifestRow, bag_s: float | None, written_s: float) -> ManifestRow:
    """A row corrected by what has become of its bag (finished at `bag_s`) since the manifest was written."""
    if row.status == "done" and bag_s is None:
        return row._replace(status="failed", error=GONE)
    if row.status == "waiting" and bag_s is not None and bag_s > written_s:
        return row._replace(status="done", error="")
    return row


def _bags(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name.endswith(".h5") and not entry.name.startswith("."))


def _not_started(manifests: Sequence[Manifest], in_use: set[Shard]) -> list[Shard]:
    """The shards that others of the same number imply; those of an older cut, all of it tiled again since, do not."""
    there = {manifest.shard for manifest in manifests}
    wanted = {Shard(number, of) for of in {shard.of for shard in in_use} for number in range(1, of + 1)}
    return sorted(shard for shard in wanted - there if shard != WHOLE)


def report(status: Status, now_s: float) -> Iterator[str]:
    """The lines that tell a person."""
    yield _counts(status.rows.values())
    shards = set(status.shard_of.values())
    if shards != {WHOLE}:
        for shard in sorted(shards, key=lambda shard: (shard.of, shard.number)):
            rows = [row for slide_id, row in status.rows.items() if status.shard_of[slide_id] == shard]
            yield f"  {'without shards' if shard == WHOLE else f'shard {shard}'}: {_counts(rows)}"
    for shard in status.not_started:
        yield f"  shard {shard}: not started"
    yield from _causes(status.rows.values())
    yield from _notes(status.rows.values())
    if not status.complete:
        yield left(status, now_s)


def _counts(rows: Iterable[ManifestRow]) -> str:
    counts = Counter(row.status for row in rows)
    return (
        f"{counts['done']} done, {counts['empty']} without tissue, {counts['failed']} failed, "
        f"{counts['waiting']} missing, of {counts.total()}"
    )


def _causes(rows: Iterable[ManifestRow]) -> Iterator[str]:
    """The causes of failures, the most frequent first, each with some of its slides."""
    failed = [row for row in rows if row.status == "failed"]
    yield from _groups((row.error.replace(repr(row.path), "the slide"), row.slide_id) for row in failed)


def _notes(rows: Iterable[ManifestRow]) -> Iterator[str]:
    """What manifests note of bags that are there, the most frequent first, each with some of the slides."""
    noted = [row for row in rows if row.status == "done" and row.note]
    if noted:
        yield f"  {len(noted)} bags have a note:"
        yield from (f"  {line}" for line in _groups((row.kind_of_note, row.slide_id) for row in noted))


def _groups(said: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line for each thing that is said of slides, given with their names."""
    slides = defaultdict(list)
    for what, name in said:
        slides[what].append(name)
    for what, names in sorted(slides.items(), key=lambda item: (-len(item[1]), item[0])):
        more = f" and {len(names) - _SLIDES_SHOWN} more" if len(names) > _SLIDES_SHOWN else ""
        yield f"  {len(names)} × {shown(what)}: {', '.join(map(shown, names[:_SLIDES_SHOWN]))}{more}"


def left(status: Status, now_s: float) -> str:
    """How long is left at the pace of the last bags, or what to do where nothing goes on."""
    missing = sum(row.status == "waiting" for row in status.rows.values())
    if not missing and not status.not_started:
        return "nothing is under way; run the same again to try the failed slides once more"
    silent_s = now_s - status.changed_s
    each_s = seconds_a_bag(status.bag_times_s)
    if silent_s > _PAUSE_S:
        return f"nothing has been finished for {duration(silent_s)}: is a job running?"
    if not missing or each_s is None:
        return "too few bags are finished to say how long is left"
    at_least = "at least " if status.not_started else ""
    return f"{at_least}{duration(missing * each_s)} left, at {duration(each_s)} a slide"


def seconds_a_bag(times_s: Sequence[float]) -> float | None:
    """The mean time between the last bags without the pauses in which no job ran; None for fewer than two."""
    gaps_s = [after - before for before, after in pairwise(times_s[-_RECENT:]) if after - before < _PAUSE_S]
    return sum(gaps_s) / len(gaps_s) if gaps_s else None


def duration(seconds: float) -> str:
    """A time as a person says it: two units at most."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} {int(seconds % unit_s // part_s)} {part}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
