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
from tiling.bag import SUFFIX, Bag, read_bag
from tiling.errors import BagError, InputError, SlideError, TilingError
from tiling.manifest import read_manifest
from tiling.output import make_writable
from tiling.progress import progress, shown
from tiling.sources import SlideRef, find_slides
from tiling.tile import NO_TISSUE, TileSpec, tile_slide

NOT_REACHED = "the scoring was interrupted before this slide; run it again"


def main(argv: list[str] | None = None) -> int:
    """Score slides or bags; status 0 if all have a score, 1 if some failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("infer.py", "Score slides, or bags made before, with a trained run.")
    parser.add_argument("--run", required=True, help="run folder that train.py wrote; its folds are averaged")
    parser.add_argument("--slides", nargs="+", help="slides, folders of slides, or a slides table, tiled on the fly")
    parser.add_argument("--bags", help="folder of bags, in place of slides")
    parser.add_argument("--out", required=True, help="CSV with a row for every slide")
    parser.add_argument("--heatmaps", help="folder for a picture of each slide with its tiles and their attention")
    cli.add_workers(parser, "tile slides")
    cli.add_time_limit(parser)
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def _work(args: Namespace) -> int:
    if bool(args.slides) == bool(args.bags):
        raise InputError("give either --slides or --bags")
    workers, time_limit_s = cli.workers_from(args), cli.time_limit_from(args)
    slides = find_slides(map(Path, args.slides)) if args.slides else bags_in(Path(args.bags))
    from mil.predict import FAILED, load_run, pick_device, write_predictions  # torch: wrong input is told before

    run = load_run(Path(args.run), pick_device(args.device))
    out, heatmaps = Path(args.out), Path(args.heatmaps) if args.heatmaps else None
    if out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; give the name of a CSV file")
    for folder in filter(None, (out.parent, heatmaps)):
        make_writable(folder)
    spec = run.card.tile_spec
    bags = tile_all(slides, spec, workers, time_limit_s) if args.slides else read_all(slides, spec)
    rows = {slide.slide_id: _failed(run, slide, NOT_REACHED) for slide in slides}
    try:
        with progress(len(slides), "slide", "scoring") as bar, closing(bags):
            for slide, bag in bags:
                row = rows[slide.slide_id] = score(run, slide, bag, heatmaps)
                if row["error"]:
                    bar.write(f"failed: {shown(slide.slide_id)}: {row['error']}", file=sys.stderr)
                bar.update()
    finally:
        write_predictions(out, list(rows.values()))
    failed = sum(row["status"] == FAILED for row in rows.values())
    print(f"{len(rows) - failed} slides scored, {failed} failed; a row for each in {shown(out)}")
    return cli.SOME_FAILED if failed else cli.OK


def bags_in(folder: Path) -> list[SlideRef]:
    """The bags of a folder, and the slides that its manifest says gave none, as refs whose path is the bag's."""
    if not folder.is_dir():
        raise InputError(f"no such folder of bags: {str(folder)!r}; check the path")
    names = {path.stem for path in folder.glob(f"*{SUFFIX}")} | set(read_manifest(folder))
    if not names:
        raise InputError(f"the folder {str(folder)!r} holds no bags; make them with `python -m tiling`")
    return [SlideRef(name, folder / f"{name}{SUFFIX}") for name in sorted(names)]


def tile_all(
    slides: Sequence[SlideRef], spec: dict[str, Any], workers: int, time_limit_s: float
) -> Generator[tuple[SlideRef, Bag | Exception], None, None]:
    """Each slide with its bag, made in worker processes as the run's own bags were, or with what went wrong."""
    from tiling.workers import run_slides

    try:
        tile_spec = TileSpec(**spec)
    except TypeError as error:
        raise InputError(f"the run was trained on tiles that this version cannot cut ({error}); give --bags") from error
    return run_slides(partial(_tile, tile_spec), slides, workers, time_limit_s)


def _tile(spec: TileSpec, slide: SlideRef) -> Bag:
    return tile_slide(slide.path, spec, slide.slide_id, slide.mpp)


def read_all(
    slides: Sequence[SlideRef], spec: dict[str, Any]
) -> Generator[tuple[SlideRef, Bag | Exception], None, None]:
    """Each bag, or what is wrong with it; a bag that was made otherwise than the run's own is wrong."""
    manifest = read_manifest(slides[0].path.parent)
    for slide in slides:
        try:
            if not slide.path.exists() and slide.slide_id in manifest:
                raise SlideError(manifest[slide.slide_id].error or f"{str(slide.path)!r} is gone; tile its slide again")
            bag = read_bag(slide.path)
            differing = sorted(
                name for name in {*spec, *bag.header.spec} if spec.get(name) != bag.header.spec.get(name)
            )
            if differing:
                raise BagError(
                    f"{str(slide.path)!r} was made with another {', '.join(differing)} than the run was trained on; "
                    "tile its slide with the settings of the run, or give --slides"
                )
            yield slide, bag
        except TilingError as error:
            yield slide, error


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
