"""A training goes on from what it saved itself, and from nothing that it cannot have saved."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mil.resumed import refuse_strange

STEPS, EPOCHS = 5, 10


def training() -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Any]]:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "epoch": 1, "step": 2, "loss_sums": torch.zeros(1, dtype=torch.float64),
        "log": [(0, 0, 0.5, float("nan"), 0.5, 0.1, True)], "best": dict(net.state_dict()),
        "model": dict(net.state_dict()), "optimizer": optimizer.state_dict(), "schedule": {}, "scaler": {},
        "averaging": {"steps": torch.tensor(3), "ema/weight": torch.ones(2, 3), "last/0/bias": torch.ones(2)},
    }  # fmt: skip
    return net, optimizer, copy.deepcopy(state)


def test_its_own() -> None:
    net, optimizer, state = training()
    refuse_strange(state, net, optimizer, STEPS, EPOCHS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.update(epoch="1"), "it is at step 2 of epoch '1'"),
        (lambda state: state.update(epoch=11), "it is at step 2 of epoch 11"),
        (lambda state: state.update(step=-1), "it is at step -1 of epoch 1"),
        (lambda state: state.update(loss_sums=torch.tensor(0.0)), "its sums of losses are none"),
        (lambda state: state.update(loss_sums=[0.0]), "its sums of losses are none"),
        (lambda state: state.update(log=[]), "its log is not that of 1 epochs"),
        (lambda state: state.update(log=[(0, 0, "a", 0.5, 0.5, 0.1, True)]), "its log is not that of 1 epochs"),
        (lambda state: state.update(log=[(0, 0, 0.5, 0.5, 0.5, 0.1, False)]), "its log is not that of 1 epochs"),
        (lambda state: state["best"].update(weight=torch.ones(3)), "weight is not that of this network"),
        (lambda state: state["best"].update(weight=3), "weight is not that of this network"),
        (lambda state: state["averaging"].update({"ema/bias": torch.ones(3)}), "bias is not that of this network"),
        (lambda state: state["averaging"].update(steps=torch.ones(2)), "its averages are of no count of steps"),
        (lambda state: state["optimizer"]["param_groups"][0].update(lr="0.1"), "lr of its optimiser is '0.1'"),
        (lambda state: state["optimizer"]["param_groups"][0].update(betas=(0.9, "a")), "betas of its optimiser"),
        (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(7)), "exp_avg of its optimiser is not"),
        (lambda state: state["optimizer"]["param_groups"].clear(), "argument 2 is longer"),
    ],
)
def test_others(change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    net, optimizer, state = training()
    change(state)
    with pytest.raises(ValueError, match=sentence):
        refuse_strange(state, net, optimizer, STEPS, EPOCHS)


@pytest.mark.parametrize("name", ["epoch", "log", "best", "model", "optimizer", "averaging", "loss_sums"])
def test_what_is_missing(name: str) -> None:
    net, optimizer, state = training()
    del state[name]
    with pytest.raises(KeyError):
        refuse_strange(state, net, optimizer, STEPS, EPOCHS)
