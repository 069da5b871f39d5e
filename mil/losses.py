"""From logits to a loss, and to probabilities, for each kind of task. Losses take logits."""

import torch
from torch import Tensor, nn

from mil.task import ANY_OF, ONE_OF, ONE_VS_NORMAL, Task


def task_loss(task: Task, logits_BK: Tensor, target: Tensor) -> Tensor:
    """The mean loss of a batch, a scalar.

    `target` is int64 (B,), the place of each slide's class; for `any of` it is float (B, K), 1 or 0, nan where a label
    is unknown. Cross-entropy for `one of`; else binary cross-entropy, averaged over what is known.
    """
    if task.kind == ONE_OF:
        return nn.functional.cross_entropy(logits_BK, target)
    wanted_BK = target if task.kind == ANY_OF else _against_normal(task, target, logits_BK)
    return _label_losses(logits_BK, wanted_BK).nansum() / (~wanted_BK.isnan()).sum().clamp(min=1)


def probabilities(task: Task, logits_BK: Tensor) -> Tensor:
    """Probabilities (B, classes) in float64, so that those of a confident model do not round to 0 and 1."""
    if task.kind == ANY_OF:
        return logits_BK.double().sigmoid()
    return _of_classes(task, logits_BK).softmax(dim=1)


def log_loss(task: Task, logits_BK: Tensor, target: Tensor) -> float:
    """The log loss of `mil.metrics`, from logits: finite also where a probability rounds to 1 in float64."""
    if task.kind != ANY_OF:
        return nn.functional.cross_entropy(_of_classes(task, logits_BK), target).item()
    return _label_losses(logits_BK.double(), target).nanmean(dim=0).mean().item()


def _label_losses(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """The binary cross-entropy of each label, nan where it is unknown."""
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits_BK, target_BK.nan_to_num().to(logits_BK.dtype), reduction="none"
    )
    return losses.masked_fill(target_BK.isnan(), torch.nan)


def _of_classes(task: Task, logits_BK: Tensor) -> Tensor:
    """Logits (B, classes) in float64, of which a softmax gives the probabilities."""
    logits_BK = logits_BK.double()
    if task.kind != ONE_VS_NORMAL:
        return logits_BK
    at = task.normal_index
    return torch.cat([logits_BK[:, :at], torch.zeros_like(logits_BK[:, :1]), logits_BK[:, at:]], dim=1)


def _against_normal(task: Task, target_B: Tensor, logits_BK: Tensor) -> Tensor:
    """Targets (B, K - 1): a normal slide is none of the other classes; of another slide only its own class is known."""
    is_class = nn.functional.one_hot(target_B, len(task.classes)).bool()
    normal_B1 = is_class[:, task.normal_index, None]
    others = [k for k in range(len(task.classes)) if k != task.normal_index]
    wanted = torch.full_like(logits_BK, torch.nan).masked_fill(is_class[:, others], 1)
    return wanted.masked_fill(normal_B1, 0)
