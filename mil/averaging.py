"""Averages of a network's weights that take their place: over all steps, or over the ends of the last epochs."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaging:
    """The weights by which a model is judged and which are kept: an average of what learns, or the model's own.

    With `ema`, an exponential moving average over steps (Polyak and Juditsky 1992): after each step the average goes
    the part 1 - decay of the way to the weights. The decay is min(ema, (1 + n) / (10 + n)) at the n-th step after the
    first, as of TensorFlow's ExponentialMovingAverage; at a decay of .999 alone, the weights that a short training
    starts with would stay most of the average for hundreds of steps. With `last`, the mean of the weights at the ends
    of the last epochs, up to that many (Izmailov et al. 2018, arXiv:1803.05407, whose window here slides, so that a
    training can stop at any of them). Floating buffers, such as the statistics of batch norm, are averaged with the
    weights; others (its count of batches) are the model's. What does not learn is not held.
    """

    def __init__(self, ema: float | None = None, last: int | None = None) -> None:
        assert ema is None or last is None, "one average can take the place of the weights"
        self.ema, self.last = ema, last
        self._steps = 0
        self._mean: dict[str, Tensor] = {}
        self._ends: deque[dict[str, Tensor]] = deque(maxlen=last)

    @torch.no_grad()
    def step(self, model: nn.Module) -> None:
        """Take note of the weights after a step of the optimiser."""
        if self.ema is None:
            return
        own = _learning(model)
        if not self._mean:
            self._mean = {name: value.clone() for name, value in own.items()}
            return
        self._steps += 1
        floating = [name for name, value in own.items() if value.is_floating_point()]
        decay = min(self.ema, (1 + self._steps) / (10 + self._steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([self._mean[name] for name in floating], [own[name] for name in floating], self._steps)
        for name in own.keys() - set(floating):
            self._mean[name].copy_(own[name])

    def epoch_ended(self, model: nn.Module) -> None:
        """Take note of the weights at the end of an epoch; they are kept in the computer's memory, not the GPU's."""
        if self.last is not None:
            self._ends.append({name: value.to("cpu", copy=True) for name, value in _learning(model).items()})

    def candidate(self, model: nn.Module) -> dict[str, Tensor]:
        """What `weights` will give when the epoch has ended; nothing is noted yet."""
        if self.last is None:
            return self.weights(model)
        after = Averaging(last=self.last)
        after._ends.extend(self._ends)
        after.epoch_ended(model)
        return after.weights(model)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """All weights and buffers by name, as in a state dict, averaged where there is an average.

        They change with the next step: clone what is to be kept.
        """
        own = {name: value.detach() for name, value in model.state_dict().items()}
        averaged = self._mean
        if self._ends:
            averaged = {name: _mean([end[name] for end in self._ends]).to(own[name].device) for name in self._ends[0]}
        return own | averaged

    def state(self) -> dict[str, Tensor]:
        """All it knows, for a checkpoint."""
        state = {"steps": torch.tensor(self._steps)}
        state |= {f"ema/{name}": value for name, value in self._mean.items()}
        for place, end in enumerate(self._ends):
            state |= {f"last/{place}/{name}": value for name, value in end.items()}
        return state

    def restore(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Go on from what `state` gave, on the devices of a model that is built and frozen as that one was."""
        learning = _learning(model)
        self._steps = int(state["steps"])
        if any(name.startswith("ema/") for name in state):
            self._mean = {name: state[f"ema/{name}"].to(value.device, copy=True) for name, value in learning.items()}
        self._ends.clear()
        while any(name.startswith(f"last/{len(self._ends)}/") for name in state):
            self._ends.append({name: state[f"last/{len(self._ends)}/{name}"].clone() for name in learning})


@contextmanager
def standing_in(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a model has these weights and buffers; afterwards its own again, bit for bit.

    Those of them that are the model's own tensors are let be.
    """
    places = model.state_dict()
    others = {name: value for name, value in weights.items() if not places[name].is_set_to(value)}
    own = {name: places[name].clone() for name in others}
    _copy(others, places)
    try:
        yield
    finally:
        _copy(own, places)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        places[name].copy_(value)


def _learning(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, and the buffers, of a state dict."""
    frozen = {name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad}
    return {name: value.detach() for name, value in model.state_dict().items() if name not in frozen}


def _mean(values: list[Tensor]) -> Tensor:
    """The mean in the type of the values, of integers the last; computed so that equal ones give themselves."""
    if not values[0].is_floating_point():
        return values[-1]
    return torch.stack(values).double().mean(dim=0).to(values[0].dtype)
