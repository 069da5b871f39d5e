"""Averages of weights, by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mil.averaging import Averaging, standing_in


class Net(nn.Module):
    """One weight, one that is frozen, a batch norm."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.frozen = nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.norm = nn.BatchNorm1d(1)

    def set(self, value: float) -> "Net":
        """Each thing that changes, to a value."""
        with torch.no_grad():
            for name, place in self.state_dict().items():
                if name != "frozen":
                    place.fill_(value)
        return self


def values(weights: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in weights.items()}


def bits(weights: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in weights.items()}


def test_without_an_average_weights_are_the_models_own() -> None:
    average, model = Averaging(), Net()
    average.step(model.set(1))
    average.epoch_ended(model.set(2))
    model.set(3)
    assert bits(average.weights(model)) == bits(model.state_dict())
    assert list(average.state()) == ["steps"]


def test_exponential_average_over_steps() -> None:
    average, model = Averaging(ema=0.2), Net()
    assert values(average.weights(model.set(5)))["weight"] == 5  # nothing yet to average
    average.step(model.set(1))
    average.step(model.set(12))
    second = 12 + 2 / 11 * (1 - 12)  # a decay of 2 / 11, which is less than .2
    assert values(average.weights(model)) == pytest.approx({
        "weight": second, "frozen": 7, "norm.weight": second, "norm.bias": second, "norm.running_mean": second,
        "norm.running_var": second, "norm.num_batches_tracked": 12,
    })  # fmt: skip
    average.step(model.set(0))  # 3 / 12 is more than .2
    assert values(average.weights(model))["weight"] == pytest.approx(0.2 * second)
    assert values(average.weights(model))["norm.num_batches_tracked"] == 0


def test_exponential_average_of_many_steps_forgets_the_first() -> None:
    """With a decay of .999 alone, the first would still have .999^100 = .90 of it."""
    average, model = Averaging(ema=0.999), Net(1.0)
    average.step(model)
    model.set(0)
    for _ in range(100):
        average.step(model)
    assert values(average.weights(model))["weight"] < 1e-6


def test_mean_of_the_last_epochs() -> None:
    average, model = Averaging(last=3), Net()
    found = []
    for value in (1.0, 4.0, 10.0, 1.0):
        average.step(model.set(-1))
        average.epoch_ended(model.set(value))
        found.append(values(average.weights(model)))
    assert [each["weight"] for each in found] == [1, 2.5, 5, 5]
    assert [each["norm.running_var"] for each in found] == [1, 2.5, 5, 5]
    assert [each["norm.num_batches_tracked"] for each in found] == [1, 4, 10, 1]
    assert {each["frozen"] for each in found} == {7}


@pytest.mark.parametrize("make", [lambda: Averaging(ema=0.9), lambda: Averaging(last=3)])
def test_average_of_equal_weights_is_themselves(make: Callable[[], Averaging]) -> None:
    average, model = make(), Net(0.1)
    for _ in range(3):
        average.step(model)
        average.epoch_ended(model)
    assert bits(average.weights(model)) == bits(model.state_dict())


@pytest.mark.parametrize("make", [Averaging, lambda: Averaging(ema=0.9), lambda: Averaging(last=3)])
@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_restored_it_goes_on_as_it_would_have(make: Callable[[], Averaging], epochs: int) -> None:
    model = Net()

    def train(average: Averaging, start: int, end: int) -> None:
        for value in range(start, end):
            average.step(model.set(value**0.5))
            average.epoch_ended(model)

    undisturbed, resumed = make(), make()
    train(undisturbed, 0, epochs)
    saved = {name: value.clone() for name, value in undisturbed.state().items()}
    resumed.restore(saved, model)
    assert all(isinstance(value, Tensor) for value in saved.values())
    assert saved.keys() == resumed.state().keys()
    train(undisturbed, epochs, epochs + 3)
    expected = bits(undisturbed.weights(model))
    train(resumed, epochs, epochs + 3)
    assert bits(resumed.weights(model)) == expected
    assert all(torch.equal(value, resumed.state()[name]) for name, value in undisturbed.state().items())


def test_what_does_not_learn_is_not_held() -> None:
    average = Averaging(last=2)
    average.epoch_ended(Net())
    assert set(average.state()) == {"steps"} | {f"last/0/{name}" for name in Net().state_dict() if name != "frozen"}


def test_epochs_that_are_held_do_not_change_with_the_model() -> None:
    average, model = Averaging(last=2), Net(1.0)
    average.epoch_ended(model)
    model.set(5)
    assert values(average.weights(model))["weight"] == 1


def test_others_stand_in_and_leave_no_trace() -> None:
    model = Net(0.1)
    before, places = bits(model.state_dict()), {name: id(value) for name, value in model.named_parameters()}
    other = {name: torch.full_like(value, 3) for name, value in model.state_dict().items()}
    with standing_in(model, other):
        assert set(values(model.state_dict()).values()) == {3}
        model.norm(torch.randn(4, 1))  # changes its statistics
    assert bits(model.state_dict()) == before
    assert places == {name: id(value) for name, value in model.named_parameters()}
    assert set(values(other).values()) == {3}


def test_own_weights_come_back_after_an_error() -> None:
    model = Net(0.1)
    before = bits(model.state_dict())
    with pytest.raises(KeyError), standing_in(model, Averaging().weights(Net(3.0))):
        raise KeyError
    assert bits(model.state_dict()) == before


def test_models_own_weights_standing_in_are_neither_copied_nor_restored() -> None:
    model = Net(0.1)
    with standing_in(model, Averaging().weights(model)):
        model.set(2)
    assert values(model.state_dict())["weight"] == 2


def test_weights_with_two_names() -> None:
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    model["b"].weight = model["a"].weight
    average = Averaging(last=2)
    for value in (1.0, 2.0):
        nn.init.constant_(model["a"].weight, value)
        average.epoch_ended(model)
    weights = average.weights(model)
    assert weights["a.weight"].item() == weights["b.weight"].item() == 1.5
    with standing_in(model, weights):
        assert model["a"].weight.item() == 1.5
    assert model["b"].weight.item() == 2
