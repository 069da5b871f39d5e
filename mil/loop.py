"""Training one fold: one loop for every model.

The fold that is reported never chooses anything: stopping and the choice of the epoch use a part of the training
folds that is set aside for them, again by patient.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mil.cohort import Cohort
from mil.data import BagDataset, Batch, loader, random_symmetry
from mil.errors import ModelError
from mil.folds import Split
from mil.log import EpochLog, kept
from mil.metrics import auc, log_loss
from mil.model import MILNet, build_model
from mil.predict import pick_device, predict_loader
from mil.settings import ModelSpec, TrainSpec
from tiling.progress import progress


class FoldResult(NamedTuple):
    """The best model of a fold, its probabilities (test slides, K) of the fold it has not seen, and its epochs."""

    model: MILNet
    probabilities: np.ndarray
    log: list[EpochLog]


def train_fold(cohort: Cohort, split: Split, model_spec: ModelSpec, spec: TrainSpec) -> FoldResult:
    """Train on the training part of a split, keep the epoch that is best on its validation part, predict its test part.

    Raises ModelError where the loss is no longer a number.
    """
    # One process, also in a job of Slurm or beside its srun, which Fabric would otherwise ask for.
    fabric = Fabric(accelerator=pick_device(spec.device).type, devices=1, plugins=LightningEnvironment())
    torch.manual_seed(spec.seed + split.fold)
    loaders = _loaders(cohort, split, model_spec.train_px, spec)
    valid_targets = cohort.labels.table["target"].to_numpy()[split.valid]
    net = build_model(model_spec, len(cohort.labels.classes), cohort.tile_spec["instances"])
    model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), spec.lr, weight_decay=spec.weight_decay))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.epochs * len(loaders.train), spec.lr_end)
    log: list[EpochLog] = []
    best_weights: dict[str, Tensor] = {}
    with progress(spec.epochs, "epoch", f"fold {split.fold}") as bar:
        for epoch in range(spec.epochs):
            lr = float(schedule.get_last_lr()[0])
            loss = _train_epoch(fabric, model, optimizer, schedule, loaders.train, spec.augment)
            chances = predict_loader(model, loaders.valid, fabric.device)
            valid_loss = log_loss(chances, valid_targets)
            if not math.isfinite(loss + valid_loss):
                raise ModelError(
                    f"the loss of fold {split.fold} became {loss} (validation {valid_loss}) in epoch {epoch}; "
                    "lower --lr"
                )
            best = valid_loss < min((row.valid_loss for row in log), default=math.inf)
            log.append(EpochLog(split.fold, epoch, loss, valid_loss, auc(chances, valid_targets), lr, best))
            if best:
                best_weights = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
            bar.set_postfix(train=f"{loss:.3f}", valid=f"{valid_loss:.3f}", refresh=False)
            bar.update()
            if epoch - kept(log).epoch >= spec.patience:
                break
    net.load_state_dict(best_weights)
    return FoldResult(net, predict_loader(model, loaders.test, fabric.device), log)


class _Loaders(NamedTuple):
    train: DataLoader[Batch]
    valid: DataLoader[Batch]
    test: DataLoader[Batch]


def _loaders(cohort: Cohort, split: Split, px: int, spec: TrainSpec) -> _Loaders:
    targets = cohort.labels.table["target"].to_numpy()

    def load(rows: np.ndarray, shuffle: bool = False) -> DataLoader[Batch]:
        dataset = BagDataset([cohort.bags[row] for row in rows], targets[rows].tolist(), px)
        return loader(dataset, spec.batch_size, spec.loader_workers, shuffle, spec.seed + split.fold)

    return _Loaders(load(split.train, shuffle=True), load(split.valid), load(split.test))


def _train_epoch(
    fabric: Fabric, model: nn.Module, optimizer: Any, schedule: Any, batches: DataLoader[Batch], augment: bool
) -> float:
    """One pass over the training slides; gives the mean loss a slide."""
    model.train()
    total, slides = 0.0, 0
    for batch in batches:
        tiles, mask, target = (part.to(fabric.device) for part in batch[:3])
        try:
            logits = model(random_symmetry(tiles) if augment else tiles, mask).logits_BK
        except ValueError as error:  # batch norm has nothing to take a mean of
            raise ModelError(f"{error}; raise --train-px or --batch-size, or tile with more --instances") from error
        loss = nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        schedule.step()
        total, slides = total + loss.item() * len(target), slides + len(target)
    return total / slides
