"""`python -m mil.ensemble RUNS… --out ENSEMBLE`: runs put together, calibrated, and judged out of fold."""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError
from mil.mixture import Mixture, MixtureSpec, fit_mixture
from mil.patients import PatientRule
from tiling import cli
from tiling.errors import TilingError
from tiling.output import replacing
from tiling.progress import short, shown, visible

if TYPE_CHECKING:
    import numpy as np

    from mil.matching import OutOfFold
    from mil.ways import Ways

REPORT = "report.json"


def main(argv: list[str] | None = None) -> int:
    """Make an ensemble; status 0 if it went well, 2 for wrong input, and then nothing was written."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("python -m mil.ensemble", "Blend, stack and calibrate runs, judged out of fold.")
    parser.add_argument(
        "runs", nargs="+", help="runs that train.py wrote, or CSVs of out-of-fold predictions of other programs"
    )
    parser.add_argument("--labels", help="CSV with slide_id, label and patient_id; those of the first run if left out")
    parser.add_argument("--out", required=True, help="folder for the ensemble, which infer.py --run takes like a run")
    cli.add_settings(parser, MixtureSpec, "ensemble")
    cli.add_settings(parser, PatientRule, "patients")
    return parser


def _work(args: Namespace) -> int:
    spec, rule = cli.settings_from(args, MixtureSpec), cli.settings_from(args, PatientRule)
    from mil.comparison import compare
    from mil.ensemble_folder import begin_ensemble
    from mil.matching import gather_sources
    from mil.oof import read_sources
    from mil.ways import prior_of, ways_of

    out = Path(args.out)
    sources = [source for path in args.runs for source in read_sources(Path(path))]
    found = gather_sources(sources, None if args.labels is None else Path(args.labels))
    ways = ways_of(found, spec)
    comparison = compare(found.labels, ways.by_name, spec.metric, rule, found.tiles)
    mixture = fit_mixture(found.labels, found.members_RNK, found.folds.of, spec, prior_of(found, spec))
    begin_ensemble(out)
    _write_json(out / REPORT, comparison.as_json())
    save(out, found, ways, mixture, rule)
    if found.left_out:
        print(f"{found.left_out} slides are not in all runs, or have no label, and are left out", file=sys.stderr)
    if found.dealt:
        folds = len(found.folds.names)
        print(
            f"the folds of the runs differ: what is fitted is judged on {folds} new ones, by patient", file=sys.stderr
        )
    said = mixture.in_words(found.labels.task, [short(source.name) for source in found.sources])
    print("\n".join(map(visible, [*comparison.lines(), *(f"{what}: {words}" for what, words in said)])))
    if mixture.prior is not None:
        print("the figures above are those of the slides as they are, not of that prior")
    print(f"the ensemble, its out-of-fold predictions, metrics and plots are in {shown(out)}")
    return cli.OK


def save(out: Path, found: "OutOfFold", ways: "Ways", mixture: Mixture, rule: PatientRule) -> None:
    """Write all that is kept of an ensemble into its folder, what makes it one last."""
    from mil.calibration import shares
    from mil.ensemble_folder import save_ensemble
    from mil.evaluation import evaluate
    from mil.plots import draw_evaluation, draw_reliability
    from mil.predict import METRICS_FILE
    from mil.predictions import write_predictions
    from mil.run_folder import OOF

    labels, folds = found.labels, found.folds
    of_way = [
        evaluate(labels, chances, folds.of, folds.names, rule, found.tiles)
        for chances in (ways.combined, ways.calibrated, ways.final)
    ]
    draw_evaluation(out, of_way[2])
    draw_reliability(out / "reliability.png", of_way[1], None if mixture.calibration is None else of_way[0])
    _write_json(out / METRICS_FILE, of_way[2].as_json())
    write_predictions(out / OOF, list(_rows(found, ways.final)))
    prior = shares(labels.task, labels.targets) if mixture.prior is None else mixture.prior.after
    sources, weights = found.sources, mixture.weights
    if weights is not None:  # what does not count need not be computed
        sources = tuple(source for source, weight in zip(sources, weights, strict=True) if weight)
        mixture = replace(mixture, weights=tuple(filter(None, weights)))
    names, runs = [source.name for source in sources], [source.run for source in sources]
    save_ensemble(out, labels.task, names, runs, mixture, list(map(float, prior)))


def _rows(found: "OutOfFold", probabilities: "np.ndarray") -> Iterable[dict[str, object]]:
    """The rows of oof.csv: the ensemble's cross-fitted predictions."""
    from mil.predictions import prediction_row

    names, task = found.folds.name_of(), found.labels.task
    slides = found.labels.table.to_dict("records")
    for slide, fold, tiles, chances in zip(slides, names, found.tiles, probabilities, strict=True):
        yield prediction_row(
            slide["slide_id"], slide["patient_id"], task, int(tiles), chances, label=slide["label"], fold=fold
        )


def _write_json(path: Path, content: dict[str, object]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
