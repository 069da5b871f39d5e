"""The classifier by hand, its options, and metadata beside the bag's vector."""

import pytest
import torch
from torch import nn

from mil.head import ACTIVATIONS, Head, initialise


def kinds(head: Head) -> list[str]:
    return [type(module).__name__ for module in head.classifier]


def test_layers() -> None:
    assert kinds(Head(4, 2)) == ["Dropout", "Linear"]
    assert kinds(Head(4, 2, hidden=3, activation="gelu")) == ["Dropout", "Linear", "GELU", "Dropout", "Linear"]
    head = Head(4, 2, hidden=3, norm=True, dropout=0.3)
    assert kinds(head) == ["Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert [module.p for module in head.modules() if isinstance(module, nn.Dropout)] == [0.3, 0.3]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_by_hand(activation: str) -> None:
    torch.manual_seed(0)
    head = Head(4, 2, hidden=3, activation=activation).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    first, last = (module for module in head.classifier if isinstance(module, nn.Linear))
    act = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": lambda z: z * torch.sigmoid(z), "tanh": torch.tanh}
    expected = act[activation](x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(head(x), expected, rtol=1e-12, atol=1e-12)


def test_metadata_join_the_vector_through_two_layers() -> None:
    torch.manual_seed(0)
    head = Head(4, 2, metadata=3, metadata_hidden=5).double()
    bags, metadata = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    assert head.metadata is not None
    one, two = (module for module in head.metadata if isinstance(module, nn.Linear))
    (last,) = (module for module in head.classifier if isinstance(module, nn.Linear))
    hidden = torch.relu(torch.relu(metadata @ one.weight.T + one.bias) @ two.weight.T + two.bias)
    expected = torch.cat([bags, hidden], dim=1) @ last.weight.T + last.bias
    torch.testing.assert_close(head(bags, metadata), expected, rtol=1e-12, atol=1e-12)


def test_initialisation() -> None:
    torch.manual_seed(0)
    head = Head(400, 3, hidden=200, metadata=2)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    initialise(head, "default")
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    initialise(head, "zero")
    changed = [name for name, value in head.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["classifier.4.weight", "classifier.4.bias"]
    assert head(torch.randn(1, 400), torch.randn(1, 2)).tolist() == [[0, 0, 0]]
    for how, deviation in (("xavier", (2 / (432 + 200)) ** 0.5), ("kaiming", (2 / 432) ** 0.5)):
        initialise(head, how)
        weight = head.state_dict()["classifier.1.weight"]
        assert weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert head.state_dict()["classifier.1.bias"].abs().max() == 0
