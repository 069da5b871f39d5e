"""`python infer.py --run RUN --slides SLIDES… --out scores.csv`: a probability for every slide, or why not."""

import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError
from tiling import cli
from tiling.bag import NO_TILES, Bag, BagRef, differing, read_bag
from tiling.bags import Bags, open_bags
from tiling.errors import BagError, InputError, SlideError, TilingError
from tiling.features import FeatureBag, is_features, read_features
from tiling.output import make_writable
from tiling.overview import OVERVIEWS
from tiling.progress import progress, shown
from tiling.sources import SlideRef, find_slides
from tiling.tile import NO_TISSUE, TileSpec

if TYPE_CHECKING:
    import pandas as pd

AnyBag = Bag | FeatureBag
NOT_REACHED = "the scoring was interrupted before this slide; run it again"


def main(argv: list[str] | None = None) -> int:
    """Score slides or bags; status 0 if all have a score, 1 if some failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("infer.py", "Score slides, or bags made before, with a trained run.")
    parser.add_argument("--run", required=True, help="run folder that train.py wrote; its folds are averaged")
    parser.add_argument("--slides", nargs="+", help="slides, folders of slides, or a slides table, tiled on the fly")
    parser.add_argument("--bags", help="folder of bags, a merged file of them, or feature files, in place of slides")
    parser.add_argument(
        "--metadata", help="CSV with slide_id and the columns of metadata that the run was trained with"
    )
    parser.add_argument("--out", required=True, help="CSV with a row for every slide")
    parser.add_argument("--heatmaps", help="folder for a picture of each slide with its tiles and their attention")
    cli.add_default_mpp(parser)
    cli.add_workers(parser, "tile slides")
    cli.add_time_limit(parser)
    parser.add_argument(
        "--instance-chunk", type=int, help="tiles that go through the backbone at a time; all if left out"
    )
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def _work(args: Namespace) -> int:
    if bool(args.slides) == bool(args.bags):
        raise InputError("give either --slides or --bags")
    workers, time_limit_s = cli.count_from(args, "workers"), cli.time_limit_from(args)
    bags = None if args.slides else open_bags(Path(args.bags))
    slides = find_slides(map(Path, args.slides), cli.default_mpp_from(args)) if bags is None else slides_of(bags)
    instance_chunk = None if args.instance_chunk is None else cli.count_from(args, "instance_chunk")
    from mil.predict import FAILED, load_run, pick_device, write_predictions  # torch: wrong input is told before

    run = load_run(Path(args.run), pick_device(args.device), instance_chunk)
    metadata = metadata_of(args.metadata, run.card.metadata)
    if metadata is not None:
        tell_unmatched(slides, metadata.index, args.metadata)
    out, heatmaps = Path(args.out), Path(args.heatmaps) if args.heatmaps else None
    if out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; give the name of a CSV file")
    for folder in filter(None, (out.parent, heatmaps)):
        make_writable(folder)
    if run.takes_features and (bags is None or heatmaps is not None):
        raise InputError("the run was trained on features: give --bags with feature files, and no --heatmaps")
    if bags is not None and bags.refs and is_features(next(iter(bags.refs.values()))) != run.takes_features:
        kinds = ("feature files", "bags of tiles")[:: 1 if run.takes_features else -1]
        raise InputError(f"the run was trained on {kinds[0]}, and {str(bags.path)!r} holds {kinds[1]}")
    spec = run.card.bag_spec
    # A picture shows tiles, and larger than the network sees them.
    px = None if heatmaps is not None else NO_TILES if run.takes_overviews else run.px
    read = read_features if run.takes_features else partial(read_bag, px=px)
    found = tile_all(slides, spec, px, workers, time_limit_s) if bags is None else read_all(slides, bags, spec, read)
    rows = {slide.slide_id: _failed(run, slide, NOT_REACHED) for slide in slides}
    try:
        with progress(len(slides), "slide", "scoring") as bar, closing(found):
            for slide, bag in found:
                row = rows[slide.slide_id] = score(run, slide, bag, metadata, heatmaps)
                if row["error"]:
                    bar.write(f"failed: {shown(slide.slide_id)}: {row['error']}", file=sys.stderr)
                bar.update()
    finally:
        write_predictions(out, list(rows.values()))
    failed = sum(row["status"] == FAILED for row in rows.values())
    print(f"{len(rows) - failed} slides scored, {failed} failed; a row for each in {shown(out)}")
    return cli.SOME_FAILED if failed else cli.OK


def slides_of(bags: Bags) -> list[SlideRef]:
    """A row's worth of every bag, and of every slide that the manifest says gave none; their path is the bag's."""
    names = bags.refs.keys() | bags.manifest.keys()
    if not names:
        raise InputError(f"{str(bags.path)!r} holds no bags; make them with `python -m tiling`")
    return [SlideRef(name, bags.refs[name].path if name in bags.refs else bags.path) for name in sorted(names)]


def tile_all(
    slides: Sequence[SlideRef], spec: dict[str, Any], px: int | None, workers: int, time_limit_s: float
) -> Generator[tuple[SlideRef, Bag | Exception], None, None]:
    """Each slide with its bag, made in worker processes as the run's own bags were, or with what went wrong.

    With NO_TILES as `px` nothing is cut.
    """
    from tiling.batch import bag_of, glance_of
    from tiling.workers import run_slides

    try:
        tile_spec = TileSpec(**{name: value for name, value in spec.items() if name != OVERVIEWS})
    except TypeError as error:
        raise InputError(f"the run was trained on tiles that this version cannot cut ({error}); give --bags") from error
    make = glance_of if px == NO_TILES else bag_of
    return run_slides(partial(make, tile_spec), slides, workers, time_limit_s)


def read_all(
    slides: Sequence[SlideRef], bags: Bags, spec: dict[str, Any], read: Callable[[BagRef], AnyBag]
) -> Generator[tuple[SlideRef, AnyBag | Exception], None, None]:
    """Each bag, or what is wrong with it; one made otherwise than the run's own is wrong."""
    for slide in slides:
        try:
            yield slide, _read(slide.slide_id, bags, spec, read)
        except TilingError as error:
            yield slide, error


def _read(name: str, bags: Bags, spec: dict[str, Any], read: Callable[[BagRef], AnyBag]) -> AnyBag:
    if name not in bags.refs:
        raise SlideError(
            bags.manifest[name].error or f"the bag {name!r} of {str(bags.path)!r} is gone; tile its slide again"
        )
    bag = read(bags.refs[name])
    if OVERVIEWS not in spec and (names := differing(spec, bag.header.spec)):
        raise BagError(
            f"{bags.refs[name]} was made with another {', '.join(names)} than the run was trained on; "
            "make it again with the settings of the run"
        )
    return bag


def metadata_of(path: str | None, coder: Any) -> "pd.DataFrame | None":
    """The metadata of slides by their names, None if the run has none; raises LabelsError for a table of no use."""
    columns = coder.columns
    if bool(columns) != bool(path):
        raise InputError(
            f"the run was trained with the metadata {', '.join(columns)}: give --metadata TABLE with slide_id and these"
            if columns
            else "the run was trained without metadata; leave --metadata out"
        )
    if path is None:
        return None
    from mil.labels import numeric, read_table

    table = read_table(Path(path), "metadata table", ("slide_id", *columns))
    for column in coder.scales:
        numeric(table[column], f"the metadata table {path!r}")
    return table.set_index("slide_id")


def tell_unmatched(slides: Sequence[SlideRef], names: Collection[str], path: str) -> None:
    """Say which slides have no metadata; raises InputError where none has."""
    without = [slide.slide_id for slide in slides if slide.slide_id not in names]
    if len(without) == len(slides):
        raise InputError(
            f"no slide has a row in the metadata table {path!r}; its slide_ids must be the names of the slides, such "
            f"as {without[0]!r}"
        )
    if without:
        print(f"{len(without)} slides have no metadata: {', '.join(map(shown, without))}", file=sys.stderr)


def score(
    run: Any, slide: SlideRef, bag: AnyBag | Exception, metadata: "pd.DataFrame | None", heatmaps: Path | None
) -> dict[str, Any]:
    """The row of a slide in the predictions table; draws its heatmap where a folder for them is given.

    A slide without a row of metadata has all of it unknown.
    """
    from mil.predict import predict_bag, prediction_row
    from tiling.batch import describe

    if isinstance(bag, Exception):
        return _failed(run, slide, describe(slide, bag))
    if not len(bag):
        return _failed(run, slide, NO_TISSUE)
    try:
        known = None if metadata is None or slide.slide_id not in metadata.index else metadata.loc[[slide.slide_id]]
        prediction = predict_bag(run, bag, known)
        seen = 1 if run.takes_overviews else len(bag)
        row = prediction_row(slide.slide_id, _patient(slide), run.card.task, seen, prediction.probabilities)
        if heatmaps is not None and isinstance(bag, Bag):
            from mil.explain import draw_attention

            title = f"{slide.slide_id}: {run.card.task.in_words(prediction.probabilities)}"
            draw_attention(heatmaps / f"{slide.slide_id}.png", bag, prediction.attention, title)
    except Exception as error:  # noqa: BLE001  # a row says what it was, and the other slides go on
        return _failed(run, slide, describe(slide, error))
    return row


def _failed(run: Any, slide: SlideRef, error: str) -> dict[str, Any]:
    from mil.predict import prediction_row

    return prediction_row(slide.slide_id, _patient(slide), run.card.task, error=error)


def _patient(slide: SlideRef) -> str:
    return slide.patient_id or slide.slide_id


if __name__ == "__main__":
    sys.exit(main())
