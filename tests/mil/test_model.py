"""MILNet on real backbones: shapes, padding, batch norm, exact numbers of a tiny one."""

import pytest
import torch

from mil.errors import SettingsError
from mil.model import MILNet, build_model, probabilities
from mil.settings import ModelSpec, TrainSpec


def batch(lengths: tuple[int, ...], px: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    tiles = torch.randint(256, (len(lengths), max(lengths), 3, px, px), dtype=torch.uint8)
    return tiles, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("pooling", ["avg", "max", "logsumexp", "concat", "attention", "gated"])
def test_a_short_bag_scores_as_if_alone(pooling: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(backbone="test_resnet", train_px=32, pooling=pooling), 3, 4).eval()  # type: ignore[arg-type]
    tiles, mask = batch((4, 1, 3))
    with torch.inference_mode():
        together = model(tiles, mask).logits_BK
        assert together.shape == (3, 3)
        for row, length in enumerate((4, 1, 3)):
            alone = model(tiles[row : row + 1, :length], mask[row : row + 1, :length]).logits_BK
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_padding_does_not_reach_batch_norm() -> None:
    tiles, mask = batch((4, 2))
    statistics = []
    for junk in (0, 255):
        torch.manual_seed(0)
        model = build_model(ModelSpec(backbone="test_resnet", train_px=32), 2, 4).train()
        model(tiles.masked_fill(~mask[:, :, None, None, None], junk), mask)
        statistics.append({name: value for name, value in model.state_dict().items() if "running" in name})
    assert statistics[0]
    for name, value in statistics[0].items():
        torch.testing.assert_close(value, statistics[1][name], rtol=0, atol=0)


def test_logits_by_hand() -> None:
    """With the network's parts replaced by ones whose result is known."""
    model = build_model(ModelSpec(backbone="test_resnet", train_px=32, pooling="avg"), 2, 2)
    model.backbone = _MeanColour()
    model.head = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 2]]))
        model.head.bias.copy_(torch.tensor([0.0, 10]))
    tiles = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    tiles[0, 0, 0], tiles[0, 1, 2] = 100, 40
    logits = model(tiles, torch.ones(1, 2, dtype=torch.bool)).logits_BK
    assert logits.tolist() == [[50, 50]]  # red 50, blue 2 * 20 + 10


class _MeanColour(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()


def test_probabilities_are_not_clamped() -> None:
    chances = probabilities(torch.tensor([[0.0, 50.0]]))
    assert chances.dtype == torch.float64
    assert 0 < chances[0, 0].item() < 1e-21
    assert chances.sum().item() == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"pooling": "sum"}, "--pooling is one of avg, max, logsumexp, concat, attention, gated, not 'sum'"),
            ({"train_px": 0}, "--train-px must be at least 1, not 0"),
            ({"dropout": 1.0}, "--dropout must be from 0 to 0.99, not 1.0"),
        ],
    )
    def test_settings(self, wrong: dict[str, object], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            ModelSpec(**wrong)  # type: ignore[arg-type]

    def test_train_settings(self) -> None:
        with pytest.raises(SettingsError, match="--folds must be at least 2, not 1"):
            TrainSpec(folds=1)
        with pytest.raises(SettingsError, match="--valid-share must be from 0.01 to 0.5, not 0.9"):
            TrainSpec(valid_share=0.9)
        with pytest.raises(SettingsError, match="--seed must be at least 0, not -1"):
            TrainSpec(seed=-1)
        with pytest.raises(SettingsError, match="--epochs needs a value, not null"):
            TrainSpec(epochs=None)  # type: ignore[arg-type]


def test_milnet_is_a_module_of_its_parts() -> None:
    model = build_model(ModelSpec(backbone="test_resnet", train_px=32), 2, 4)
    assert isinstance(model, MILNet)
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "pooling", "head"}
