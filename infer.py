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
from tiling.bag import CHIPNET, NO_TILES, Bag, BagRef, differing, read_bag
from tiling.bags import Bags, open_bags
from tiling.errors import BagError, InputError, SlideError, TilingError
from tiling.features import FeatureBag, is_features, read_features
from tiling.output import make_writable
from tiling.overview import OVERVIEWS
from tiling.picker import Chipnet, open_chipnet
from tiling.progress import progress, shown
from tiling.sources import SlideRef, find_slides
from tiling.spec import TileSpec
from tiling.tile import NO_TISSUE

if TYPE_CHECKING:
    import pandas as pd

    from mil.pages import Pages
    from mil.predict import Prediction

AnyBag = Bag | FeatureBag
NOT_REACHED = "the scoring was interrupted before this slide; run it again"


def main(argv: list[str] | None = None) -> int:
    """Score slides or bags; status 0 if all have a score, 1 if some failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("infer.py", "Score slides, or bags made before, with a trained run.")
    parser.add_argument(
        "--run",
        required=True,
        nargs="+",
        help="run folder that train.py wrote, several, or an ensemble; all their folds are averaged",
    )
    parser.add_argument("--slides", nargs="+", help="slides, folders of slides, or a slides table, tiled on the fly")
    parser.add_argument("--bags", help="folder of bags, a merged file of them, or feature files, in place of slides")
    parser.add_argument(
        "--metadata", help="CSV with slide_id and the columns of metadata that the run was trained with"
    )
    parser.add_argument("--out", required=True, help="CSV with a row for every slide")
    parser.add_argument(
        "--heatmaps",
        help="folder for a picture of each slide with its tiles and their attention, and for a GeoJSON for QuPath",
    )
    parser.add_argument(
        "--report", help="folder for pages to read in a browser: all slides, each slide, the model (index.html)"
    )
    parser.add_argument(
        "--grad-cam", action="store_true", help="show on the pictures of --heatmaps where in the tiles the evidence is"
    )
    parser.add_argument(
        "--chipnet", metavar="RUN", help="the ChipNet run that picked the tiles the run was trained on, if one did"
    )
    cli.add_default_mpp(parser)
    cli.add_workers(parser, "tile slides")
    cli.add_time_limit(parser)
    parser.add_argument(
        "--instance-chunk", type=int, help="tiles that go through the backbone at a time; all if left out"
    )
    parser.add_argument(
        "--tta",
        type=int | Literal["symmetries"],
        default=1,
        help="looks at each slide, all but the first augmented as in training; or the eight symmetries of the square",
    )
    parser.add_argument(
        "--average",
        type=Literal["probabilities", "logits"] | None,
        help="what the mean is taken of, probabilities if left out; an ensemble knows",
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
    from mil.predict import FAILED, pick_device, write_predictions  # torch: wrong input is told before
    from mil.scorer import load_scorer

    run = load_scorer(list(map(Path, args.run)), pick_device(args.device), instance_chunk, args.tta, args.average)
    metadata = metadata_of(args.metadata, run.card.metadata)
    if metadata is not None:
        tell_unmatched(slides, metadata.index, args.metadata)
    out, heatmaps = Path(args.out), Path(args.heatmaps) if args.heatmaps else None
    if args.grad_cam:
        refuse_grad_cam(run, heatmaps)
    if out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; give the name of a CSV file")
    for folder in filter(None, (out.parent, heatmaps)):
        make_writable(folder)
    pages = pages_of(args.report, run, Path(args.run))
    if run.takes_features and (bags is None or heatmaps is not None):
        raise InputError("the run was trained on features: give --bags with feature files, and no --heatmaps")
    if bags is not None and bags.refs and is_features(next(iter(bags.refs.values()))) != run.takes_features:
        kinds = ("feature files", "bags of tiles")[:: 1 if run.takes_features else -1]
        raise InputError(f"the run was trained on {kinds[0]}, and {str(bags.path)!r} holds {kinds[1]}")
    found = bags_for(run, slides, bags, bool(heatmaps or pages), args.chipnet, workers, time_limit_s)
    rows = {slide.slide_id: _failed(run, slide, NOT_REACHED) for slide in slides}
    undrawn = 0
    try:
        with progress(len(slides), "slide", "scoring") as bar, closing(found):
            for slide, bag in found:
                row, prediction = score(run, slide, bag, metadata)
                rows[slide.slide_id] = row
                if row["error"]:
                    bar.write(f"failed: {shown(slide.slide_id)}: {row['error']}", file=sys.stderr)
                elif heatmaps is not None and (
                    problem := draw(heatmaps, run, slide, bag, prediction, metadata, args.grad_cam)
                ):
                    undrawn += 1
                    bar.write(f"no picture: {shown(slide.slide_id)}: {problem}", file=sys.stderr)
                if problem := add_page(pages, slide, row, bag, prediction, metadata):
                    bar.write(f"no pictures: {shown(slide.slide_id)}: {problem}", file=sys.stderr)
                bar.update()
    finally:
        write_predictions(out, list(rows.values()))
    close_pages(pages, rows.values())
    failed = sum(row["status"] == FAILED for row in rows.values())
    without = f"; {undrawn} of the scored have no picture" if undrawn else ""
    print(f"{len(rows) - failed} slides scored, {failed} failed; a row for each in {shown(out)}{without}")
    return cli.SOME_FAILED if failed else cli.OK


def pages_of(folder: str | None, run: Any, path: Path) -> "Pages | None":
    """The report in `folder`, where one is asked for; raises InputError where it cannot be written there."""
    from mil.pages import Pages

    return None if folder is None else Pages(Path(folder), run.card.task, [path])


def add_page(
    pages: "Pages | None", slide: SlideRef, row: dict[str, Any], bag: AnyBag | Exception,
    prediction: "Prediction | None", metadata: "pd.DataFrame | None",
) -> str | None:  # fmt: skip
    """What went wrong with the pictures of a slide in the report, None if nothing did or there is no report."""
    return None if pages is None else pages.add(slide.slide_id, row, bag, prediction, _known(slide, metadata))


def close_pages(pages: "Pages | None", rows: Collection[dict[str, Any]]) -> None:
    """Write the pages of a report, where there is one, when all slides are in it."""
    if pages is not None:
        pages.close(rows)


def bags_for(
    run: Any, slides: Sequence[SlideRef], bags: Bags | None, drawn: bool, chipnet: str | None, workers: int,
    time_limit_s: float,
) -> Generator[tuple[SlideRef, AnyBag | Exception], None, None]:  # fmt: skip
    """Each slide with the bag that the run scores: tiled, or read where there are bags, and what a picture shows."""
    spec = run.card.bag_spec
    picker = chipnet_of(chipnet, spec, tiles=bags is None)
    # A picture shows tiles, and larger than the network sees them.
    px = None if drawn else NO_TILES if run.takes_overviews else run.px
    if bags is None:
        return tile_all(slides, spec, px, picker, workers, time_limit_s)
    return read_all(slides, bags, spec, read_features if run.takes_features else partial(read_bag, px=px))


def slides_of(bags: Bags) -> list[SlideRef]:
    """A row's worth of every bag, and of every slide that the manifest says gave none; their path is the bag's."""
    names = bags.refs.keys() | bags.manifest.keys()
    if not names:
        raise InputError(f"{str(bags.path)!r} holds no bags; make them with `python -m tiling`")
    return [SlideRef(name, bags.refs[name].path if name in bags.refs else bags.path) for name in sorted(names)]


def chipnet_of(path: str | None, spec: dict[str, Any], tiles: bool) -> Chipnet | None:
    """The ChipNet that picks tiles where they are cut anew, None where none has to; `spec` is that of the run's bags.

    Raises InputError where it is missing, not needed, or not the one that picked for the training.
    """
    digest = spec.get(CHIPNET)
    if digest is None or not tiles:
        if path is not None:
            why = "the run's tiles were picked without one" if tiles else "bags have their tiles"
            raise InputError(f"--chipnet picks tiles of slides, and {why}; leave it out")
        return None
    if path is None:
        raise InputError(
            f"the run was trained on tiles that a ChipNet picked: give --chipnet RUN, the run with the digest {digest}"
        )
    chipnet = open_chipnet(Path(path))
    if chipnet.digest != digest:
        raise InputError(
            f"--chipnet {path!r} has the digest {chipnet.digest}, and the tiles that the run was trained on were "
            f"picked by {digest}; give that one"
        )
    return chipnet


def tile_all(
    slides: Sequence[SlideRef], spec: dict[str, Any], px: int | None, chipnet: Chipnet | None, workers: int,
    time_limit_s: float,
) -> Generator[tuple[SlideRef, AnyBag | Exception], None, None]:  # fmt: skip
    """Each slide with its bag, made in worker processes as the run's own bags were, or with what went wrong.

    With NO_TILES as `px` nothing is cut.
    """
    from tiling.batch import bag_of, glance_of
    from tiling.workers import run_slides

    try:
        tile_spec = TileSpec(**{name: value for name, value in spec.items() if name not in (CHIPNET, OVERVIEWS)})
    except TypeError as error:
        raise InputError(f"the run was trained on tiles that this version cannot cut ({error}); give --bags") from error
    make = partial(glance_of, tile_spec) if px == NO_TILES else partial(bag_of, tile_spec, chipnet=chipnet)
    return run_slides(make, slides, workers, time_limit_s)


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
    if OVERVIEWS not in spec and (names := differing(spec, bag.header.made)):
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


def refuse_grad_cam(run: Any, heatmaps: Path | None) -> None:
    """Raise InputError or ModelError where --grad-cam can draw nothing."""
    if heatmaps is None:
        raise InputError("--grad-cam draws on the pictures of --heatmaps; give that too")
    if not run.takes_features:
        from mil.gradcam import check_maps

        check_maps(run.runs[0])


def score(
    run: Any, slide: SlideRef, bag: AnyBag | Exception, metadata: "pd.DataFrame | None"
) -> "tuple[dict[str, Any], Prediction | None]":
    """The row of a slide in the predictions table, and what is predicted, None where that failed."""
    from mil.predict import prediction_row
    from tiling.batch import describe

    if isinstance(bag, Exception):
        return _failed(run, slide, describe(slide, bag)), None
    if not len(bag):
        return _failed(run, slide, NO_TISSUE), None
    try:
        prediction = run.predict(bag, _known(slide, metadata))
        seen = 1 if run.takes_overviews else len(bag)
        row = prediction_row(slide.slide_id, _patient(slide), run.card.task, seen, prediction.probabilities)
    except Exception as error:  # noqa: BLE001  # a row says what it was, and the other slides go on
        return _failed(run, slide, describe(slide, error)), None
    return row, prediction


def draw(
    folder: Path, run: Any, slide: SlideRef, bag: Any, prediction: Any, metadata: "pd.DataFrame | None", grad_cam: bool
) -> str | None:
    """What went wrong with the picture of a scored slide, None if nothing did: a score is worth more than a picture."""
    from mil.explain import explain
    from tiling.batch import describe

    try:
        explain(folder, slide.slide_id, run.runs[0], bag, prediction, _known(slide, metadata), grad_cam)
    except Exception as error:  # noqa: BLE001  # its row stays, and the other slides go on
        return str(error) if isinstance(error, MilError) else describe(slide, error)
    return None


def _known(slide: SlideRef, metadata: "pd.DataFrame | None") -> "pd.DataFrame | None":
    """The metadata of a slide; one without a row has all of it unknown."""
    return None if metadata is None or slide.slide_id not in metadata.index else metadata.loc[[slide.slide_id]]


def _failed(run: Any, slide: SlideRef, error: str) -> dict[str, Any]:
    from mil.predict import prediction_row

    return prediction_row(slide.slide_id, _patient(slide), run.card.task, error=error)


def _patient(slide: SlideRef) -> str:
    return slide.patient_id or slide.slide_id


if __name__ == "__main__":
    sys.exit(main())
