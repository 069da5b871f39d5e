"""A run: all folds of a cross-validation, and the folder in which it leaves what it learned and how good it is."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mil.checkpoint import ModelCard, save_model
from mil.cohort import Cohort
from mil.errors import ModelError, RunError
from mil.folds import Split, make_folds, make_splits
from mil.log import EpochLog, kept
from mil.loop import train_fold
from mil.metadata import fit_metadata
from mil.metrics import Estimate, auc, estimate_all, log_loss, prior_log_loss
from mil.model import build_model, start_from_weights
from mil.optim import make_optimizer, prepare
from mil.plots import draw_learning_curves
from mil.predict import METRICS_FILE, pick_device, prediction_row, write_predictions
from mil.settings import DEFAULT_BACKBONE, ModelSpec, TableSpec, TrainSpec
from tiling.features import FEATURES
from tiling.output import replacing, write_table


def make_run_folder(out: Path) -> None:
    """Make the folder of a new run; raises RunError where it exists or cannot be made."""
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"the run folder {str(out)!r} exists; choose another --out or delete it") from None
    except OSError as error:
        raise RunError(f"cannot make the run folder {str(out)!r} ({error.strerror}); choose another --out") from error


def train_run(
    cohort: Cohort, out: Path, model_spec: ModelSpec, spec: TrainSpec, table: TableSpec | None = None,
    sources: Mapping[str, str] | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """Train all folds into the run folder `out` and give the out-of-fold metrics, as they stand in metrics.json.

    `table` says what the labels were read with; `sources` (where bags and labels came from) is saved with the settings
    in config.yaml. What can be refused is refused before the folder is made: LabelsError, ModelError, SettingsError or
    RunError.
    """
    table, labels = table or TableSpec(), cohort.labels
    fold_of = make_folds(labels, spec.folds, spec.seed)
    splits = make_splits(labels, fold_of, spec.valid_share, spec.seed)
    pick_device(spec.device)
    if model_spec.backbone is None and FEATURES not in cohort.bag_spec:
        model_spec = replace(model_spec, backbone=DEFAULT_BACKBONE)
    _try(cohort, model_spec, spec, table)
    make_run_folder(out)
    config = {**(sources or {}), **asdict(table), **asdict(model_spec), **asdict(spec)}
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    columns = ["slide_id", "patient_id", "label", "fold"]
    write_table(out / "folds.csv", columns, labels.table.assign(fold=fold_of)[columns].itertuples(index=False))
    probabilities = np.full((len(labels), len(labels.task.classes)), np.nan)
    logs: list[list[EpochLog]] = []
    for split in splits:
        result = train_fold(cohort, split, model_spec, spec, table)
        card = ModelCard(model_spec, labels.task, cohort.bag_spec, result.metadata, split.fold, kept(result.log).epoch)
        save_model(out / f"fold_{split.fold}", result.model, card)
        probabilities[split.test] = result.probabilities
        logs.append(result.log)
        write_table(out / "log.csv", EpochLog._fields, [row for log in logs for row in log])
    write_predictions(out / "oof.csv", _oof_rows(cohort, fold_of, probabilities))
    draw_learning_curves(out / "learning_curves.png", logs)
    estimates = estimate_all(probabilities, labels.targets, labels.table["patient_id"].to_numpy())
    _write_json(out / METRICS_FILE, _metrics(cohort, splits, logs, probabilities, estimates))
    return estimates


def _try(cohort: Cohort, model_spec: ModelSpec, spec: TrainSpec, table: TableSpec) -> None:
    """Build the network and its optimiser once, so that what does not fit is refused; says what weights it got."""
    metadata = fit_metadata(cohort.labels.table, table.categorical, table.numeric)
    net = build_model(model_spec, cohort.labels.task, cohort.bag_spec, metadata)
    if report := start_from_weights(net, model_spec):
        sys.stderr.write(f"{report}\n")
    prepare(net, spec)
    make_optimizer(net, spec)
    if model_spec.head_norm and spec.batch_size == 1:
        raise ModelError("--head-norm takes means over the bags of a step: give a --batch-size of 2 or more")


def _metrics(
    cohort: Cohort,
    splits: list[Split],
    logs: list[list[EpochLog]],
    probabilities: np.ndarray,
    estimates: dict[str, Estimate],
) -> dict[str, Any]:
    """What metrics.json says."""
    table, targets = cohort.labels.table, cohort.labels.targets
    folds = [
        {
            "fold": split.fold,
            "best_epoch": kept(log).epoch,
            "slides": len(split.test),
            "auc": auc(probabilities[split.test], targets[split.test]),
            "log_loss": log_loss(probabilities[split.test], targets[split.test]),
        }
        for split, log in zip(splits, logs, strict=True)
    ]
    return {
        **{name: estimate._asdict() for name, estimate in estimates.items()},
        "prior_log_loss": prior_log_loss(targets),
        "interval": "95 %, bootstrap over patients",
        "slides": len(table),
        "patients": table["patient_id"].nunique(),
        "skipped": len(cohort.missing),
        "folds": folds,
    }


def _oof_rows(cohort: Cohort, fold_of: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """A row for every labelled slide, those without a bag included."""
    task = cohort.labels.task
    scored = [
        prediction_row(
            slide["slide_id"], slide["patient_id"], task, size, chances, label=slide["label"], fold=str(fold)
        )
        for slide, size, fold, chances in zip(
            cohort.labels.table.to_dict("records"), cohort.sizes, fold_of, probabilities, strict=True
        )
    ]
    skipped = [
        prediction_row(
            slide["slide_id"], slide["patient_id"], task, error=slide["error"], label=slide["label"], fold=""
        )
        for slide in cohort.missing.to_dict("records")
    ]
    return scored + skipped


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON: what has no value (the AUC of a fold with one class) is null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_null_for_nan(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _null_for_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _null_for_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_null_for_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
