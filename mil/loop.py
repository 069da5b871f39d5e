"""Training one fold: one loop for every model.

The fold that is reported never chooses anything: stopping and the choice of the epoch use a part of the training
folds that is set aside for them, again by patient.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mil.cohort import Cohort
from mil.data import BagDataset, Batch, Kept, PixelReader, Reader, loader, random_symmetry, read_feature_tensor
from mil.errors import ModelError
from mil.folds import Split
from mil.log import EpochLog, kept
from mil.losses import log_loss, probabilities, task_loss
from mil.metadata import MetadataCoder, fit_metadata
from mil.metrics import auc
from mil.model import Features, MILNet, build_model, start_from_weights
from mil.optim import cosine, make_optimizer, prepare
from mil.predict import pick_device, predict_loader
from mil.settings import ModelSpec, TableSpec, TrainSpec
from tiling.features import FEATURES
from tiling.progress import progress

Loss = Callable[[Tensor, Tensor], Tensor]
Augment = Callable[[Tensor], Tensor]
KEPT_BYTES = 2**30  # features of a cohort up to this size stay in memory; each loader worker has its own


class FoldResult(NamedTuple):
    """The best model of a fold, its metadata, its probabilities (test slides, K) of the unseen fold, its epochs."""

    model: MILNet
    metadata: MetadataCoder
    probabilities: np.ndarray
    log: list[EpochLog]


def train_fold(cohort: Cohort, split: Split, model_spec: ModelSpec, spec: TrainSpec, table: TableSpec) -> FoldResult:
    """Train on the training part of a split, keep the epoch that is best on its validation part, predict its test part.

    Without a validation part the last epoch is kept. Raises ModelError where the loss is no longer a number.
    """
    # One process, also in a job of Slurm or beside its srun, which Fabric would otherwise ask for.
    fabric = Fabric(accelerator=pick_device(spec.device).type, devices=1, plugins=LightningEnvironment())
    torch.manual_seed(spec.seed + split.fold)
    task = cohort.labels.task
    metadata = fit_metadata(cohort.labels.table.iloc[split.train], table.categorical, table.numeric)
    loaders = _loaders(cohort, split, metadata, model_spec.train_px, spec)
    net = build_model(model_spec, task, cohort.bag_spec, metadata)
    start_from_weights(net, model_spec)
    if model_spec.standardize:
        _standardize(net, loaders.train.dataset)
    prepare(net, spec)
    model, optimizer = fabric.setup(net, make_optimizer(net, spec))
    schedule = cosine(optimizer, spec.epochs * len(loaders.train), spec.lr_end / spec.lr)
    valid_targets = cohort.labels.targets[split.valid]
    augment = random_symmetry if spec.augment and FEATURES not in cohort.bag_spec else None
    log: list[EpochLog] = []
    best_weights: dict[str, Tensor] = {}
    with progress(spec.epochs, "epoch", f"fold {split.fold}") as bar:
        for epoch in range(spec.epochs):
            lr = spec.lr * schedule.lr_lambdas[0](schedule.last_epoch)
            loss = _train_epoch(fabric, model, optimizer, schedule, loaders.train, partial(task_loss, task), augment)
            valid_loss = valid_auc = math.nan
            if loaders.valid is not None:
                logits = predict_loader(model, loaders.valid, fabric.device)
                valid_loss = log_loss(task, logits, torch.from_numpy(valid_targets))
                valid_auc = auc(probabilities(task, logits).numpy(), valid_targets)
            if not math.isfinite(loss) or not (loaders.valid is None or math.isfinite(valid_loss)):
                raise ModelError(
                    f"the loss of fold {split.fold} became {loss} (validation {valid_loss}) in epoch {epoch}; "
                    "lower --lr"
                )
            # Without validation each epoch takes the place of the one before.
            best = loaders.valid is None or valid_loss < min((row.valid_loss for row in log), default=math.inf)
            log.append(EpochLog(split.fold, epoch, loss, valid_loss, valid_auc, lr, best))
            if best and loaders.valid is not None:
                best_weights = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
            valid = "" if loaders.valid is None else f", valid={valid_loss:.3f}"
            bar.set_postfix_str(f"train={loss:.3f}{valid}", refresh=False)
            bar.update()
            if epoch - kept(log).epoch >= spec.patience:
                break
    if best_weights:
        net.load_state_dict(best_weights)
    chances = probabilities(task, predict_loader(model, loaders.test, fabric.device)).numpy()
    return FoldResult(net, metadata, chances, log)


class _Loaders(NamedTuple):
    train: DataLoader[Batch]
    valid: DataLoader[Batch] | None
    test: DataLoader[Batch]


def _loaders(cohort: Cohort, split: Split, metadata: MetadataCoder, px: int, spec: TrainSpec) -> _Loaders:
    targets, columns = cohort.labels.targets, metadata.encode(cohort.labels.table)
    read: Reader = PixelReader(px)
    if channels := cohort.bag_spec.get(FEATURES):
        small = 4 * channels * sum(cohort.sizes) <= KEPT_BYTES
        read = Kept(read_feature_tensor) if small else read_feature_tensor

    def load(rows: np.ndarray, shuffle: bool = False) -> DataLoader[Batch]:
        dataset = BagDataset([cohort.bags[row] for row in rows], targets[rows], read, columns[rows])
        return loader(dataset, spec.batch_size, spec.loader_workers, shuffle, spec.seed + split.fold)

    valid = load(split.valid) if len(split.valid) else None
    return _Loaders(load(split.train, shuffle=True), valid, load(split.test))


def _explained(error: Exception) -> str | None:
    """What a user can do about an error of a step, None for any other."""
    if "more than 1 value per channel" in str(error):
        return (
            f"batch norm has nothing to take a mean of ({error}); raise --batch-size, or --instance-chunk if you gave "
            "one, or --train-px, or tile with more --instances"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        cause = " ".join(str(error).split())[:200]
        return f"the backbone cannot be compiled here ({cause}); train without --compile"
    return None


def _standardize(net: MILNet, bags: Any) -> None:
    """Set mean and deviation of the network's input to those of all instances of some bags."""
    inputs = net.encoder.backbone
    assert isinstance(inputs, Features), "only features are standardised here"
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for index in range(len(bags)):
        features = bags[index].instances_N.double()
        count, total, squares = count + len(features), total + features.sum(0), squares + features.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    inputs.mean.copy_(mean)
    # A feature that is the same everywhere says nothing: it becomes 0, but for rounding.
    inputs.deviation.copy_(torch.where(deviation > 1e-6 * mean.abs(), deviation, 1))


def _train_epoch(
    fabric: Fabric, model: nn.Module, optimizer: Any, schedule: Any, batches: DataLoader[Batch], loss_of: Loss,
    augment: Augment | None,
) -> float:  # fmt: skip
    """One pass over the training slides; gives the mean loss a slide."""
    model.train()
    total, slides = 0.0, 0
    for batch in batches:
        instances, target, metadata = (
            part.to(fabric.device) for part in (batch.instances_M, batch.target_B, batch.metadata_BF)
        )
        try:
            logits = model(instances if augment is None else augment(instances), batch.mask_BN, metadata).logits_BK
        except (ValueError, RuntimeError) as error:
            if (sentence := _explained(error)) is None:
                raise
            raise ModelError(sentence) from error
        loss = loss_of(logits, target)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        schedule.step()
        total, slides = total + loss.item() * len(target), slides + len(target)
    return total / slides
