"""`python train.py --bags BAGS --labels labels.csv --out RUN`: bags and labels to a cross-validated run."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError
from tiling import cli
from tiling.errors import TilingError


def main(argv: list[str] | None = None) -> int:
    """Train a run; status 0 if it went well, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    from mil.settings import ModelSpec, TableSpec, TrainSpec

    parser = cli.make_parser("train.py", "Train on bags end to end, cross-validated by patient.")
    parser.add_argument(
        "--bags",
        required=True,
        help="folder of bags of `python -m tiling`, a merged file, or a folder of feature files",
    )
    parser.add_argument("--labels", required=True, help="CSV with slide_id, label and maybe patient_id, fold, metadata")
    parser.add_argument("--out", required=True, help="folder for the run; it must not exist")
    cli.add_config(parser)
    cli.add_settings(parser, TableSpec, "labels table")
    cli.add_settings(parser, ModelSpec, "model")
    cli.add_settings(parser, TrainSpec, "training")
    return parser


def _work(args: Namespace) -> int:
    from mil.cohort import gather
    from mil.labels import read_labels
    from mil.settings import ModelSpec, TableSpec, TrainSpec

    table = cli.settings_from(args, TableSpec)
    model_spec, spec = cli.settings_from(args, ModelSpec), cli.settings_from(args, TrainSpec)
    cohort = gather(read_labels(Path(args.labels), table), Path(args.bags), spec.skip_missing)
    for what, slides in (
        ("labelled slides have no bag", cohort.missing["slide_id"]),
        ("bags have no label", cohort.unlabelled),
    ):
        if len(slides):
            print(f"{len(slides)} {what} and are left out: {', '.join(slides)}", file=sys.stderr)
    from mil.run import train_run  # imports torch, which takes seconds: wrong input is told before

    out = Path(args.out)
    estimates = train_run(cohort, out, model_spec, spec, table, {"bags": args.bags, "labels": args.labels})
    print(f"out of fold, {len(cohort.labels)} slides, with 95 % intervals over patients:")
    for name, estimate in estimates.items():
        print(f"  {name:9} {estimate}")
    print(f"models, oof.csv, metrics.json and learning_curves.png are in {out}")
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
