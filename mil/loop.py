"""Training one fold: one loop for every model, that can be interrupted at any moment and goes on as if it had not been.

The fold that is reported never chooses anything: stopping and the choice of the epoch use a part of the training
folds that is set aside for them, again by patient.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mil.cohort import Cohort
from mil.data import Reader
from mil.encoded import Encodings
from mil.errors import MilError, ModelError, Stopped
from mil.folds import Split
from mil.log import EpochLog
from mil.processes import Processes
from mil.recipe import Recipe
from mil.snapshot import load_state, save_state
from mil.stop import Stop
from mil.training import FoldResult, FoldTraining
from mil.trial import explained
from tiling.progress import progress

CHECKPOINT = "checkpoint.safetensors"


def train_fold(
    cohort: Cohort, split: Split, recipe: Recipe, read: Reader, processes: Processes, folder: Path | None = None,
    stop: Stop | None = None, watch: Callable[[Sequence[EpochLog]], None] = lambda _: None,
    encodings: Encodings | None = None,
) -> FoldResult:  # fmt: skip
    """Train on the training part of a split, keep the epoch that is best on its validation part, predict its test part.

    Without a validation part the last epoch is kept. `read` gives the instances of a bag. With a `folder` there is a
    checkpoint in it after each epoch and every few minutes, and a training of which there is one goes on from it.
    `watch` is given the log after each epoch. `encodings` has what a frozen backbone said of bags in another fold. Once
    `stop` says so, where the training stands is saved and Stopped raised. Raises ModelError where the loss is no longer
    a number or memory does not suffice, RunError where the checkpoint does not fit.
    """
    try:
        fold = FoldTraining(cohort, split, recipe, read, processes, encodings)
        _train(fold, folder / CHECKPOINT if folder else None, stop or Stop(), watch)
        return fold.result()
    except (ValueError, RuntimeError, MemoryError) as error:
        if (
            isinstance(error, MilError)
            or (sentence := explained(error, cohort, recipe, processes.device, processes.world)) is None
        ):
            raise
        raise ModelError(sentence) from error


def _train(
    fold: FoldTraining, checkpoint: Path | None, stop: Stop, watch: Callable[[Sequence[EpochLog]], None]
) -> None:
    """Train until there is no epoch left, from the checkpoint on where there is one."""
    processes, minutes = fold.processes, fold.recipe.train.checkpoint_minutes
    if checkpoint is not None and processes.from_first(checkpoint.exists):
        fold.restore(load_state(checkpoint), checkpoint)
    processes.check_same_weights(fold.net)
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal saved_at
        if checkpoint is not None:
            state = fold.state()
            if processes.is_first:
                save_state(checkpoint, state)
        saved_at = time.monotonic()

    def after_step() -> None:
        if processes.any_(stop()):
            raise Stopped(f"fold {fold.split.fold} was asked to stop in epoch {fold.epoch}")
        if processes.any_(time.monotonic() - saved_at >= 60 * minutes):
            save()

    each = fold.steps_of_epoch
    with stop.held(), progress(fold.recipe.train.epochs * each, "step", f"fold {fold.split.name}", fold.done) as bar:
        try:
            while not fold.finished:
                for _ in fold.steps():
                    bar.update()
                    after_step()
                fold.end_epoch(stop)
                bar.set_postfix_str(str(fold.log[-1]), refresh=False)
                watch(fold.log)
                after_step()
                save()
        except Stopped:
            save()
            raise
