"""A run: the folds of a cross-validation, one after another or as jobs of their own, and the folder they leave.

config.yaml  folds.csv  skipped.csv                      written before anything is trained, and used from there
fold_0/      checkpoint.safetensors, log.csv             while it trains
model.safetensors, model.json, oof.csv      when it is done, oof.csv last
oof.csv  log.csv  metrics.json  *.png                    put together when all folds are done, metrics.json last
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from mil.checkpoint import ModelCard, read_card, save_model
from mil.cohort import Cohort
from mil.data import Reader
from mil.errors import RunError
from mil.evaluation import Evaluation, evaluate
from mil.folds import Folds, Split, make_folds, make_splits
from mil.labels import Labels, natural, target_column
from mil.launcher import Launch
from mil.leaks import refuse_leaks
from mil.log import EpochLog, kept, read_log
from mil.loop import CHECKPOINT, train_fold
from mil.metrics import METRICS
from mil.plots import draw_evaluation, draw_learning_curves
from mil.predict import METRICS_FILE, pick_device, prediction_row, write_predictions
from mil.processes import Processes
from mil.readers import make_reader
from mil.recipe import Recipe
from mil.settings import DEFAULT_BACKBONE
from mil.task import ANY_OF, Task
from mil.tracking import Tracking, check_tracker, open_tracker
from mil.trial import try_model
from tiling.features import FEATURES
from tiling.output import replacing, sweep, write_table

CONFIG, FOLDS, SKIPPED, OOF, LOG = "config.yaml", "folds.csv", "skipped.csv", "oof.csv", "log.csv"
# What may differ between the jobs of one run, for nothing of the result hangs on it.
FREE = ("bags", "labels", "device", "cache", "decode", "loader_workers", "checkpoint_minutes", "tracker")


class Plan(NamedTuple):
    """What a run will do: its settings with nothing left open, its folds, and the slides of each side of each."""

    recipe: Recipe
    folds: Folds
    splits: list[Split]


def make_plan(cohort: Cohort, recipe: Recipe) -> Plan:
    """The plan of a run; raises LabelsError where some fold cannot be trained."""
    labels, spec = cohort.labels, recipe.train
    if recipe.model.backbone is None and FEATURES not in cohort.bag_spec:
        recipe = replace(recipe, model=replace(recipe.model, backbone=DEFAULT_BACKBONE))
    folds = make_folds(labels, spec.folds, spec.seed)
    splits = make_splits(labels, folds, spec.valid_share, spec.seed)
    return Plan(recipe, folds, splits)


def train_run(
    cohort: Cohort, out: Path, recipe: Recipe, processes: Processes | None = None,
    sources: Mapping[str, str] | None = None, fold: int | None = None, resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:  # fmt: skip
    """Train all folds, or the one given, into the run folder `out`; the evaluation once all are done, else None.

    Without `processes` this one trains alone. `sources` (where bags and labels came from) is saved with the settings.
    With `resume` what is there already goes on. What can be refused is refused before the folder is made: LabelsError,
    ModelError, SettingsError or RunError. Raises Stopped, with all saved, once `stop` says so.
    """
    processes = processes or Processes(Launch(), pick_device(recipe.train.device))
    refuse_taken(out, resume, fold)
    plan = make_plan(cohort, recipe)
    if fold is not None and not 0 <= fold < len(plan.splits):
        raise RunError(f"there is no fold {fold}; --fold is from 0 to {len(plan.splits) - 1}")
    _, weights = try_model(cohort, plan.recipe, processes.device, processes.world)
    if weights is not None and processes.is_first:
        sys.stderr.write(f"{weights}\n")
    processes.from_first(lambda: check_tracker(plan.recipe.train.tracker))
    processes.from_first(lambda: refuse_leaks(cohort, plan.splits))
    processes.from_first(lambda: open_run(out, cohort, plan, sources or {}, resume, fold))
    read = reader_of(cohort, plan.recipe, processes)
    for split in plan.splits if fold is None else [plan.splits[fold]]:
        folder = out / f"fold_{split.fold}"
        if not (folder / OOF).exists():
            train_into(folder, cohort, plan, split, read, processes, stop)
    if missing := [split.fold for split in plan.splits if not (out / f"fold_{split.fold}" / OOF).exists()]:
        sys.stderr.write(f"not done yet: fold {', '.join(map(str, missing))}\n")
        return None
    return processes.from_first(lambda: collect(out))


def reader_of(cohort: Cohort, recipe: Recipe, processes: Processes) -> Reader:
    """Who reads the bags; the first process makes the cache, if there is to be one, and the others find it."""
    train, px = recipe.train, recipe.model.train_px
    made: list[Reader] = []

    def make() -> None:
        made.append(make_reader(cohort, px, processes.device, train.cache, train.decode, processes.is_first))

    processes.from_first(make)
    if not made:
        make()
    return made[0]


def open_run(out: Path, cohort: Cohort, plan: Plan, sources: Mapping[str, str], resume: bool, fold: int | None) -> None:
    """Make the folder of a run, or see that the one which is there is of the same run.

    Raises RunError where it exists and neither `resume` nor a fold of its own was asked for, where it is of another
    run, and where it cannot be made.
    """
    recipe = {name: list(value) if isinstance(value, tuple) else value for name, value in plan.recipe.flat().items()}
    config = {**sources, **recipe}
    try:
        refuse_taken(out, resume, fold)
        out.mkdir(parents=True, exist_ok=True)
        if (out / CONFIG).exists():
            _refuse_other(out, config, cohort, plan.folds)
            sweep(out)
            return
        write_table(out / FOLDS, *_folds_table(cohort, plan.folds))
        missing = cohort.missing[["slide_id", "patient_id", "label", "error"]]
        write_table(out / SKIPPED, missing.columns.tolist(), missing.itertuples(index=False))
        with replacing(out / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"cannot make the run folder {str(out)!r} ({error.strerror}); choose another --out") from error


def refuse_taken(out: Path, resume: bool, fold: int | None) -> None:
    """Raise RunError where a folder is there, and is not a run to go on with or to add a fold to."""
    if not out.exists():
        return
    if not (_is_run(out) and (resume or (fold is not None and not (out / f"fold_{fold}").exists()))):
        raise RunError(
            f"the run folder {str(out)!r} exists; give --resume to go on with a run, or choose another --out, or "
            "delete it"
        )


def _is_run(out: Path) -> bool:
    """Whether a folder is of a run; also where this or another job has just begun it."""
    return (out / CONFIG).exists() or all(
        path.name in (FOLDS, SKIPPED) or path.name.startswith(".") for path in out.iterdir()
    )


def train_into(
    folder: Path, cohort: Cohort, plan: Plan, split: Split, read: Reader, processes: Processes, stop: Callable[[], bool]
) -> None:
    """Train a fold into its folder, going on from the checkpoint there; its oof.csv is written last."""
    if processes.is_first:
        folder.mkdir(exist_ok=True)
        sweep(folder)
    processes.barrier()

    name, config = plan.recipe.train.tracker, plan.recipe.flat()
    with ExitStack() as stack:
        trackers: list[Tracking] = []

        def watch(log: Sequence[EpochLog]) -> None:
            if not processes.is_first:
                return
            write_table(folder / LOG, EpochLog._fields, log)
            if not trackers:
                tracker = open_tracker(name, folder.parent, config, split.fold, log[-1].epoch)
                trackers.append(stack.enter_context(tracker))
            trackers[0].epoch(log[-1])

        result = train_fold(cohort, split, plan.recipe, read, processes, folder, stop, watch)
        targets = cohort.labels.targets[split.test]
        for tracker in trackers:
            tracker.finish({key: METRICS[key](result.probabilities, targets) for key in ("auc", "log_loss")})
    if processes.is_first:
        task, epoch = cohort.labels.task, kept(result.log).epoch
        card = ModelCard(plan.recipe.model, task, cohort.bag_spec, result.metadata, split.fold, epoch)
        save_model(folder, result.model, card)
        write_table(folder / LOG, EpochLog._fields, result.log)
        write_predictions(folder / OOF, _oof_rows(cohort, split, result.probabilities))
        (folder / CHECKPOINT).unlink(missing_ok=True)
    processes.barrier()


def collect(out: Path) -> Evaluation:
    """Put the folds of a run together: oof.csv, log.csv, pictures, metrics.json; gives what that says.

    Raises RunError where the folder is no run, a fold is not done, or a file is damaged.
    """
    slides, skipped = _read(out / FOLDS), _read(out / SKIPPED)
    names = sorted(slides["fold"].unique(), key=natural)
    folders = [out / f"fold_{fold}" for fold in range(len(names))]
    if missing := [str(fold) for fold, folder in enumerate(folders) if not (folder / OOF).exists()]:
        raise RunError(f"the run {str(out)!r} lacks fold {', '.join(missing)}; train it with --fold, then --collect")
    task = read_card(folders[0]).task
    done = pd.concat([_read(folder / OOF) for folder in folders]).set_index("slide_id")
    try:
        rows = done.loc[slides["slide_id"]].reset_index()
        probabilities = rows[[f"prob_{name}" for name in task.classes]].astype(np.float64).to_numpy()
    except (KeyError, ValueError) as error:
        raise RunError(
            f"the {OOF} of the folds of {str(out)!r} do not fit its {FOLDS} ({error}); train again"
        ) from error
    logs = [read_log(folder / LOG) for folder in folders]
    fold_of = slides["fold"].map(names.index).to_numpy()
    evaluation = evaluate(_labels(slides, task), probabilities, fold_of, names)
    failed = [
        prediction_row(row["slide_id"], row["patient_id"], task, error=row["error"], label=row["label"], fold="")
        for row in skipped.to_dict("records")
    ]
    table = pd.concat([rows, pd.DataFrame(failed)]) if failed else rows
    write_predictions(out / OOF, table)
    write_table(out / LOG, EpochLog._fields, [row for log in logs for row in log])
    draw_learning_curves(out / "learning_curves.png", logs, names)
    draw_evaluation(out, evaluation)
    with replacing(out / METRICS_FILE) as temporary:
        content = {**evaluation.as_json(), "skipped": len(skipped)}
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return evaluation


def _folds_table(cohort: Cohort, folds: Folds) -> tuple[list[str], Iterable[Sequence[Any]]]:
    """Header and rows of folds.csv; of several labels each has a column, empty where it is unknown."""
    table, task = cohort.labels.table, cohort.labels.task
    table = table.assign(fold=folds.name_of())
    columns = ["slide_id", "patient_id", "label", "fold"]
    if task.kind == ANY_OF:
        known = {name: table[target_column(name)] for name in task.classes}
        table = table.assign(**{name: value.map({0.0: "0", 1.0: "1"}).fillna("") for name, value in known.items()})
        columns += task.classes
    return columns, table[columns].itertuples(index=False)


def _labels(table: pd.DataFrame, task: Task) -> Labels:
    """The labels of folds.csv."""
    if task.kind == ANY_OF:
        known = {target_column(name): pd.to_numeric(table[name].replace("", None)) for name in task.classes}
        return Labels(table.assign(**{name: value.astype(np.float64) for name, value in known.items()}), task)
    return Labels(table.assign(target=table["label"].map(task.classes.index)), task)


def _oof_rows(cohort: Cohort, split: Split, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """A row for each test slide of a fold."""
    slides = cohort.labels.table.iloc[split.test].to_dict("records")
    sizes = [cohort.sizes[row] for row in split.test]
    return [
        prediction_row(
            slide["slide_id"],
            slide["patient_id"],
            cohort.labels.task,
            size,
            chances,
            label=slide["label"],
            fold=split.name,
        )
        for slide, size, chances in zip(slides, sizes, probabilities, strict=True)
    ]


def _read(path: Path) -> pd.DataFrame:
    """A table of a run, all of it text; raises RunError where it is missing or damaged."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise RunError(f"{str(path.parent)!r} is no run of train.py: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read ({error}); train again") from error


def _refuse_other(out: Path, config: dict[str, Any], cohort: Cohort, folds: Folds) -> None:
    """Raise RunError where the folder is of a run with other settings or other slides."""
    try:
        found = yaml.safe_load((out / CONFIG).read_text(encoding="utf-8"))
        differing = sorted(name for name in {*found, *config} - {*FREE} if found.get(name) != config.get(name))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise RunError(f"{str(out / CONFIG)!r} cannot be read ({error}); choose another --out") from error
    if differing:
        name = differing[0]
        raise RunError(
            f"the run {str(out)!r} was begun with {name} {found.get(name)!r}, not {config.get(name)!r}; give what it "
            "was begun with, or choose another --out"
        )
    _, rows = _folds_table(cohort, folds)
    if _read(out / FOLDS).to_numpy().tolist() != [list(row) for row in rows]:
        raise RunError(
            f"the run {str(out)!r} was begun with other slides, labels or folds than --labels and --bags have now; "
            "choose another --out"
        )
