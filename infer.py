"""`python infer.py --run RUN --slides SLIDES… --out scores.csv`: a probability for every slide, or why not."""

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError
from tiling import cli
from tiling.bag import Bag, differing, read_bag
from tiling.bags import Bags, open_bags
from tiling.errors import BagError, InputError, SlideError, TilingError
from tiling.output import make_writable
from tiling.progress import progress, shown
from tiling.sources import SlideRef, find_slides
from tiling.tile import NO_TISSUE, TileSpec

NOT_REACHED = "the scoring was interrupted before this slide; run it again"


def main(argv: list[str] | None = None) -> int:
    """Score slides or bags; status 0 if all have a score, 1 if some failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("infer.py", "Score slides, or bags made before, with a trained run.")
    parser.add_argument("--run", required=True, help="run folder that train.py wrote; its folds are averaged")
    parser.add_argument("--slides", nargs="+", help="slides, folders of slides, or a slides table, tiled on the fly")
    parser.add_argument("--bags", help="folder of bags, or a merged file of them, in place of slides")
    parser.add_argument("--out", required=True, help="CSV with a row for every slide")
    parser.add_argument("--heatmaps", help="folder for a picture of each slide with its tiles and their attention")
    cli.add_default_mpp(parser)
    cli.add_workers(parser, "tile slides")
    cli.add_time_limit(parser)
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def _work(args: Namespace) -> int:
    if bool(args.slides) == bool(args.bags):
        raise InputError("give either --slides or --bags")
    workers, time_limit_s = cli.workers_from(args), cli.time_limit_from(args)
    bags = None if args.slides else open_bags(Path(args.bags))
    slides = find_slides(map(Path, args.slides), cli.default_mpp_from(args)) if bags is None else slides_of(bags)
    from mil.predict import FAILED, load_run, pick_device, write_predictions  # torch: wrong input is told before

    run = load_run(Path(args.run), pick_device(args.device))
    out, heatmaps = Path(args.out), Path(args.heatmaps) if args.heatmaps else None
    if out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; give the name of a CSV file")
    for folder in filter(None, (out.parent, heatmaps)):
        make_writable(folder)
    spec = run.card.tile_spec
    # A picture shows tiles larger than the network sees them.
    px = run.card.model.train_px if heatmaps is None else None
    found = tile_all(slides, spec, workers, time_limit_s) if bags is None else read_all(slides, bags, spec, px)
    rows = {slide.slide_id: _failed(run, slide, NOT_REACHED) for slide in slides}
    try:
        with progress(len(slides), "slide", "scoring") as bar, closing(found):
            for slide, bag in found:
                row = rows[slide.slide_id] = score(run, slide, bag, heatmaps)
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
    slides: Sequence[SlideRef], spec: dict[str, Any], workers: int, time_limit_s: float
) -> Generator[tuple[SlideRef, Bag | Exception], None, None]:
    """Each slide with its bag, made in worker processes as the run's own bags were, or with what went wrong."""
    from tiling.batch import bag_of
    from tiling.workers import run_slides

    try:
        tile_spec = TileSpec(**spec)
    except TypeError as error:
        raise InputError(f"the run was trained on tiles that this version cannot cut ({error}); give --bags") from error
    return run_slides(partial(bag_of, tile_spec), slides, workers, time_limit_s)


def read_all(
    slides: Sequence[SlideRef], bags: Bags, spec: dict[str, Any], px: int | None
) -> Generator[tuple[SlideRef, Bag | Exception], None, None]:
    """Each bag, fit for tiles of `px`, or what is wrong with it; one made otherwise than the run's own is wrong."""
    for slide in slides:
        try:
            yield slide, _read(slide.slide_id, bags, spec, px)
        except TilingError as error:
            yield slide, error


def _read(name: str, bags: Bags, spec: dict[str, Any], px: int | None) -> Bag:
    if name not in bags.refs:
        raise SlideError(
            bags.manifest[name].error or f"the bag {name!r} of {str(bags.path)!r} is gone; tile its slide again"
        )
    bag = read_bag(bags.refs[name], px)
    if names := differing(spec, bag.header.spec):
        raise BagError(
            f"{bags.refs[name]} was made with another {', '.join(names)} than the run was trained on; "
            "tile its slide with the settings of the run, or give --slides"
        )
    return bag


def score(run: Any, slide: SlideRef, bag: Bag | Exception, heatmaps: Path | None) -> dict[str, Any]:
    """The row of a slide in the predictions table; draws its heatmap where a folder for them is given."""
    from mil.predict import predict_bag, prediction_row
    from tiling.batch import describe

    if isinstance(bag, Exception):
        return _failed(run, slide, describe(slide, bag))
    if not len(bag):
        return _failed(run, slide, NO_TISSUE)
    try:
        prediction = predict_bag(run, bag)
        row = prediction_row(slide.slide_id, _patient(slide), run.card.classes, len(bag), prediction.probabilities)
        if heatmaps is not None:
            from mil.explain import draw_attention

            chance = row[f"prob_{row['predicted']}"]
            title = f"{slide.slide_id}: class {row['predicted']} with probability {chance:.3f}"
            draw_attention(heatmaps / f"{slide.slide_id}.png", bag, prediction.attention, title)
    except Exception as error:  # noqa: BLE001  # a row says what it was, and the other slides go on
        return _failed(run, slide, describe(slide, error))
    return row


def _failed(run: Any, slide: SlideRef, error: str) -> dict[str, Any]:
    from mil.predict import prediction_row

    return prediction_row(slide.slide_id, _patient(slide), run.card.classes, error=error)


def _patient(slide: SlideRef) -> str:
    return slide.patient_id or slide.slide_id


if __name__ == "__main__":
    sys.exit(main())
