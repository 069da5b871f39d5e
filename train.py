"""`python train.py --bags BAGS --labels labels.csv --out RUN`: bags and labels to a cross-validated run."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError, SettingsError, Stopped
from mil.recipe import Recipe
from tiling import cli
from tiling.errors import TilingError
from tiling.progress import shown

if TYPE_CHECKING:
    from mil.evaluation import Evaluation

TITLES = {"table": "labels table", "optim": "optimiser", "augment": "augmentation", "train": "training"}


def main(argv: list[str] | None = None) -> int:
    """Train a run; status 0 if it went well, 2 for wrong input, 75 if it was told to stop and has saved its state."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("train.py", "Train on bags end to end, cross-validated by patient.")
    parser.add_argument("--bags", help="folder of bags, a merged file of them, or a folder of feature files")
    parser.add_argument("--labels", help="CSV with slide_id, label and maybe patient_id, fold, site, metadata")
    parser.add_argument("--out", help="folder for the run; it must not exist, unless beside --resume or --fold")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out if there is one")
    parser.add_argument(
        "--fold",
        type=int | Literal["all"] | None,
        help="train one fold, the others being jobs of their own; in a Slurm array its index, unless this is all",
    )
    parser.add_argument("--collect", metavar="RUN", help="only put the folds of a run together that were jobs")
    parser.add_argument("--doctor", action="store_true", help="only check bags, labels, folds and memory, in seconds")
    cli.add_config(parser)
    for name, part in get_type_hints(Recipe).items():
        cli.add_settings(parser, part, TITLES.get(name, name))
    return parser


def _work(args: Namespace) -> int:
    if args.collect:
        from mil.run import collect

        return _report(collect(Path(args.collect)), Path(args.collect))
    for flag in ("bags", "labels") if args.doctor else ("bags", "labels", "out"):
        if args[flag] is None:
            raise SettingsError(f"--{flag} is missing; --help says what it is")
    recipe = Recipe(**{name: cli.settings_from(args, part) for name, part in get_type_hints(Recipe).items()})
    if args.doctor:
        return _examine(args, recipe)
    from mil.cohort import gather
    from mil.labels import read_labels
    from mil.launcher import read_launch

    read_launch(os.environ)
    cohort = gather(read_labels(Path(args.labels), recipe.table), Path(args.bags), recipe.train.skip_missing)
    from mil.launch import start  # imports torch, which takes seconds: what can be told before has been
    from mil.run import train_run

    out, fold = Path(args.out), fold_from(args)
    with start(recipe.train.device) as processes, cli.stop_on_signal() as stop:
        if processes.is_first:
            for what, slides in (
                ("labelled slides have no bag", cohort.missing["slide_id"]),
                ("bags have no label", cohort.unlabelled),
            ):
                if len(slides):
                    print(f"{len(slides)} {what} and are left out: {', '.join(slides)}", file=sys.stderr)
        sources = {"bags": args.bags, "labels": args.labels}
        try:
            evaluation = train_run(cohort, out, recipe, processes, sources, fold, args.resume, stop)
        except Stopped as stopped:
            print(f"train.py: {stopped}; all is saved in {shown(out)}, go on with --resume", file=sys.stderr)
            return cli.STOPPED
        return _report(evaluation, out) if processes.is_first else cli.OK


def fold_from(args: Namespace) -> int | None:
    """The one fold to train: that of --fold, or the index of a Slurm array; None for all."""
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    if args.fold is None and index is not None:
        print(f"train.py: training fold {index}, the index of this Slurm array; --fold all trains all", file=sys.stderr)
        return int(index)
    return None if args.fold == "all" else args.fold


def _examine(args: Namespace, recipe: Recipe) -> int:
    from mil.doctor import examine

    report = examine(Path(args.bags), Path(args.labels), recipe)
    print(report)
    return cli.OK if report.healthy else cli.WRONG_INPUT


def _report(evaluation: "Evaluation | None", out: Path) -> int:
    """Say how good a run is, or how to end it."""
    if evaluation is None:
        print(f"when the other folds are done: python train.py --collect {shown(out)}")
    else:
        print("\n".join(evaluation.lines()))
        print(f"models, predictions, metrics and plots are in {shown(out)}")
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
