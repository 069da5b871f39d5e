"""`python -m mil.merge PARTS… --out TABLE`: the tables of all shards of a scoring as one, the same as of one run."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError, TableError
from mil.origin import Origin, read_origin, refuse_other, slides_named, write_origin
from mil.pages import close_pages, model_names
from mil.parquet import is_parquet
from mil.patients import MEAN, NO_PATIENTS, PatientRule, refuse_rule, write_patients
from mil.predictions import FAILED, Row, is_score, read_rows, score_columns, write_rows
from tiling import cli
from tiling.errors import TilingError
from tiling.output import make_writable
from tiling.shards import WHOLE, Shard


def main(argv: list[str] | None = None) -> int:
    """Merge; status 0 if all slides have a score, 1 if some have none, 2 for wrong input: nothing is written then."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("python -m mil.merge", "Put the tables that shards of a scoring wrote into one.")
    parser.add_argument("parts", nargs="+", help="the tables of all shards, each with its .json beside it")
    parser.add_argument("--out", required=True, help="table for all of them, CSV or Parquet by its name")
    parser.add_argument("--patients", help="table with a row for every patient, CSV or Parquet by its name")
    cli.add_settings(parser, PatientRule, "patients")
    parser.add_argument("--report", help="folder that --report of the shards had, to write what needs all slides")
    parser.add_argument("--overwrite", action="store_true", help="replace tables that are there already")
    return parser


def _work(args: Namespace) -> int:
    out, patients = Path(args.out), Path(args.patients) if args.patients else None
    rule, report = cli.settings_from(args, PatientRule), Path(args.report) if args.report else None
    if rule != MEAN and patients is None:
        raise TableError(NO_PATIENTS)
    for path in filter(None, (out, patients)):
        if path.exists() and not args.overwrite:
            raise TableError(f"the file {str(path)!r} exists; choose another place, or --overwrite it")
        is_parquet(path)
    parts = {Path(path): read_origin(Path(path)) for path in args.parts}
    origin = together(parts)
    refuse_rule(rule, origin.task)
    rows = merged({path: read_rows(path) for path in parts}, origin)
    if report is not None:
        model_names(report)
    for path in filter(None, (out, patients)):
        make_writable(path.parent)
    write_rows(out, score_columns(origin.task), rows)
    write_origin(out, origin)
    if patients is not None:
        write_patients(patients, rows, origin.task, rule)
    if report is not None:
        close_pages(report, origin.task, rows)
    failed = sum(row["status"] == FAILED for row in rows)
    print(f"{len(rows) - failed} slides scored, {failed} failed; a row for each in {out}")
    return cli.SOME_FAILED if failed else cli.OK


def together(parts: Mapping[Path, Origin]) -> Origin:
    """What the table of all `parts` is made with; raises TableError where they are not all shards of one scoring."""
    (first, origin), *others = parts.items()
    if origin.shard == WHOLE:
        raise TableError(f"the table {str(first)!r} is that of a whole scoring; give those that --shard I/N wrote")
    for path, other in others:
        refuse_other(path, other, replace(origin, shard=Shard(other.shard.number, origin.shard.of)))
    numbers = sorted(each.shard.number for each in parts.values())
    twice = [number for number in numbers if numbers.count(number) > 1]
    missing = sorted({*range(1, origin.shard.of + 1)} - {*numbers})
    if twice or missing:
        what = f"shard {twice[0]} twice" if twice else f"no shard {', '.join(map(str, missing))}"
        raise TableError(f"of the {origin.shard.of} shards there is {what}; give the table of each once")
    return replace(origin, shard=WHOLE)


def merged(tables: Mapping[Path, Sequence[Row]], origin: Origin) -> list[Row]:
    """All rows in the order of the slides' names; raises TableError where they are not those of all slides, once."""
    columns, found = list(score_columns(origin.task)), dict[str, Path]()
    rows = []
    for path, table in tables.items():
        for row in table:
            if not is_score(row, columns) or row["model"] != origin.model:
                raise TableError(f"the table {str(path)!r} is not as it was written; score its shard again")
            name = row["slide_id"]
            if name in found:
                raise TableError(f"{str(found[name])!r} and {str(path)!r} both have the slide {name!r}; score again")
            found[name] = path
            rows.append(row)
    if origin.slides is None or slides_named(found) != origin.slides:
        expected = "another number of" if origin.slides is None else origin.slides.count
        raise TableError(
            f"the tables have {len(found)} slides together, and {expected} were to be scored; run the shard that was "
            "interrupted again with --resume"
        )
    return sorted(rows, key=itemgetter("slide_id"))


if __name__ == "__main__":
    sys.exit(main())
