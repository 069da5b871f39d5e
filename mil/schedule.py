"""Learning rates over a training: warm-up, then a curve of timm's, for every update."""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler, TanhLRScheduler
from timm.scheduler.scheduler import Scheduler

from mil.errors import SettingsError
from mil.recipe import OptimSpec


class Schedule:
    """The learning rates of an optimiser's groups, each in proportion to its own at the start (`initial_lr`).

    `warmup_epochs`, rounded up to whole updates but for the last of all, go in a line from `lr_warmup` to `lr`; the
    curve begins behind them (timm's `warmup_prefix`) and, where it has an end, reaches `lr_end` behind the last update.
    With `updates_per_epoch` as many as the optimiser makes. `step` multiplies with `decay_rate` after each
    `decay_epochs`. `plateau` does so after as many epochs without a better figure, not below `lr_end`, and heeds none
    that ended before the warm-up did; it alone has a state, the numbers of `state_dict`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, spec: OptimSpec, updates_per_epoch: int, epochs: int) -> None:
        if spec.warmup_epochs >= epochs:
            raise SettingsError(
                f"--warmup-epochs {spec.warmup_epochs} leaves none of --epochs {epochs} for what comes after it"
            )
        updates = epochs * updates_per_epoch
        warmup = math.ceil(spec.warmup_epochs * updates_per_epoch * (1 - 1e-9))  # 0.1 of 30 is 3, not quite in floats
        warmup = min(warmup, updates - 1)
        self.optimizer, self.spec, self.warmup = optimizer, spec, warmup
        self.lr = spec.lr
        # timm gives all groups one learning rate at the end; so it is given one group, and the others follow.
        self._first = torch.optim.SGD([torch.zeros(1)], lr=spec.lr)
        self._curve = _CURVES[spec.schedule](
            self._first, spec, updates_per_epoch, updates - warmup,
            {"warmup_t": warmup, "warmup_lr_init": spec.lr_warmup, "warmup_prefix": True, "t_in_epochs": False},
        )  # fmt: skip
        self._best: float | None = None
        self._waited, self._drops = 0, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.at(0)

    def at(self, update: int) -> None:
        """Set the learning rates for an update, counted from 0 over all epochs; `lr` is then that of `--lr`."""
        self._update = update
        self._curve.step_update(update)
        lr = self._first.param_groups[0]["lr"]
        if self._drops:
            lr = max(lr * self.spec.decay_rate**self._drops, min(lr, self.spec.lr_end))
        self.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr * (group["initial_lr"] / self.spec.lr)

    def epoch_ended(self, figure: float) -> None:
        """Take note of an epoch's validation figure, the smaller the better; nothing but `plateau` asks for it.

        The update that `at` was last told is the last of the epoch, or the first behind it.
        """
        if self.spec.schedule != "plateau" or self._update < self.warmup:
            return
        if self._best is None or figure < self._best:
            self._best, self._waited = float(figure), 0
        else:
            self._waited += 1
        if self._waited == self.spec.decay_epochs:
            self._waited, self._drops = 0, self._drops + 1

    def state_dict(self) -> dict[str, float | None]:
        """What `at` needs to know beside the update, as plain numbers."""
        return {"best": self._best, "waited": self._waited, "drops": self._drops}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from what `state_dict` gave; `at` is still to be called."""
        self._best, self._waited, self._drops = state["best"], int(state["waited"] or 0), int(state["drops"] or 0)


# timm's own PlateauLRScheduler goes by epochs, and cannot be resumed: timm means to drop it for that.
_Curve = Callable[[torch.optim.Optimizer, OptimSpec, int, int, dict[str, Any]], Scheduler]
# `cycle_decay` is of further cycles, and there are none; without it timm says of one update that it has no effect.
_CURVES: dict[str, _Curve] = {
    "cosine": lambda first, spec, _, updates, warmup: CosineLRScheduler(
        first, updates, spec.lr_end, cycle_decay=0.5, **warmup
    ),
    "tanh": lambda first, spec, _, updates, warmup: TanhLRScheduler(first, updates, lr_min=spec.lr_end, **warmup),
    "poly": lambda first, spec, _, updates, warmup: PolyLRScheduler(
        first, updates, spec.poly_power, spec.lr_end, cycle_decay=0.5, **warmup
    ),
    "step": lambda first, spec, each, _, warmup: StepLRScheduler(
        first, spec.decay_epochs * each, spec.decay_rate, **warmup
    ),
    "plateau": lambda first, spec, each, _, warmup: StepLRScheduler(first, 1, 1.0, **warmup),
    "constant": lambda first, spec, each, _, warmup: StepLRScheduler(first, 1, 1.0, **warmup),
}
