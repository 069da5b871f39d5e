"""`python infer.py --run RUN --slides SLIDES… --out scores.csv`: a probability for every slide, or why not."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError
from mil.parquet import is_parquet
from mil.patients import MEAN, NO_PATIENTS, PatientRule, refuse_rule
from tiling import cli
from tiling.arriving import Arriving, WatchSpec
from tiling.bag import CHIPNET
from tiling.bags import Bags, open_bags
from tiling.errors import InputError, TilingError
from tiling.features import is_features
from tiling.output import make_writable, written_name
from tiling.picker import chipnet_for
from tiling.progress import shown, visible
from tiling.ready import Wanted, reader, tiler
from tiling.running import shard_from
from tiling.shards import WHOLE, Shard
from tiling.sources import SlideRef, find_slides
from tiling.todo import Todo

if TYPE_CHECKING:
    import pandas as pd

    from mil.drawing import Drawing
    from mil.pages import Pages
    from mil.score_table import ScoreTable
    from mil.scorer import Scorer
    from mil.scoring import Scored


def main(argv: list[str] | None = None) -> int:
    """Score slides or bags; status 0 if all have a score, 1 if some failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("infer.py", "Score slides, or bags made before, with trained runs.")
    add = parser.add_argument
    add("--run", nargs="+", required=True, help="run that train.py wrote, several, or an ensemble; all folds count")
    add("--slides", nargs="+", help="slides, folders of slides, or a slides table, tiled on the fly")
    add("--bags", help="folder of bags, a merged file of them, or feature files, in place of slides")
    add("--metadata", help="CSV with slide_id and the columns of metadata that the runs were trained with")
    add("--patient-ids", help="CSV with slide_id and patient_id, where no slides table says them")
    add("--out", required=True, help="CSV or Parquet file with a row for every slide")
    add("--patients", help="CSV or Parquet file with a row for every patient")
    cli.add_settings(parser, PatientRule, "patients")
    tta_help = "looks at each slide, all but the first augmented as in training; or the eight symmetries of the square"
    add("--tta", type=int | Literal["symmetries"], default=1, help=tta_help)
    average_help = "what the mean is taken of, probabilities if left out; an ensemble knows"
    add("--average", type=Literal["probabilities", "logits"] | None, help=average_help)
    add("--resume", action="store_true", help="keep the scores that --out has, and make the others")
    add(
        "--shard", metavar="I/N", help="score only the I-th of N parts, into a table of its own; in a Slurm array, the "
        "element's part; `python -m mil.merge` puts them together",
    )  # fmt: skip
    add("--watch", action="store_true", help="take slides as they come into the folders, until each has a file DONE")
    cli.add_settings(parser, WatchSpec, "folders that are still filling")
    add("--report", help="folder for pages to read in a browser: all slides, each slide, the model (index.html)")
    add("--heatmaps", help="folder for a picture of each slide with its tiles and their attention, and a GeoJSON")
    add("--grad-cam", action="store_true", help="show on these pictures where in the tiles the evidence is")
    add("--chipnet", metavar="RUN", help="the ChipNet run that picked the tiles of the training, if one did")
    cli.add_default_mpp(parser)
    cli.add_workers(parser, "tile slides, or threads that read bags")
    cli.add_time_limit(parser)
    add("--instance-chunk", type=int, help="tiles that go through the backbone at a time; all if left out")
    add("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def _work(args: Namespace) -> int:
    shard, watch_spec, rule = shard_from(args), cli.settings_from(args, WatchSpec), cli.settings_from(args, PatientRule)
    refuse_together(args, shard, rule)
    workers, time_limit_s = cli.count_from(args, "workers"), cli.time_limit_from(args)
    instance_chunk = None if args.instance_chunk is None else cli.count_from(args, "instance_chunk")
    default_mpp = cli.default_mpp_from(args)
    bags = open_bags(Path(args.bags)) if args.bags else None
    slides = [] if args.watch else find_slides(map(Path, args.slides)) if bags is None else slides_of(bags)
    from mil.predict import pick_device  # torch: wrong input is told before
    from mil.score_all import score_all
    from mil.scorer import load_scorer
    from mil.slide_tables import read_metadata, read_patients

    runs = list(map(Path, args.run))
    scorer = load_scorer(runs, pick_device(args.device), instance_chunk, args.tta, args.average)
    refuse_rule(rule, scorer.task)
    metadata = read_metadata(args.metadata, scorer.card.metadata)
    if metadata is not None:
        tell_unmatched(slides, metadata, args.metadata)
    complete = partial(completed, default_mpp, read_patients(args.patient_ids))
    slides = [complete(slide) for slide in slides]
    refuse_bags(scorer, bags, drawn=bool(args.heatmaps))
    wanted = Wanted(scorer.card.bag_spec, scorer.sides, drawn=bool(args.heatmaps or args.report))
    chipnet = chipnet_for(args.chipnet, wanted.spec.get(CHIPNET), tiles=bags is None)
    make = tiler(wanted, chipnet, workers, time_limit_s) if bags is None else reader(bags, wanted, workers)
    table = open_table(args, scorer, slides, shard)
    drawing, pages = drawing_from(args, scorer), pages_from(args, scorer)
    if args.watch:
        todo: Todo = Arriving(list(map(Path, args.slides)), watch_spec, complete, table.names, tell)
    else:
        todo = Todo(slide for slide in shard.pick(slides) if written_name(slide.slide_id) not in table.names)
    score_all(scorer, metadata, table, todo, make, followers(drawing, pages), tell)
    return finish(args, scorer, rule, table, drawing, pages if shard == WHOLE else None)


def refuse_together(args: Namespace, shard: Shard, rule: PatientRule) -> None:
    """Raise InputError for flags that do not go together, TableError where pyarrow is needed and missing."""
    if bool(args.slides) == bool(args.bags):
        raise InputError("give either --slides or --bags")
    if args.watch and (args.bags or shard != WHOLE):
        what = "--bags" if args.bags else f"--shard {shard}"
        raise InputError(f"--watch takes slides as they come, and goes not with {what}; leave one of the two out")
    for folder in args.slides if args.watch else ():
        if not Path(folder).is_dir():
            raise InputError(f"--watch looks at folders, and {folder!r} is none; give the folder of the slides")
    if shard != WHOLE and (args.patients or rule != MEAN):
        raise InputError(
            "a patient's slides may be in other shards: leave --patients out, and give it to `python -m mil.merge`"
        )
    if rule != MEAN and not args.patients:
        raise InputError(NO_PATIENTS)
    if args.grad_cam and not args.heatmaps:
        raise InputError("--grad-cam draws on the pictures of --heatmaps; give that too")
    for flag, path in (("--out", args.out), ("--patients", args.patients)):
        if path and Path(path).is_dir():
            raise InputError(f"{flag} {path!r} is a folder; give the name of a CSV or Parquet file")
        if path:
            is_parquet(Path(path))


def slides_of(bags: Bags) -> list[SlideRef]:
    """A row's worth of every bag, and of every slide that the manifest says gave none; their path is the bag's."""
    names = bags.refs.keys() | bags.manifest.keys()
    if not names:
        raise InputError(f"{str(bags.path)!r} holds no bags; make them with `python -m tiling`")
    return [SlideRef(name, bags.refs[name].path if name in bags.refs else bags.path) for name in sorted(names)]


def completed(default_mpp: float | None, patients: dict[str, str], slide: SlideRef) -> SlideRef:
    """A slide with what the command line knows of it."""
    return slide._replace(default_mpp=default_mpp, patient_id=patients.get(slide.slide_id, slide.patient_id))


def refuse_bags(scorer: "Scorer", bags: Bags | None, drawn: bool) -> None:
    """Raise InputError where the run takes features and there are none, or the reverse."""
    if scorer.takes_features and (bags is None or drawn):
        raise InputError("the run was trained on features: give --bags with feature files, and no --heatmaps")
    if bags is not None and bags.refs and is_features(next(iter(bags.refs.values()))) != scorer.takes_features:
        kinds = ("feature files", "bags of tiles")[:: 1 if scorer.takes_features else -1]
        raise InputError(f"the run was trained on {kinds[0]}, and {str(bags.path)!r} holds {kinds[1]}")


def tell_unmatched(slides: Sequence[SlideRef], metadata: "pd.DataFrame", path: str) -> None:
    """Say which slides have no metadata; raises LabelsError where none has."""
    from mil.slide_tables import without_a_row

    if without := without_a_row([slide.slide_id for slide in slides], metadata, path):
        tell(f"{len(without)} slides have no metadata: {', '.join(map(shown, without))}")


def tell(sentence: str) -> None:
    """Say something, whatever bar there is."""
    from tqdm import tqdm

    tqdm.write(visible(sentence), file=sys.stderr)


def drawing_from(args: Namespace, scorer: "Scorer") -> "Drawing | None":
    """Who draws the slides, if anyone does."""
    from mil.drawing import Drawing

    return Drawing(Path(args.heatmaps), scorer, args.grad_cam, tell) if args.heatmaps else None


def pages_from(args: Namespace, scorer: "Scorer") -> "Pages | None":
    """The report that slides go into, if they do."""
    from mil.pages import Pages

    return Pages(Path(args.report), scorer.task, list(map(Path, args.run))) if args.report else None


def open_table(args: Namespace, scorer: "Scorer", slides: Sequence[SlideRef], shard: Shard) -> "ScoreTable":
    """The table that rows go into; what it cannot be is refused before anything is written."""
    from mil.origin import Origin, digest_of_file, slides_named
    from mil.predictions import score_columns
    from mil.score_table import begin, shard_path

    out = shard_path(Path(args.out), shard)
    for path in filter(None, (args.out, args.patients)):
        make_writable(Path(path).parent)
    settings = {
        "default_mpp": args.default_mpp,
        "metadata": digest_of_file(args.metadata),
        "patient_ids": digest_of_file(args.patient_ids),
    }
    named = None if args.watch else slides_named(slide.slide_id for slide in slides)
    origin = Origin(scorer.digest, scorer.task, settings, named, shard)
    return begin(out, score_columns(scorer.task), origin, args.resume)


def followers(drawing: "Drawing | None", pages: "Pages | None") -> "list[Callable[[Scored], None]]":
    """What is done with each slide beside its row."""
    from mil.drawing import Paging

    return [*([] if drawing is None else [drawing]), *([] if pages is None else [Paging(pages, tell)])]


def finish(
    args: Namespace, scorer: "Scorer", rule: PatientRule, table: "ScoreTable", drawing: "Drawing | None",
    pages: "Pages | None",
) -> int:  # fmt: skip
    """Write what needs all rows, and say what became of the slides; status 0 if all have a score, 1 if some failed."""
    from mil.patients import write_patients
    from mil.predictions import FAILED

    rows = table.rows
    if args.patients:
        write_patients(Path(args.patients), rows, scorer.task, rule)
    if pages is not None:
        pages.close(rows)
    failed = sum(row["status"] == FAILED for row in rows)
    undrawn = 0 if drawing is None else drawing.undrawn
    without = f"; {undrawn} of the scored have no picture" if undrawn else ""
    print(f"{len(rows) - failed} slides scored, {failed} failed; a row for each in {shown(table.path)}{without}")
    return cli.SOME_FAILED if failed else cli.OK


if __name__ == "__main__":
    sys.exit(main())
