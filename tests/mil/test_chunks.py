"""Chunks give the results and gradients of the whole; batch norm in training mode is the exception, as said."""

import pytest
import torch
from torch import Tensor, nn

from mil.chunks import in_chunks


class Counted(nn.Module):
    """A network that notes how many instances came at a time."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.GELU(), nn.Conv2d(8, 4, 3))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.layers(x)


def gradients(network: nn.Module, chunk: int | None) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(11, 3, 9, 9, dtype=torch.float64)
    network.zero_grad()
    result = in_chunks(network, x, chunk)
    (result.mean(dim=0).logsumexp(dim=(1, 2))).square().sum().backward()
    return [result.detach(), *(weight.grad for weight in network.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("chunk", [1, 2, 4, 10])
@pytest.mark.parametrize("norm", ["group", "frozen batch"])
def test_gradients_are_exact(chunk: int, norm: str) -> None:
    network = Counted(nn.GroupNorm(2, 8) if norm == "group" else nn.BatchNorm2d(8).eval()).double()
    for one, other in zip(gradients(network, chunk), gradients(network, None), strict=True):
        assert (one - other).norm() <= 1e-12 * other.norm()
    parts = {1: [1] * 11, 2: [2] * 5 + [1], 4: [4, 4, 3], 10: [6, 5]}[chunk]  # as equal as can be
    assert network.seen == [*parts, *reversed(parts), 11]


def test_one_chunk_is_not_computed_twice() -> None:
    network = Counted(nn.Identity()).double()
    gradients(network, 11)
    assert network.seen == [11]


def test_nothing_is_kept_or_computed_twice_where_nothing_learns() -> None:
    network = Counted(nn.Identity())
    with torch.no_grad():
        in_chunks(network, torch.randn(5, 3, 9, 9), 2)
    network.requires_grad_(False)
    assert not in_chunks(network, torch.randn(5, 3, 9, 9), 2).requires_grad
    assert network.seen == [2, 2, 1] * 2


def test_batch_norm_in_training_takes_the_statistics_of_a_chunk_once() -> None:
    network = Counted(nn.BatchNorm2d(8, momentum=0.5)).double()
    norm = network.layers[1]
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    hidden = network.layers[0](x).detach()
    expected = torch.zeros(8, dtype=torch.float64)
    for part in hidden.split(2):
        expected = 0.5 * expected + 0.5 * part.mean(dim=(0, 2, 3))
    result = in_chunks(network, x, 2)
    torch.testing.assert_close(norm.running_mean, expected)
    before = norm.running_var.clone()
    result.square().sum().backward()
    torch.testing.assert_close(norm.running_mean, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(norm.running_var, before, rtol=0, atol=0)
    assert norm.num_batches_tracked == 2
    by_hand = torch.cat([network(part) for part in x.split(2)])
    torch.testing.assert_close(result, by_hand)


def test_dropout_draws_the_same_when_recomputed() -> None:
    """The gradient by the input of a dropout is its own mask, so a mask drawn anew would show."""
    torch.manual_seed(0)
    weight = nn.Conv2d(1, 1, 1, bias=False).double()
    nn.init.ones_(weight.weight)
    network = nn.Sequential(weight, nn.Dropout(0.5))
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    result = in_chunks(network, x, 2)
    result.sum().backward()
    assert weight.weight.grad is not None
    assert weight.weight.grad.item() == pytest.approx(result.sum().item(), rel=1e-12)  # weight 1: sum of kept x
