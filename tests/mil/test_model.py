"""MILNet on real backbones: padding, batch norm, chunks, exact numbers of a tiny one, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mil.errors import ModelError, SettingsError
from mil.metadata import MetadataCoder
from mil.model import MILNet, build_model, unstack
from mil.network import Embedding, Features, MILOutput
from mil.pooling import POOLINGS
from mil.recipe import Recipe
from mil.settings import ModelSpec
from mil.task import Task

TILES, FEATURES = {"instances": 4}, {"features": 6}
TASK = Task(("a", "b", "c"))


def spec(**settings: Any) -> ModelSpec:
    return ModelSpec(**{"backbone": "test_resnet", "train_px": 32, **settings})


def batch(*lengths: int, px: int = 32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(256, (sum(lengths), 3, px, px), dtype=torch.uint8), mask


@pytest.mark.parametrize("positions", ["avg", "max", "both"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_short_bag_scores_as_if_alone(pooling: str, positions: str) -> None:
    torch.manual_seed(0)
    model = build_model(spec(pooling=pooling, positions=positions, train_px=64), TASK, TILES).double().eval()
    tiles, mask = batch(4, 1, 3, px=64)
    with torch.inference_mode():
        together = model(tiles, mask).logits_BK
        assert together.shape == (3, 3)
        for row, (part, length) in enumerate(zip(tiles.split((4, 1, 3)), (4, 1, 3), strict=True)):
            alone = model(part, torch.ones(1, length, dtype=torch.bool)).logits_BK
            torch.testing.assert_close(together[row], alone[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", ["avg", "max"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_positions_first_is_positions_last(pooling: str, positions: str) -> None:
    """Where pooling over positions is done first, the result is that of the plain order."""
    torch.manual_seed(0)
    model = build_model(spec(pooling=pooling, positions=positions, train_px=64), TASK, TILES).double().eval()
    tiles, mask = batch(4, 1, px=64)
    with torch.inference_mode():
        found = model(tiles, mask)
        maps = unstack(model.encoder.backbone(tiles), mask)
        assert maps.shape[3:] == (2, 2)
        pooled = model.pooling(maps, mask)
        flat = pooled.maps_BCHW.mean((2, 3)) if positions == "avg" else pooled.maps_BCHW.amax((2, 3))
        torch.testing.assert_close(found.logits_BK, model.head(flat), rtol=1e-12, atol=1e-12)
    if found.attention_BN is not None and positions == "avg":
        torch.testing.assert_close(found.attention_BN, pooled.attention_BN)


def test_padding_is_not_computed() -> None:
    model = build_model(spec(), TASK, TILES)
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model(*batch(4, 2))
    assert seen == [6]


def test_logits_by_hand() -> None:
    """With a network's parts replaced by ones whose result is known."""
    model = build_model(spec(pooling="avg"), Task(("a", "b")), TILES)
    model.encoder.backbone = _Colours()
    model.head = nn.Linear(3, 2)  # type: ignore[assignment]
    model.head.forward = lambda x, _: nn.functional.linear(x, model.head.weight, model.head.bias)  # type: ignore
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 2]]))
        model.head.bias.copy_(torch.tensor([0.0, 10]))
    tiles = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    tiles[0, 0], tiles[1, 2] = 100, 40
    logits = model(tiles, torch.ones(1, 2, dtype=torch.bool)).logits_BK
    assert logits.tolist() == [[50, 50]]  # red 50, blue 2 * 20 + 10


class _Colours(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float()


def test_unstack() -> None:
    maps = torch.arange(1.0, 5).view(4, 1, 1, 1)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    assert unstack(maps, mask)[:, :, 0, 0, 0].tolist() == [[1, 0, 2], [3, 4, 0]]
    assert unstack(maps, torch.ones(2, 2, dtype=torch.bool))[:, :, 0, 0, 0].tolist() == [[1, 2], [3, 4]]


class TestChunks:
    """Gradients of every parameter with `instance_chunk` and without, in float64."""

    def gradients(self, model: MILNet, chunk: int | None) -> tuple[MILOutput, dict[str, Tensor]]:
        model.instance_chunk = chunk
        model.zero_grad()
        output = model(*batch(4, 1, 3))
        nn.functional.cross_entropy(output.logits_BK, torch.tensor([2, 0, 1])).backward()
        return output, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
    def test_gradients_are_exact(self, backbone: str, pooling: str) -> None:
        torch.manual_seed(0)
        model = build_model(spec(backbone=backbone, pooling=pooling), TASK, TILES).double()
        if backbone == "test_resnet":
            model.encoder.backbone.freeze_batch_norm()  # type: ignore[operator]
        whole, expected = self.gradients(model, None)
        parts, found = self.gradients(model, 3)
        assert expected.keys() == found.keys() == dict(model.named_parameters()).keys()
        torch.testing.assert_close(parts.logits_BK, whole.logits_BK, rtol=1e-12, atol=1e-12)
        for name, gradient in found.items():
            # The bias of the attention's last layer has no effect: its gradient is rounding.
            difference = (gradient - expected[name]).norm()
            assert difference <= max(1e-10 * expected[name].norm(), 1e-16), name

    def test_batch_norm_in_training_differs_as_said(self) -> None:
        model = build_model(spec(), TASK, TILES).double()
        whole, _ = self.gradients(model, None)
        parts, _ = self.gradients(model, 3)
        assert (whole.logits_BK - parts.logits_BK).abs().max() > 1e-4


class TestFeatures:
    def test_pooled_like_tiles(self) -> None:
        torch.manual_seed(0)
        model = build_model(ModelSpec(embed=(5, 4), pooling="attention", attention_hidden=3), TASK, FEATURES)
        model = model.double().eval()
        features, mask = torch.randn(7, 6), torch.arange(4) < torch.tensor([4, 3])[:, None]
        output = model(features, mask)
        first, second = (layer for layer in model.encoder.embedding if isinstance(layer, nn.Linear))
        h = torch.relu(features.double() @ first.weight.T + first.bias)
        h = torch.relu(h @ second.weight.T + second.bias)
        (last,) = (layer for layer in model.head.classifier if isinstance(layer, nn.Linear))
        for row, bag in enumerate(h.split((4, 3))):
            pooling = model.pooling
            scores = torch.tanh(bag @ pooling.tanh.weight.T + pooling.tanh.bias) @ pooling.score.weight[0]  # type: ignore
            attention = (scores - scores.max()).exp() / (scores - scores.max()).exp().sum()
            logits = last(attention @ bag)
            torch.testing.assert_close(output.logits_BK[row], logits, rtol=1e-12, atol=1e-12)
            assert output.attention_BN is not None
            torch.testing.assert_close(output.attention_BN[row, : len(bag)], attention, rtol=1e-12, atol=1e-12)

    def test_scaled_as_the_training_slides_were(self) -> None:
        features = Features(2)
        features.mean.copy_(torch.tensor([1.0, 2]))
        features.deviation.copy_(torch.tensor([0.5, 2]))
        assert features(torch.tensor([[2.0, 6]])).flatten().tolist() == [2, 2]
        assert set(features.state_dict()) == {"mean", "deviation"}

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"backbone": "resnet18"}, "--backbone is for bags of tiles, and these hold features; leave it out"),
            ({"channels": "g"}, "--channels is for bags of tiles"),
            ({"guided": "softmax"}, "--guided is for bags of tiles"),
            ({"weights": "x"}, "--weights is for bags of tiles"),
            ({"train_px": 7}, "--train-px is for bags of tiles"),
            ({"positions": "max"}, "--positions is for bags of tiles"),
            ({"pooling": "concat"}, "concat pooling needs bags of a size known beforehand"),
        ],
    )
    def test_refused(self, wrong: dict[str, str], sentence: str) -> None:
        with pytest.raises(ModelError, match=sentence):
            build_model(ModelSpec(**wrong), TASK, FEATURES)  # type: ignore[arg-type]


def test_embedding_of_maps_is_the_same_at_every_position() -> None:
    torch.manual_seed(0)
    embedding = Embedding(3, (5, 2)).eval()
    maps = torch.randn(4, 3, 2, 2)
    assert embedding(maps).shape == (4, 2, 2, 2)
    torch.testing.assert_close(embedding(maps)[:, :, 1, 0], embedding(maps[:, :, 1:, :1])[:, :, 0, 0])
    assert Embedding(3, ()).channels == 3


def test_standardize_is_for_features() -> None:
    with pytest.raises(ModelError, match="--standardize is for bags of features"):
        build_model(spec(standardize=True), TASK, TILES)


@pytest.mark.parametrize(
    ("task", "logits"), [(TASK, 3), (Task(("a", "b"), "any of"), 2), (Task(("a", "n"), "one vs normal", "n"), 1)]
)
def test_a_logit_for_each_thing_to_tell(task: Task, logits: int) -> None:
    model = build_model(spec(), task, TILES, MetadataCoder({"site": ("colon",)}, {}))
    assert model(*batch(2, 1), torch.zeros(2, 2)).logits_BK.shape == (2, logits)


@pytest.mark.parametrize("pooling", ["attention", "logsumexp"])  # positions first, and last
def test_half_precision_is_for_backbone_and_embedding_alone(pooling: str) -> None:
    coder = MetadataCoder({}, {"age": (50.0, 10.0)})
    model = build_model(spec(pooling=pooling, embed=(8,)), TASK, TILES, coder)
    model.half_precision = torch.bfloat16
    seen: dict[str, torch.dtype] = {}
    for name in ("encoder.backbone", "encoder.embedding", "encoder.positions", "pooling"):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, result, name=name: seen.update({name: getattr(result, "maps_BCHW", result).dtype})
        )
    output = model(*batch(2, 1), torch.tensor([[0.1, 0], [0, 1]]))
    half, single = torch.bfloat16, torch.float32
    assert list(seen.values()) == [half, half, single, single]
    assert output.logits_BK.dtype == single


def test_half_precision_takes_features_as_they_are() -> None:
    model = build_model(ModelSpec(embed=(8,)), TASK, FEATURES)
    model.half_precision = torch.bfloat16
    seen: list[Tensor] = []
    model.encoder.backbone.register_forward_hook(lambda _, __, result: seen.append(result))
    features = torch.full((3, 6), 10.01)
    model(features, torch.ones(1, 3, dtype=torch.bool))
    assert torch.equal(seen[0].flatten(1), features)


def test_frozen_backbone_is_computed_once() -> None:
    """Chunks are computed again in the backward pass for what learns, not for what is frozen."""
    model = build_model(spec(embed=(8,)), TASK, TILES)
    model.encoder.backbone.freeze(None)  # type: ignore[operator]
    model.instance_chunk = 2
    seen: list[int] = []
    model.encoder.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model(*batch(3, 1)).logits_BK.sum().backward()
    assert seen == [2, 2]
    weight = model.encoder.embedding[0].weight
    assert isinstance(weight, nn.Parameter)
    assert weight.grad is not None


def test_unknown_metadata_say_nothing_until_learned() -> None:
    coder = MetadataCoder({"site": ("colon",)}, {"age": (50.0, 10.0)})
    model = build_model(spec(), TASK, TILES, coder).eval()
    bags = torch.randn(2, model.pooling.channels)
    known_nothing, unknown = torch.zeros(2, coder.width), torch.tensor([[0.0, 1, 0, 1]]).expand(2, -1)
    assert torch.equal(model.head(bags, known_nothing), model.head(bags, unknown))
    assert not torch.equal(model.head(bags, known_nothing), model.head(bags, known_nothing + 1))


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"pooling": "sum"}, "--pooling is one of avg, max, logsumexp, concat, attention, gated, not 'sum'"),
            ({"train_px": 0}, "--train-px must be from 1 to 4096, not 0"),
            ({"dropout": 1.0}, "--dropout must be from 0 to 0.99, not 1.0"),
            ({"guided": "linear"}, "--guided is one of softmax, sigmoid, not 'linear'"),
            ({"temperature": 0.0}, "--temperature must be from 1e-06"),
            ({"embed": (8, 0)}, "--embed takes widths of at least 1, not 0"),
            ({"pretrained": True, "weights": "x"}, "give --pretrained or --weights, not both"),
            ({"head_norm": True}, "--head-norm says something only beside --head-hidden; give both or none"),
            ({"head_activation": "gelu"}, "--head-activation says something only beside --head-hidden"),
            ({"embed_dropout": 0.5}, "--embed-dropout says something only beside --embed"),
            ({"temperature": 2.0}, "--temperature says something only beside --pooling logsumexp"),
        ],
    )
    def test_model(self, wrong: dict[str, object], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            ModelSpec(**wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"folds": 1}, "--folds must be at least 2, not 1"),
            ({"valid_share": 0.9}, "--valid-share must be from 0 to 0.5, not 0.9"),
            ({"valid_share": 0.001}, "--valid-share must be 0, or from 0.01 to 0.5, not 0.001"),
            ({"seed": -1}, "--seed must be from 0 to 4294967295, not -1"),
            ({"epochs": None}, "--epochs needs a value, not null"),
            ({"freeze": 0}, "--freeze is all, or a number of stages from 1, not 0; leave it out for none"),
            ({"seed": 2**32}, "--seed must be from 0 to 4294967295, not 4294967296"),
            ({"freeze": "half"}, "--freeze is one of all, not 'half'"),
            ({"instance_chunk": 0}, "--instance-chunk must be at least 1, not 0"),
            ({"layer_decay": 1.5}, "--layer-decay must be from 0.01 to 1, not 1.5"),
        ],
    )
    def test_training(self, wrong: dict[str, object], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            Recipe.of(**wrong)
