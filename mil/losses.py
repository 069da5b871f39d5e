"""From logits to a loss, and to probabilities, for each kind of task. Losses take logits."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mil.errors import SettingsError
from mil.recipe import LossSpec
from mil.task import ANY_OF, ONE_OF, ONE_VS_NORMAL, Task


class TaskLoss:
    """The loss of a training, whose classes are weighed as the targets of its training slides (no others) say.

    A term of the loss is a slide (`one of`), a known label of a slide (`any of`), or a class against the normal one on
    a slide that is either (`one vs normal`). Its loss is the cross-entropy, softmax or binary, with label smoothing as
    of torch's CrossEntropyLoss (targets go towards 1/K, binary ones towards 1/2), or the focal loss (see `focal`).

    `balance="weights"` gives each class the same share of the loss; for binary terms: each label, and its presence and
    absence. Those of class k weigh T / (S n_k), where n_k of the T terms of the training slides are of it and S is the
    number of classes (`any of`: twice that of labels, `one vs normal`: twice that of the other classes). The mean over
    the training slides is then the mean over classes of the mean loss of each: the class-weighted log loss.

    Targets are int64 (B,), the place of each slide's class; for `any of` float (B, K), 1 or 0, nan where a label is
    unknown. Soft ones are float (B, K) for all tasks, probabilities: a slide then counts as that mixture of slides
    whose targets are certain, in its loss, in its terms and in what classes weigh. Raises SettingsError for an alpha
    that does not fit the classes.
    """

    def __init__(self, task: Task, spec: LossSpec, training: np.ndarray) -> None:
        self.task, self.smoothing = task, spec.label_smoothing
        self.gamma = spec.focal_gamma if spec.loss == "focal" else None
        factors = _alpha(task, spec.focal_alpha)
        if spec.balance == "weights":
            factors = factors * _balanced(task, torch.tensor(training))
        self._factors = factors

    def weight(self, target: Tensor) -> float:
        """How many terms a batch has.

        Not the sum of their weights, whose mean over the training slides is 1: divided by that sum, the loss of a batch
        with slides of one class alone would be what it is without weights.
        """
        if self.task.kind == ANY_OF:
            return float((~target.isnan()).sum())
        if is_soft(target):
            return sum(float(target[:, k].sum()) * self.weight(certain[:1]) for k, certain in self._certain(target))
        return float(len(target) if self.task.kind == ONE_OF else (~_wanted(self.task, target).isnan()).sum())

    def __call__(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of a batch's terms, a scalar; over `weight` it is the mean, of one batch or several."""
        self._factors = self._factors.to(logits_BK)
        if self.task.kind == ANY_OF or not is_soft(target):
            return self._terms(logits_BK, target).sum()
        terms = [
            target[:, k, None].to(logits_BK) * self._terms(logits_BK, certain) for k, certain in self._certain(target)
        ]
        return torch.cat(terms, dim=1).sum()

    def _certain(self, target_BK: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each class with the targets (B,) that slides of it would have."""
        for k in range(target_BK.shape[1]):
            yield k, torch.full((len(target_BK),), k, device=target_BK.device)

    def _terms(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """The weighted terms of each slide: (B, 1), or (B, logits), 0 where nothing is asked."""
        if self.task.kind == ONE_OF:
            return (self._of_classes(logits_BK, target) * self._factors[target])[:, None]
        wanted_BK = _wanted(self.task, target)
        present_BK = wanted_BK.nan_to_num().to(logits_BK)
        absent, present = (
            self._of_labels(logits_BK, side) * factors * share
            for side, factors, share in zip((False, True), self._factors, (1 - present_BK, present_BK), strict=True)
        )
        return (absent + present) * ~wanted_BK.isnan()

    def _of_classes(self, logits_BK: Tensor, target_B: Tensor) -> Tensor:
        if self.gamma is None:
            return nn.functional.cross_entropy(logits_BK, target_B, reduction="none", label_smoothing=self.smoothing)
        own_B1 = target_B[:, None]
        others_B = logits_BK.scatter(1, own_B1, -torch.inf).logsumexp(dim=1)
        return focal(logits_BK.gather(1, own_B1).squeeze(1) - others_B, self.gamma)

    def _of_labels(self, logits_BK: Tensor, present: bool) -> Tensor:
        if self.gamma is None:
            smoothed_BK = torch.full_like(logits_BK, present * (1 - self.smoothing) + self.smoothing / 2)
            return nn.functional.binary_cross_entropy_with_logits(logits_BK, smoothed_BK, reduction="none")
        return focal(logits_BK if present else -logits_BK, self.gamma)


def focal(margins: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of each p = sigmoid(margin): the focal loss of Lin et al. 2017 (arXiv:1708.02002), eq. 4.

    The margin is the logit of what is true, less the logsumexp of the logits of all else (the logit itself, or its
    negative, where it is binary). Of it, unlike of p, loss and gradient are finite and keep their digits everywhere.
    """
    return -(gamma * nn.functional.logsigmoid(-margins)).exp() * nn.functional.logsigmoid(margins)


def is_soft(target: Tensor | np.ndarray) -> bool:
    """Whether targets, of classes that exclude each other, are probabilities of all of them."""
    return target.ndim == 2


def sampling_weights(task: Task, targets: np.ndarray) -> np.ndarray:
    """How often each slide (slides,) is to be drawn where on average one is drawn once, so that classes count alike.

    All slides of a class are drawn as often as those of any other. With several labels a slide has the mean, over its
    known labels, of what each alone would give it: 1 / (2 its share). All presences and absences cannot be had alike
    at once, nor is it wanted that a rare set of labels is drawn as often as all other slides together.
    """
    if task.kind != ANY_OF:
        shares_NK = targets if is_soft(targets) else np.eye(len(task.classes))[targets]
        return _evenly(shares_NK)
    each = np.full(targets.shape, np.nan)
    for weights, column in zip(each.T, targets.T, strict=True):
        known = ~np.isnan(column)
        weights[known] = _evenly(np.stack([1 - column[known], column[known]], axis=1))
    mean = np.nanmean(each, axis=1)
    return mean / mean.mean()


def probabilities(task: Task, logits_BK: Tensor) -> Tensor:
    """Probabilities (B, classes) in float64, so that those of a confident model do not round to 0 and 1."""
    if task.kind == ANY_OF:
        return logits_BK.double().sigmoid()
    return _with_normal(task, logits_BK).softmax(dim=1)


def log_loss(task: Task, logits_BK: Tensor, target: Tensor) -> float:
    """The log loss of `mil.metrics`, from logits: finite also where a probability rounds to 1 in float64."""
    if task.kind != ANY_OF:
        return nn.functional.cross_entropy(_with_normal(task, logits_BK), target).item()
    losses_BK = nn.functional.binary_cross_entropy_with_logits(
        logits_BK.double(), target.nan_to_num().double(), reduction="none"
    )
    return losses_BK.masked_fill(target.isnan(), torch.nan).nanmean(dim=0).mean().item()


def _with_normal(task: Task, logits_BK: Tensor) -> Tensor:
    """Logits (B, classes) in float64, of which a softmax gives the probabilities."""
    logits_BK = logits_BK.double()
    if task.kind != ONE_VS_NORMAL:
        return logits_BK
    at = task.normal_index
    return torch.cat([logits_BK[:, :at], torch.zeros_like(logits_BK[:, :1]), logits_BK[:, at:]], dim=1)


def _wanted(task: Task, target: Tensor) -> Tensor:
    """What each logit should say, (B, logits): 1, 0, or nan where it is not asked.

    Against the normal class, a normal slide is none of the other classes; of another slide only its own is known.
    """
    if task.kind == ANY_OF:
        return target
    is_class = nn.functional.one_hot(target, len(task.classes)).bool()
    normal_B1 = is_class[:, task.normal_index, None]
    wanted = torch.full((len(target), task.logits), torch.nan, device=target.device)
    return wanted.masked_fill(is_class[:, _others(task)], 1).masked_fill(normal_B1, 0)


def _evenly(shares_NK: np.ndarray) -> np.ndarray:
    """A weight (N,) for each of some slides, on average 1, with which all classes there are add up to the same."""
    counts = shares_NK.sum(axis=0)
    there = counts > 0
    return shares_NK[:, there] @ (len(shares_NK) / (there.sum() * counts[there]))


def _balanced(task: Task, targets: Tensor) -> Tensor:
    """Factors (K,) of classes, or (2, logits) of what is absent and present, see TaskLoss; 1 where there is none."""
    if task.kind == ANY_OF:
        counts = torch.stack([(1 - targets).nansum(dim=0), targets.nansum(dim=0)])
    else:
        counts = targets.sum(dim=0) if is_soft(targets) else targets.bincount(minlength=len(task.classes))
    if task.kind == ONE_VS_NORMAL:
        counts = torch.stack([counts[task.normal_index].expand(task.logits), counts[_others(task)]])
    there = counts > 0
    # Soft targets may add up to hardly anything, which must not weigh without bound.
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1)), 1.0)


def _alpha(task: Task, alpha: tuple[float, ...]) -> Tensor:
    """Factors as of `_balanced`, for what --focal-alpha says; one number is for the second class or what is present."""
    if not alpha:
        return torch.ones(len(task.classes) if task.kind == ONE_OF else (2, task.logits))
    if len(alpha) == 1 and (len(task.classes) == 2 or task.kind != ONE_OF):
        pair = torch.tensor([1 - alpha[0], alpha[0]])
        return pair if task.kind == ONE_OF else pair[:, None].expand(2, task.logits)
    if len(alpha) != len(task.classes):
        raise SettingsError(
            f"--focal-alpha has {len(alpha)} weights and there are {len(task.classes)} classes "
            f"({', '.join(task.classes)}); give one for each"
        )
    each = torch.tensor(alpha)
    if task.kind == ONE_OF:
        return each
    if task.kind == ONE_VS_NORMAL:
        return torch.stack([each[task.normal_index].expand(task.logits), each[_others(task)]])
    if each.max() > 1:
        raise SettingsError(
            f"--focal-alpha weighs the presence of a label, and 1 less it its absence: give numbers up to 1, "
            f"not {max(alpha)}"
        )
    return torch.stack([1 - each, each])


def _others(task: Task) -> list[int]:
    return [k for k in range(len(task.classes)) if k != task.normal_index]
