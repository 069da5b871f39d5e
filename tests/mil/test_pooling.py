"""Every pooling against its formula, and what must not change its result. All in float64."""

import math

import pytest
import torch
from torch import Tensor

from mil.errors import ModelError
from mil.pooling import POOLINGS, Attention, GatedAttention, LogSumExp, Pooling, PoolingOptions, Positions

B, N, C, H, W = 3, 5, 4, 2, 3
LENGTHS = (5, 2, 1)


def build(name: str, instances: int | None = N, temperature: float = 1.0) -> Pooling:
    torch.manual_seed(0)
    return POOLINGS[name](C, PoolingOptions(instances, 6, temperature)).double()


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
        assert isinstance(pooling, LogSumExp)
        t = pooling.temperature
        return t * torch.log(sum(torch.exp(each / t) for each in maps))
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
    exponentials = [torch.exp(score) for score in scores]
    return sum(a / sum(exponentials) * each for a, each in zip(exponentials, maps, strict=True))


def gradients(pooling: Pooling, maps: Tensor, result: Tensor) -> list[Tensor]:
    """Of a sum of squares by the maps and by all weights that have to do with it."""
    inputs = [maps, *pooling.parameters()]
    found = torch.autograd.grad(result.square().sum(), inputs, allow_unused=True)
    return [torch.zeros_like(each) if grad is None else grad for each, grad in zip(inputs, found, strict=True)]


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
        found = gradients(pooling, maps, pooling(maps, mask).maps_BCHW)
        formula = [by_hand(pooling, name, maps[bag, :length]).flatten() for bag, length in enumerate(LENGTHS)]
        expected = gradients(pooling, maps, torch.cat(formula))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert (found[0][~mask] == 0).all()

    @pytest.mark.parametrize("junk", [0.0, 1e30, -1e30, torch.inf, torch.nan])
    def test_padding_changes_nothing(self, name: str, junk: float) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        padded = maps.masked_fill(~mask[:, :, None, None, None], junk).requires_grad_()
        pooled = pooling(padded, mask).maps_BCHW
        for bag, length in enumerate(LENGTHS):
            alone = pooling(maps[bag : bag + 1, :length], torch.ones(1, length, dtype=torch.bool)).maps_BCHW[0]
            # A sum of five of which three are zero may be grouped otherwise than that of two.
            torch.testing.assert_close(pooled[bag], alone, rtol=4e-16, atol=1e-15)
        (grad,) = torch.autograd.grad(pooled.square().sum(), padded)
        assert grad.isfinite().all()
        assert (grad[~mask] == 0).all()

    def test_padding_may_be_anywhere(self, name: str) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        turned = pooling(maps.flip(1), mask.flip(1)).maps_BCHW
        if name != "concat":  # whose channels say where an instance stood
            torch.testing.assert_close(turned, pooling(maps, mask).maps_BCHW, rtol=1e-12, atol=1e-14)

    def test_order_matters_to_concat_alone(self, name: str) -> None:
        pooling, (maps, _) = build(name), make_batch()
        mask = torch.ones(B, N, dtype=torch.bool)
        turned = pooling(maps.flip(1), mask).maps_BCHW
        same = torch.allclose(turned, pooling(maps, mask).maps_BCHW, rtol=1e-12)
        assert same == (name != "concat")

    @pytest.mark.parametrize("size", [1e3, 1e30, 1e300])
    def test_large_values_stay_finite_and_right(self, name: str, size: float) -> None:
        pooling, (maps, mask) = build(name), make_batch()
        large = (size * maps).requires_grad_()
        pooled = pooling(large, mask).maps_BCHW
        (grad,) = torch.autograd.grad(pooled.sum(), large)
        assert grad.isfinite().all()
        if name == "logsumexp":
            largest = build("max")(large, mask).maps_BCHW
            assert ((largest <= pooled) & (pooled <= largest + math.log(N))).all()
        elif name in ("avg", "max", "concat"):
            torch.testing.assert_close(pooled / size, pooling(maps, mask).maps_BCHW, rtol=1e-12, atol=1e-12)
        else:
            assert pooled.isfinite().all()

    def test_one_instance_is_itself(self, name: str) -> None:
        pooling, (maps, _) = build(name, instances=1), make_batch()
        pooled = pooling(maps[:, :1], torch.ones(B, 1, dtype=torch.bool)).maps_BCHW
        torch.testing.assert_close(pooled, maps[:, 0], rtol=1e-15, atol=0)

    def test_equal_instances(self, name: str) -> None:
        pooling, (maps, _) = build(name), make_batch()
        same = maps[:, :1].expand(-1, N, -1, -1, -1)
        pooled = pooling(same, torch.ones(B, N, dtype=torch.bool)).maps_BCHW
        expected = {"logsumexp": maps[:, 0] + math.log(N), "concat": maps[:, 0].repeat(1, N, 1, 1)}
        torch.testing.assert_close(pooled, expected.get(name, maps[:, 0]), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("positions", ["avg", "max", "both"])
    def test_commutes_with_the_positions_it_names(self, name: str, positions: str) -> None:
        pooling, over_positions, (maps, mask) = build(name), Positions(positions), make_batch()
        before = pooling(over_positions(maps), mask).maps_BCHW if positions != "both" else torch.zeros(0)
        after = over_positions(pooling(maps, mask).maps_BCHW)
        same = before.shape == after.shape and torch.allclose(before, after, rtol=1e-12, atol=1e-12)
        assert same == (positions in pooling.commutes)


class TestPositions:
    MAPS = torch.tensor([[[[1.0, 2], [3, 6]], [[0, 0], [0, -4]]]], dtype=torch.float64)

    @pytest.mark.parametrize(("kind", "expected"), [("avg", [3, -1]), ("max", [6, 0]), ("both", [3, -1, 6, 0])])
    def test_by_hand(self, kind: str, expected: list[float]) -> None:
        positions = Positions(kind)
        assert positions(self.MAPS).shape == (1, 2 * positions.factor, 1, 1)
        assert positions(self.MAPS).flatten().tolist() == expected
        assert positions(self.MAPS[None])[0].flatten().tolist() == expected  # maps of instances of bags

    def test_gradients(self) -> None:
        maps = self.MAPS.clone().requires_grad_()
        Positions("both")(maps).sum().backward()
        assert maps.grad is not None
        assert maps.grad[0, 0].tolist() == [[0.25, 0.25], [0.25, 1.25]]
        assert maps.grad[0, 1, 1, 1] == 0.25


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
    def test_is_its_formula(self, temperature: float) -> None:
        pooling, (maps, mask) = build("logsumexp", temperature=temperature), make_batch()
        pooled = pooling(maps, mask).maps_BCHW
        for bag, length in enumerate(LENGTHS):
            expected = by_hand(pooling, "logsumexp", maps[bag, :length])
            torch.testing.assert_close(pooled[bag], expected, rtol=1e-12, atol=1e-12)

    def test_towards_zero_it_is_the_maximum(self) -> None:
        maps, mask = make_batch()
        cold = build("logsumexp", temperature=1e-6)(maps, mask).maps_BCHW
        torch.testing.assert_close(cold, build("max")(maps, mask).maps_BCHW, rtol=0, atol=N * 1e-6)

    def test_at_its_default_it_is_the_plain_one(self) -> None:
        maps, _ = make_batch()
        mask = torch.ones(B, N, dtype=torch.bool)
        assert torch.equal(build("logsumexp")(maps, mask).maps_BCHW, maps.logsumexp(dim=1))


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


def test_concat_refuses_longer_bags_and_bags_of_any_size() -> None:
    with pytest.raises(ModelError, match="concat pooling was built for 4 tiles a bag and got 5"):
        build("concat", instances=4)(*make_batch())
    with pytest.raises(ModelError, match="concat pooling needs bags of a size known beforehand; choose another"):
        build("concat", instances=None)
