"""A run: the folds of a cross-validation, one after another or as jobs of their own."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mil.checkpoint import ModelCard, save_model
from mil.cohort import Cohort
from mil.collect import collect
from mil.data import Reader
from mil.encoded import Encodings
from mil.errors import RunError
from mil.evaluation import Evaluation
from mil.folds import Folds, Split, make_folds, make_splits
from mil.launcher import Launch
from mil.leaks import refuse_leaks
from mil.log import EpochLog, kept
from mil.loop import CHECKPOINT, train_fold
from mil.metrics import METRICS
from mil.optim import half_precision
from mil.predict import pick_device
from mil.predictions import prediction_row, write_predictions
from mil.processes import Processes
from mil.readers import make_reader
from mil.recipe import Recipe
from mil.run_folder import LOG, OOF, open_run, refuse_run
from mil.settings import DEFAULT_BACKBONE
from mil.stop import Stop
from mil.tracking import Tracking, check_tracker, open_tracker
from mil.trial import try_model
from mil.votes import refuse_known_patients, refuse_other_folds
from tiling.features import FEATURES
from tiling.output import sweep, write_table
from tiling.progress import visible


class Plan(NamedTuple):
    """What a run will do: its settings with nothing left open, its folds, and the slides of each side of each."""

    recipe: Recipe
    folds: Folds
    splits: list[Split]


def make_plan(cohort: Cohort, recipe: Recipe, device: torch.device) -> Plan:
    """The plan of a run; raises LabelsError where some fold cannot be trained, or is none of the bags' ChipNet run."""
    labels, spec = cohort.labels, recipe.train
    if recipe.model.backbone is None and FEATURES not in cohort.bag_spec:
        recipe = replace(recipe, model=replace(recipe.model, backbone=DEFAULT_BACKBONE))
    if spec.precision == "auto":  # jobs on other devices must not mix precisions unnoticed
        half = half_precision(spec.precision, device)
        recipe = replace(recipe, train=replace(spec, precision="fp32" if half is None else "bf16"))
    folds = make_folds(labels, spec.folds, spec.seed)
    refuse_known_patients(cohort)
    refuse_other_folds(cohort, folds)
    splits = make_splits(labels, folds, spec.valid_share, spec.seed)
    return Plan(recipe, folds, splits)


def train_run(
    cohort: Cohort, out: Path, recipe: Recipe, processes: Processes | None = None,
    sources: Mapping[str, str] | None = None, fold: int | None = None, resume: bool = False,
    stop: Stop | None = None,
) -> Evaluation | None:  # fmt: skip
    """Train all folds, or the one given, into the run folder `out`; the evaluation once all are done, else None.

    Without `processes` this one trains alone. `sources` (where bags and labels came from) is saved with the settings.
    With `resume` what is there already goes on. What can be refused is refused before the folder is made: LabelsError,
    ModelError, SettingsError or RunError. Raises Stopped, with all saved, once `stop` says so.
    """
    processes = processes or Processes(Launch(), pick_device(recipe.train.device))
    plan = make_plan(cohort, recipe, processes.device)
    if fold is not None and not 0 <= fold < len(plan.splits):
        there = ", ".join(map(_called, plan.splits))
        raise RunError(f"there is no fold {fold}; --fold is one of {there}")
    processes.from_first(lambda: refuse_run(out, cohort, plan.recipe, plan.folds, resume, fold))
    _, weights = try_model(cohort, plan.recipe, processes.device, processes.world)
    if weights is not None and processes.is_first:
        sys.stderr.write(f"{visible(weights)}\n")
    processes.from_first(lambda: check_tracker(plan.recipe.train.tracker))
    processes.from_first(lambda: refuse_leaks(cohort, plan.splits))
    read = reader_of(cohort, plan.recipe, processes)
    processes.from_first(lambda: open_run(out, cohort, plan.recipe, plan.folds, sources or {}, resume, fold))
    encodings = Encodings()
    for split in plan.splits if fold is None else [plan.splits[fold]]:
        folder = out / f"fold_{split.fold}"
        # Asked by the first for all: a file of another job may appear in between.
        if processes.from_first(lambda folder=folder: not _is_done(folder)):  # type: ignore[misc]
            train_into(folder, cohort, plan, split, read, processes, stop or Stop(), encodings)
    missing = processes.from_first(lambda: [each for each in plan.splits if not _is_done(out / f"fold_{each.fold}")])
    if missing and processes.is_first:
        sys.stderr.write(visible(f"not done yet: fold {', '.join(map(_called, missing))}") + "\n")
    return None if missing else processes.from_first(lambda: collect(out))


def _is_done(folder: Path) -> bool:
    """Whether a fold is trained; what only its training needed is gone then."""
    if not (folder / OOF).exists():
        return False
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return True


def _called(split: Split) -> str:
    return str(split.fold) if split.name == str(split.fold) else f"{split.fold} ({split.name})"


def reader_of(cohort: Cohort, recipe: Recipe, processes: Processes) -> Reader:
    """Who reads the bags; the first process makes the cache, if there is to be one, and the others find it."""
    train, px = recipe.train, recipe.model.input_px
    made: list[Reader] = []

    def make() -> None:
        made.append(make_reader(cohort, px, processes.device, train.cache, train.decode, processes.is_first))

    processes.from_first(make)
    if not made:
        make()
    processes.wait()  # on another machine a cache may have to be made once more
    return made[0]


def train_into(
    folder: Path, cohort: Cohort, plan: Plan, split: Split, read: Reader, processes: Processes, stop: Stop,
    encodings: Encodings,
) -> None:  # fmt: skip
    """Train a fold into its folder, going on from the checkpoint there; its oof.csv is written last."""
    if processes.is_first:
        folder.mkdir(exist_ok=True)
        sweep(folder)
    processes.barrier()
    name, config = plan.recipe.train.tracker, plan.recipe.flat()
    with ExitStack() as stack:
        trackers: list[Tracking] = []

        def tracker_from(epoch: int) -> Tracking:
            if not trackers:
                trackers.append(stack.enter_context(open_tracker(name, folder.parent, config, split.fold, epoch)))
            return trackers[0]

        def watch(log: Sequence[EpochLog]) -> None:
            if not processes.is_first:
                return
            write_table(folder / LOG, EpochLog._fields, log)
            tracker_from(log[-1].epoch).epoch(log[-1])

        result = train_fold(cohort, split, plan.recipe, read, processes, folder, stop, watch, encodings)
        if processes.is_first:
            targets = cohort.labels.targets[split.test]
            figures = {key: METRICS[key](result.probabilities, targets) for key in ("auc", "log_loss")}
            tracker_from(len(result.log)).finish(figures)
    if processes.is_first:
        task, epoch = cohort.labels.task, kept(result.log).epoch
        card = ModelCard(plan.recipe.model, task, cohort.bag_spec, result.metadata, split.fold, epoch)
        save_model(folder, result.model, card)
        write_table(folder / LOG, EpochLog._fields, result.log)
        write_predictions(folder / OOF, _oof_rows(cohort, split, result.probabilities))
        (folder / CHECKPOINT).unlink(missing_ok=True)
    processes.barrier()


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
