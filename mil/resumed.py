"""What a training goes on from, held against the training itself: kinds, shapes and counts of everything that comes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mil.log import EpochLog

_KINDS = ((int,), (int,), *((float, int),) * 4, (bool,))  # of the fields of an EpochLog
_MOST_PROCESSES = 100_000


def refuse_strange(
    state: Mapping[str, Any], net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, epochs: int
) -> None:
    """Raise ValueError, TypeError or LookupError for a state that a training with these parts cannot have saved.

    `steps` are those of an epoch, `epochs` the most that there are. Names and shapes of the network's weights are left
    to PyTorch, which looks at them.
    """
    epoch, step, sums = state["epoch"], state["step"], state["loss_sums"]
    if not (type(epoch) is int and type(step) is int and 0 <= epoch <= epochs and 0 <= step <= steps):
        raise ValueError(f"it is at step {step!r} of epoch {epoch!r}")
    if not (isinstance(sums, Tensor) and sums.ndim == 1 and 0 < len(sums) <= _MOST_PROCESSES):
        raise ValueError("its sums of losses are none")
    _refuse_log(state["log"], epoch)
    own = net.state_dict()
    _refuse_shapes(state["best"], own)
    _refuse_shapes(state["model"], own)
    _refuse_averages(state["averaging"], own)
    _refuse_optimizer(state["optimizer"], optimizer)


def _refuse_log(log: Any, epoch: int) -> None:
    rows = [EpochLog(*row) for row in log]
    fits = all(type(value) in kinds for row in rows for value, kinds in zip(row, _KINDS, strict=True))
    if not fits or len(rows) != epoch or (rows and not any(row.best for row in rows)):
        raise ValueError(f"its log is not that of {epoch} epochs")


def _refuse_shapes(tensors: Any, own: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.shape != own[name].shape:
            raise ValueError(f"{name} is not that of this network")


def _refuse_averages(averages: Any, own: Mapping[str, Tensor]) -> None:
    for name, value in averages.items():
        kind, _, rest = name.partition("/")
        if kind == "steps":
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError("its averages are of no count of steps")
        else:
            _refuse_shapes({rest.partition("/")[2] if kind == "last" else rest: value}, own)


def _refuse_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> None:
    for group, own in zip(found["param_groups"], optimizer.param_groups, strict=True):
        for name, value in own.items():
            if name == "params":
                continue
            same = type(group[name]) is type(value) or {type(group[name]), type(value)} <= {int, float}
            if not same or (isinstance(value, tuple) and [*map(type, group[name])] != [*map(type, value)]):
                raise ValueError(f"{name} of its optimiser is {str(group[name])[:80]!r}")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for place, values in found["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.numel() != 1 and value.shape != weights[place].shape:
                raise ValueError(f"{name} of its optimiser is not that of this network")
