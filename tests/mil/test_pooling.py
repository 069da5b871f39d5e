"""Every pooling against its formula, and what must not change its result."""

import math

import pytest
import torch
from torch import Tensor

from mil.errors import ModelError
from mil.pooling import POOLINGS, Attention, GatedAttention, Pooling

B, N, C, H, W = 3, 5, 4, 2, 3
LENGTHS = (5, 2, 1)


def build(name: str, instances: int = N) -> Pooling:
    torch.manual_seed(0)
    return POOLINGS[name](C, instances, 6).double()


def make_batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    mask = torch.tensor([[place < length for place in range(N)] for length in LENGTHS])
    return torch.randn(B, N, C, H, W, dtype=torch.float64), mask


def by_hand(pooling: Pooling, name: str, maps: Tensor) -> Tensor:
    """The formula of a pooling for one bag (N, C, H, W)."""
    if name == "avg":
        return sum(maps) / len(maps)
    if name == "max":
        return torch.stack(list(maps)).max(dim=0).values
    if name == "logsumexp":
        return torch.log(sum(torch.exp(each) for each in maps))
    if name == "concat":
        return torch.cat([*maps, torch.zeros((N - len(maps)) * C, H, W, dtype=maps.dtype)])
    assert isinstance(pooling, Attention)
    scores = []
    for each in maps:
        h = each.mean(dim=(1, 2))
        hidden = torch.tanh(pooling.tanh.weight @ h + pooling.tanh.bias)
        if isinstance(pooling, GatedAttention):
            hidden = hidden * torch.sigmoid(pooling.gate.weight @ h + pooling.gate.bias)
        scores.append((pooling.score.weight @ hidden + pooling.score.bias)[0])
    exponentials = [math.e**score for score in scores]
    return sum(a / sum(exponentials) * each for a, each in zip(exponentials, maps, strict=True))


@pytest.mark.parametrize("name", POOLINGS)
class TestEach:
    def test_is_its_formula_on_the_real_instances(self, name: str) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        pooled = pooling(maps, mask).maps_BCHW
        for bag, length in enumerate(LENGTHS):
            torch.testing.assert_close(pooled[bag], by_hand(pooling, name, maps[bag, :length]), rtol=1e-12, atol=1e-12)
        assert pooled.shape == (B, pooling.channels, H, W)

    def test_gradients_are_those_of_the_formula(self, name: str) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        maps.requires_grad_()
        pooling(maps, mask).maps_BCHW.square().sum().backward()
        found = maps.grad
        assert found is not None
        expected = maps.detach().clone().requires_grad_()
        total = sum(by_hand(pooling, name, expected[bag, :length]).square().sum() for bag, length in enumerate(LENGTHS))
        total.backward()
        torch.testing.assert_close(found, expected.grad, rtol=1e-10, atol=1e-10)
        assert (found[~mask] == 0).all()

    @pytest.mark.parametrize("junk", [0.0, 1e30, -1e30])
    def test_padding_changes_nothing(self, name: str, junk: float) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        padded = maps.masked_fill(~mask[:, :, None, None, None], junk)
        for bag, length in enumerate(LENGTHS):
            alone = pooling(maps[bag : bag + 1, :length], torch.ones(1, length, dtype=torch.bool))
            torch.testing.assert_close(pooling(padded, mask).maps_BCHW[bag], alone.maps_BCHW[0], rtol=1e-14, atol=0)

    def test_order_matters_to_concat_alone(self, name: str) -> None:
        pooling, (maps, _) = build(name), make_batch()
        mask = torch.ones(B, N, dtype=torch.bool)
        turned = pooling(maps.flip(1), mask).maps_BCHW
        same = torch.allclose(turned, pooling(maps, mask).maps_BCHW, rtol=1e-12)
        assert same == (name != "concat")

    def test_large_values_stay_finite(self, name: str) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        assert pooling(1e3 * maps, mask).maps_BCHW.isfinite().all()

    def test_equal_instances(self, name: str) -> None:
        pooling, (maps, _) = build(name), make_batch()
        same = maps[:, :1].expand(-1, N, -1, -1, -1)
        pooled = pooling(same, torch.ones(B, N, dtype=torch.bool)).maps_BCHW
        expected = {"logsumexp": maps[:, 0] + math.log(N), "concat": maps[:, 0].repeat(1, N, 1, 1)}
        torch.testing.assert_close(pooled, expected.get(name, maps[:, 0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["avg", "attention", "gated"])
def test_attention_sums_to_one_over_the_real_instances(name: str) -> None:
    maps, mask = make_batch()
    attention = build(name)(maps, mask).attention_BN
    assert attention is not None
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(B, dtype=attention.dtype))
    assert (attention[~mask] == 0).all()


@pytest.mark.parametrize("name", ["max", "logsumexp", "concat"])
def test_no_attention_where_it_has_no_meaning(name: str) -> None:
    assert build(name)(*make_batch()).attention_BN is None


def test_concat_refuses_longer_bags() -> None:
    with pytest.raises(ModelError, match="concat pooling was built for 4 tiles a bag and got 5"):
        build("concat", instances=4)(*make_batch())
