"""`python train.py --bags BAGS --labels labels.csv --out RUN`: bags and labels to a cross-validated run."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError, SettingsError, Stopped
from mil.recipe import Recipe
from mil.stop import Stop
from tiling import cli
from tiling.errors import TilingError
from tiling.progress import shown, visible

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
    if args.collect is not None:
        return _collect(args)
    needed = ("bags", "labels") if args.doctor else ("bags", "labels", "out")
    if missing := [name for name in needed if args[name] is None]:
        raise SettingsError(f"--{missing[0]} is missing; --help says what it is")
    recipe = Recipe(**{name: cli.settings_from(args, part) for name, part in get_type_hints(Recipe).items()})
    if args.doctor:
        return _examine(args, recipe)
    out, stop = Path(args.out), Stop()
    with cli.on_warning(stop.tell):
        try:
            return _train(args, recipe, out, stop)
        except Stopped as stopped:
            print(f"train.py: {stopped}; start it again with --resume and it goes on", file=sys.stderr)
            return cli.STOPPED


def _train(args: Namespace, recipe: Recipe, out: Path, stop: Stop) -> int:
    from mil.cohort import gather
    from mil.labels import read_labels
    from mil.launcher import read_launch

    is_first = read_launch(os.environ).rank == 0
    fold = fold_from(args, os.environ.get("SLURM_ARRAY_TASK_ID"))
    if is_first and fold is not None and args.fold is None:
        print(f"train.py: training fold {fold}, the index of this Slurm array; --fold all trains all", file=sys.stderr)
    labels = read_labels(Path(args.labels), recipe.table)
    cohort = gather(labels, Path(args.bags), recipe.train.skip_missing, recipe.model.takes_overviews)
    for what, slides in (
        ("labelled slides have no bag", cohort.missing["slide_id"]),
        ("bags have no label", cohort.unlabelled),
    ):
        if is_first and len(slides):
            print(f"{len(slides)} {what} and are left out: {', '.join(map(shown, slides))}", file=sys.stderr)
    from mil.launch import start  # imports torch, which takes seconds: what can be told before has been
    from mil.run import train_run

    with start(recipe.train.device) as processes:
        sources = {"bags": args.bags, "labels": args.labels}
        evaluation = train_run(cohort, out, recipe, processes, sources, fold, args.resume, stop)
    return _report(evaluation, out) if is_first else cli.OK


def fold_from(args: Namespace, array_index: str | None) -> int | None:
    """The one fold to train: that of --fold, or the index in a Slurm array; None for all."""
    if args.fold is not None or not array_index:
        return None if args.fold == "all" else args.fold
    if not array_index.isdecimal():
        raise SettingsError(f"SLURM_ARRAY_TASK_ID is {array_index!r}, which is no fold; give --fold, a number or all")
    return int(array_index)


def _examine(args: Namespace, recipe: Recipe) -> int:
    from mil.doctor import examine
    from mil.launcher import read_launch

    launch = read_launch(os.environ)
    if launch.rank > 0:  # the first says it for all
        return cli.OK
    report = examine(Path(args.bags), Path(args.labels), recipe, launch.world)
    print(report)
    return cli.OK if report.healthy else cli.WRONG_INPUT


def _collect(args: Namespace) -> int:
    if beside := [name for name in ("bags", "labels", "out", "fold") if args[name] is not None]:
        raise SettingsError(f"--collect puts a run together that is there, and takes no --{beside[0]} beside it")
    if args.doctor or args.resume:
        raise SettingsError("--collect goes with neither --doctor nor --resume")
    from mil.collect import collect

    return _report(collect(Path(args.collect)), Path(args.collect))


def _report(evaluation: "Evaluation | None", out: Path) -> int:
    """Say how good a run is, or how to end it."""
    if evaluation is None:
        print(f"when the other folds are done: python train.py --collect {shlex.quote(str(out))}")
    else:
        print("\n".join(map(visible, evaluation.lines())))
        print(f"models, predictions, metrics and plots are in {shown(out)}")
        _write_pages(out)
    return cli.OK


def _write_pages(out: Path) -> None:
    """Write the report of a finished run; what goes wrong is said and costs the run nothing."""
    from mil.run_report import write_report

    try:
        print(f"to read in a browser: {shown(write_report(out))}")
    except Exception as error:  # noqa: BLE001  # the run is finished, whatever becomes of its pages
        print(
            f"train.py: no report: {visible(error)}; try again with --collect {shlex.quote(str(out))}", file=sys.stderr
        )


if __name__ == "__main__":
    sys.exit(main())
