"""A fold in training: all that changes while it learns, a step and an epoch of it.

Chance is drawn anew for each step from seed, fold, epoch, step and process. Where a training stands is thus all that
has to be known to go on with the same numbers.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from mil.augment import Augment
from mil.averaging import Averaging, standing_in
from mil.chance import seed_of
from mil.chipnet import entropy
from mil.cohort import Cohort
from mil.data import BagDataset, Batch, Reader
from mil.encoded import MOST_BYTES, Encodings, encode_once
from mil.errors import ModelError, RunError, Stopped, cause
from mil.feed import feed
from mil.folds import Split
from mil.log import EpochLog, kept
from mil.losses import TaskLoss, log_loss, probabilities, sampling_weights
from mil.metadata import MetadataCoder, fit_metadata
from mil.metrics import auc
from mil.model import build_model, standardize, start_from_weights
from mil.network import MILOutput, Network
from mil.optim import make_optimizer, prepare
from mil.order import Batches
from mil.predict import predict_batches
from mil.processes import Processes
from mil.recipe import Recipe
from mil.resumed import refuse_strange
from mil.room import available_bytes
from mil.schedule import Schedule
from mil.stop import Stop


class FoldResult(NamedTuple):
    """The best model of a fold, its metadata, its probabilities (test slides, K) of the unseen fold, its epochs."""

    model: Network
    metadata: MetadataCoder
    probabilities: np.ndarray
    log: list[EpochLog]


class FoldTraining:
    """A fold in training: all that changes while it learns, which is what a checkpoint holds."""

    def __init__(
        self, cohort: Cohort, split: Split, recipe: Recipe, read: Reader, processes: Processes,
        encodings: Encodings | None = None,
    ) -> None:  # fmt: skip
        self.cohort, self.split, self.recipe, self.read, self.processes = cohort, split, recipe, read, processes
        labels, spec, optim = cohort.labels, recipe.train, recipe.optim
        train = labels.at(split.train)
        self.metadata = fit_metadata(train.table, recipe.table.categorical, recipe.table.numeric)
        rows = np.concatenate([split.train, split.soft])
        learned = labels.learned(split.train, split.soft, split.name)
        self.data = self._dataset(rows, learned)
        torch.manual_seed(seed_of(spec.seed, split.fold, 1))
        self.net = build_model(recipe.model, labels.task, cohort.bag_spec, self.metadata)
        start_from_weights(self.net, recipe.model)
        if recipe.model.standardize:
            standardize(self.net, map(read, self.data.bags))
        prepare(self.net, spec, processes.device, processes.world)
        self.net.to(processes.device)
        self.learning = [weight for weight in self.net.parameters() if weight.requires_grad]
        self.loss = TaskLoss(labels.task, recipe.loss, learned)
        drawn = sampling_weights(labels.task, learned) if recipe.loss.balance == "sampling" else None
        seed = seed_of(spec.seed, split.fold, 2)
        self.batches = Batches(len(rows), spec.batch_size, seed, shuffle=True, weights=drawn, world=processes.world)
        self.optimizer = make_optimizer(self.net, optim)
        self.schedule = Schedule(self.optimizer, optim, self.steps_of_epoch, spec.epochs)
        self.averaging = Averaging(optim.ema, optim.average_last)
        self.scaler = torch.amp.GradScaler(enabled=self.net.half_precision is torch.float16)
        self.augment = Augment(recipe.augment)
        # Of overviews, which have all chips of a slide, the frozen backbone's maps are turned in place of the pixels.
        self.moves_maps = self.net.is_frozen and recipe.model.takes_overviews and self.augment.only_moves
        if self.moves_maps or (self.net.is_frozen and not self.augment.steps):
            self.read = self._encoded(encodings or Encodings()) or read
            self.data.read = self.read
        self.epoch = self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=processes.device)
        self.log: list[EpochLog] = []
        self.best: dict[str, Tensor] = {}

    @property
    def steps_of_epoch(self) -> int:
        """Steps of the optimiser in each epoch."""
        return -(-len(self.batches) // self.recipe.optim.accumulate)

    @property
    def done(self) -> int:
        """Steps that were done, over all epochs."""
        return self.epoch * self.steps_of_epoch + self.step

    @property
    def finished(self) -> bool:
        """Whether there is no epoch left, or none was better for too long."""
        spec = self.recipe.train
        waited = self.log[-1].epoch - kept(self.log).epoch if self.log else 0
        return self.epoch >= spec.epochs or waited >= spec.patience

    def state(self) -> dict[str, Any]:
        """All of it, as `mil.snapshot` saves it; what all processes ask for together.

        Of what differs between processes within an epoch it has the loss of each and, of the running statistics of
        batch norm, those of the first.
        """
        processes = self.processes
        sums = torch.zeros(processes.world, dtype=torch.float64, device=processes.device)
        sums[processes.rank] = self.loss_sum
        return {
            "epoch": self.epoch, "step": self.step, "loss_sums": processes.sum_(sums),
            "log": [tuple(row) for row in self.log], "best": self.best,
            "model": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(), "averaging": self.averaging.state(),
            "scaler": self.scaler.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Stand where that state was saved; raises RunError, which names the file, where it is of another training."""
        try:
            epochs = self.recipe.train.epochs
            refuse_strange(state, self.net, self.optimizer, self.steps_of_epoch, epochs)
            self.epoch, self.step = state["epoch"], state["step"]
            self.log, self.best = [EpochLog(*row) for row in state["log"]], state["best"]
            self.net.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.averaging.restore(state["averaging"], self.net)
            self.scaler.load_state_dict(state["scaler"])
            sums = state["loss_sums"]
        except (
            LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RuntimeError
        ) as error:  # fmt: skip
            raise RunError(
                f"the checkpoint {str(path)!r} is not of this training ({cause(error)}); delete it, and the fold "
                "starts again"
            ) from error
        for weight, values in self.optimizer.state.items():  # fused kernels want them in memory as the weight is
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        if len(sums) == self.processes.world:
            self.loss_sum.copy_(sums[self.processes.rank])
        elif self.processes.is_first:
            self.loss_sum.copy_(sums.sum())
        self.schedule.at(max(0, self.done - 1))

    def steps(self) -> Iterator[None]:
        """Does the steps that are left of the epoch, one at a time."""
        self.net.train()
        groups = self._groups()[self.step :]
        own = [self.processes.share(places) for group in groups for places in group]
        with closing(self._feed(self.data, own)) as batches:
            for group in groups:
                torch.manual_seed(self._chance())
                self.schedule.at(self.done)
                weight = self._weight(group)
                for _ in group:
                    self._learn(next(batches), weight)
                self._update()
                self.step += 1
                yield

    def end_epoch(self, stop: Stop) -> None:
        """Validate, keep the weights if they are the best so far, and write the epoch into the log.

        Raises Stopped in the middle of validation once `stop` says so; nothing is changed then that would not be the
        same the next time.
        """
        self.processes.mean_(self.net.buffers())
        weights, task = self.averaging.candidate(self.net), self.cohort.labels.task
        # Averages of statistics, which differ between processes until they are averaged here.
        self.processes.mean_(weights[name] for name, _ in self.net.named_buffers() if name in weights)
        loss = self.processes.sum_(self.loss_sum.clone()).item() / sum(map(self._weight, self._groups()))
        valid_loss = valid_auc = math.nan
        if len(self.split.valid):
            targets = self.cohort.labels.targets[self.split.valid]
            logits = self._predict(self.split.valid, weights, stop)
            valid_loss = log_loss(task, logits, torch.from_numpy(targets))
            valid_auc = auc(probabilities(task, logits).numpy(), targets)
        if not math.isfinite(loss) or (len(self.split.valid) and not math.isfinite(valid_loss)):
            raise ModelError(
                f"the loss of fold {self.split.fold} became {loss} (validation {valid_loss}) in epoch {self.epoch}; "
                "lower --lr"
            )
        row = EpochLog(self.split.fold, self.epoch, loss, valid_loss, valid_auc, self.schedule.lr, False)
        row = row._replace(best=self._is_best(row))
        if row.best and len(self.split.valid):
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self.averaging.epoch_ended(self.net)
        self.schedule.epoch_ended(self._figure(row))
        self.log.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum.zero_()

    def result(self) -> FoldResult:
        """The model that was kept, and what it says of the test part."""
        weights = self.best or self.averaging.weights(self.net)
        chances = probabilities(self.cohort.labels.task, self._predict(self.split.test, weights)).numpy()
        self.net.load_state_dict(weights)
        return FoldResult(self.net, self.metadata, chances, self.log)

    def _learn(self, batch: Batch, weight: float) -> None:
        """Add the gradient of a batch's part in a step whose terms weigh `weight`."""
        instances, mask = batch.instances_M, batch.mask_BN
        if self.moves_maps and not instances.is_floating_point():
            instances = self.net.through_frozen(instances)
        instances, mask = self.augment(instances, mask)
        output = self.net(instances, mask, batch.metadata_BF)
        total = self.loss(output.logits_BK, batch.target_B)
        if self.recipe.loss.map_entropy:
            total = total + self.recipe.loss.map_entropy * self.loss.weight(batch.target_B) * _mean_entropy(output)
        torch.autograd.backward(self.scaler.scale(total / weight))
        self.loss_sum += total.detach()

    def _update(self) -> None:
        self.processes.sum_gradients(self.learning)
        if self.recipe.optim.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.learning, self.recipe.optim.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.averaging.step(self.net)

    def _groups(self) -> list[list[np.ndarray]]:
        """The steps of the epoch, each some batches, each the places of its bags."""
        plan, some = self.batches.plan(self.epoch), self.recipe.optim.accumulate
        return [plan[start : start + some] for start in range(0, len(plan), some)]

    def _feed(self, data: BagDataset, plan: Sequence[np.ndarray]) -> Generator[Batch, None, None]:
        return feed(data, plan, self.processes.device, self.recipe.train.loader_workers)

    def _weight(self, group: Sequence[np.ndarray]) -> float:
        """What all terms of a step weigh together; 1 where nothing in it is known, and so nothing learned."""
        return self.loss.weight(torch.as_tensor(self.data.targets[np.concatenate(group)])) or 1.0

    def _chance(self) -> int:
        """A seed of this step's own."""
        return seed_of(self.recipe.train.seed, self.split.fold, 3, self.epoch, self.step, self.processes.rank)

    def _figure(self, row: EpochLog) -> float:
        """What is to be small."""
        return -row.valid_auc if self.recipe.train.choose_by == "auc" else row.valid_loss

    def _is_best(self, row: EpochLog) -> bool:
        # Without validation each epoch takes the place of the one before.
        return not len(self.split.valid) or self._figure(row) < min(map(self._figure, self.log), default=math.inf)

    def _predict(self, rows: np.ndarray, weights: Mapping[str, Tensor], stop: Stop | None = None) -> Tensor:
        """Logits (rows, K) with these weights, on every process; one that is alone may be told to stop."""
        spec, data = self.recipe.train, self._dataset(rows, self.cohort.labels.targets[rows])
        own = self.processes.share(np.arange(len(rows)))
        plan = [own[start : start + spec.batch_size] for start in range(0, len(own), spec.batch_size)]
        with standing_in(self.net, weights), closing(self._feed(data, plan)) as batches:
            ask = stop if self.processes.world == 1 else None
            logits, places = predict_batches(self.net, _until(ask, batches))
        return self.processes.gather_rows(logits, places, len(rows))

    def _encoded(self, encodings: Encodings) -> Reader | None:
        """Reads bags as the frozen backbone sees them, if that fits into memory."""
        maps = encodings.by(self.net)
        rows = np.concatenate([self.split.train, self.split.soft, self.split.valid, self.split.test])
        rows = rows[[self.cohort.bags[row] not in maps for row in rows]]
        if not len(rows):
            return maps.__getitem__
        data, some = self._dataset(rows, np.zeros(len(rows))), self.recipe.train.batch_size  # nothing is learned here
        plan = np.split(np.arange(len(rows)), range(some, len(rows), some))
        instances = sum(self.cohort.sizes[row] for row in rows)
        with closing(self._feed(data, plan)) as batches:
            most_bytes = min(MOST_BYTES, available_bytes(torch.device("cpu")) // 2)
            return encode_once(self.net, batches, data.bags, instances, most_bytes, maps)

    def _dataset(self, rows: np.ndarray, targets: np.ndarray) -> BagDataset:
        columns = self.metadata.encode(self.cohort.labels.slides.iloc[rows])
        return BagDataset([self.cohort.bags[row] for row in rows], targets, self.read, columns)


def _mean_entropy(output: MILOutput) -> Tensor:
    assert output.map_BGG is not None, "a network without a map has no entropy of it"
    return entropy(output.map_BGG).mean()


def _until(stop: Stop | None, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; raises Stopped behind one once `stop` says so."""
    for batch in batches:
        yield batch
        if stop is not None and stop():
            raise Stopped("a validation was asked to stop")
