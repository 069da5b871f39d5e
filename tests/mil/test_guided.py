"""Guided attention against its formula written out, on maps of three kinds of backbone."""

import pytest
import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.errors import ModelError
from mil.guided import GuidedBackbone


def pictures(count: int, px: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(256, (count, 3, px, px), dtype=torch.uint8)


def guided(name: str, px: int, normalise: str = "softmax", hidden: int = 8) -> GuidedBackbone:
    torch.manual_seed(0)
    return GuidedBackbone(Backbone(name, px), normalise, hidden).eval()


def enlarged(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Bilinear, between the centres of cells, one value at a time: (C, rows, columns) of (C, h, w)."""
    result = []
    for row in range(rows):
        for column in range(columns):
            value = 0
            for index, weight_y in cells(row, rows, grid.shape[1]):
                for jndex, weight_x in cells(column, columns, grid.shape[2]):
                    value = value + weight_y * weight_x * grid[:, index, jndex]
            result.append(value)
    return torch.stack(result, dim=1).view(-1, rows, columns)


def cells(position: int, many: int, few: int) -> list[tuple[int, float]]:
    """Which two of few cells a position among many lies between, and how near it is to either."""
    centre = min(max((position + 0.5) * few / many - 0.5, 0), few - 1)
    below = int(centre)
    return [(below, 1 - (centre - below)), (min(below + 1, few - 1), centre - below)]


def by_the_formula(model: GuidedBackbone, images: Tensor, normalise: str) -> tuple[Tensor, list[list[Tensor]]]:
    """Embedding and attention, picture by picture and position by position."""
    *local, last = model.backbone.last_stages(images)
    embeddings, attention = [], []
    for picture in range(len(images)):
        guide = last[picture]
        parts, maps = [guide.flatten(1).mean(1)], []
        for attend, stage in zip(model.attentions, local[::-1], strict=True):
            seen = stage[picture]
            _, rows, columns = seen.shape
            up = enlarged(torch.einsum("kc,chw->khw", attend.guide.weight[:, :, 0, 0], guide), rows, columns)
            score = torch.zeros(rows, columns, dtype=seen.dtype)
            for row in range(rows):
                for column in range(columns):
                    joined = torch.relu(attend.local.weight[:, :, 0, 0] @ seen[:, row, column] + up[:, row, column])
                    score[row, column] = attend.score.weight[0, :, 0, 0] @ joined + attend.score.bias[0]
            if normalise == "softmax":
                weight = score.exp() / score.exp().sum()
                parts.append((seen * weight).sum((1, 2)))
            else:
                weight = 1 / (1 + (-score).exp())
                parts.append((seen * weight).sum((1, 2)) / (rows * columns))
            maps.append(weight)
        embeddings.append(torch.cat(parts))
        attention.append(maps)
    return torch.stack(embeddings), attention


@pytest.mark.parametrize("normalise", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("name", "px", "channels"),
    [
        ("test_resnet", 64, 96 + 192 + 48),
        ("test_vit", 64, 64 + 64 + 64),
        ("alexnet", 96, 256 + 192 + 64),
        pytest.param("swin_tiny_patch4_window7_224", 64, 768 + 384 + 192, marks=pytest.mark.slow),
    ],
)
def test_formula(name: str, px: int, channels: int, normalise: str) -> None:
    model = guided(name, px, normalise).double()
    model.backbone.freeze(None)
    for part in model.attentions:
        nn.init.normal_(part.score.weight)  # an attention that is far from even
    images = pictures(2, px)
    embedding, attention = model.attend(images)
    expected, expected_attention = by_the_formula(model, images, normalise)
    assert embedding.shape == (2, model.channels) == (2, channels)
    torch.testing.assert_close(embedding, expected, rtol=1e-10, atol=1e-12)
    for stage, maps in enumerate(attention):
        for picture, weights in enumerate(maps):
            torch.testing.assert_close(weights, expected_attention[picture][stage], rtol=1e-10, atol=1e-12)
    weights = torch.linspace(-1, 2, channels, dtype=torch.float64)
    ours = torch.autograd.grad((embedding @ weights).sum(), list(model.attentions.parameters()))
    theirs = torch.autograd.grad((expected @ weights).sum(), list(model.attentions.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert all(gradient.any() for gradient in ours[:2])


def test_gradient_reaches_the_backbone_by_all_three_ways() -> None:
    model = guided("test_resnet", 64, "sigmoid").double()
    weight = model.backbone.net.layer2[0].conv1.weight
    images = pictures(2, 64)
    gradient = torch.autograd.grad(model(images).square().sum(), weight)[0]
    expected = torch.autograd.grad(by_the_formula(model, images, "sigmoid")[0].square().sum(), weight)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


def test_vgg16_as_yan_et_al() -> None:
    model = guided("vgg16_bn", 64)
    assert model.channels == 512 + 512 + 256 == 1280
    images = pictures(1, 64)
    features, pooled = model.backbone.net.features, []
    with torch.inference_mode():
        maps = model.backbone.scaled(images)
        for layer in features:
            maps = layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(maps)
        stages = model.backbone.last_stages(images)
        assert [tuple(stage.shape[1:]) for stage in stages] == [(256, 8, 8), (512, 4, 4), (512, 2, 2)]
        assert all(stage.equal(pool) for stage, pool in zip(stages, pooled[2:], strict=True))
        embedding, attention = model.attend(images)
    assert [tuple(part.shape) for part in attention] == [(1, 4, 4), (1, 8, 8)]
    torch.testing.assert_close(embedding[0, :512], pooled[4][0].mean((1, 2)))
    assert model(images).shape == (1, 1280, 1, 1)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout", "test_efficientnet"])
def test_the_last_map_is_the_backbones(name: str) -> None:
    model = guided(name, 64)
    with torch.inference_mode():
        images = pictures(2, 64)
        assert model.backbone.last_stages(images)[-1].equal(model.backbone(images))


def test_one_pass() -> None:
    model = guided("test_resnet", 64)
    calls: list[int] = []
    model.backbone.net.conv1.register_forward_hook(lambda *_: calls.append(1))
    model(pictures(2, 64))
    assert calls == [1]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "pit_ti_224", "efficientvim_m1"])
def test_all_that_learns_gets_a_gradient(name: str) -> None:
    model = guided(name, 64).train()
    model(pictures(2, 64)).sum().backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


def test_attention_is_even_where_all_is_alike() -> None:
    model = guided("alexnet", 96)
    for part in model.attentions:
        nn.init.zeros_(part.score.weight)
    embedding, (near, far) = model.attend(pictures(1, 96))
    assert near.flatten().tolist() == pytest.approx([1 / near.numel()] * near.numel())
    assert far.flatten().tolist() == pytest.approx([1 / far.numel()] * far.numel())
    middle = model.backbone.last_stages(pictures(1, 96))[1]
    torch.testing.assert_close(embedding[:, 256 : 256 + 192], middle.mean((2, 3)))


def test_large_scores_do_not_overflow() -> None:
    for normalise in ("softmax", "sigmoid"):
        model = guided("test_resnet", 64, normalise)
        for part in model.attentions:
            nn.init.constant_(part.score.weight, 1e8)
        assert model(pictures(1, 64)).isfinite().all()


class TestAsABackbone:
    def test_freezing_leaves_the_attention(self) -> None:
        model = guided("test_resnet", 64)
        model.freeze(None)
        model.train()
        assert not model.backbone.net.training
        assert {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad} == {"attentions"}
        model.freeze(2)
        assert any(value.requires_grad for value in model.backbone.parameters())

    def test_batch_norm(self) -> None:
        model = guided("test_resnet", 64)
        model.freeze_batch_norm()
        model.train()
        assert not model.backbone.net.bn1.training

    def test_a_frozen_backbone_stays_frozen(self) -> None:
        backbone = Backbone("test_resnet", 64)
        everything = len([value for value in backbone.parameters() if value.requires_grad])
        backbone.freeze(None)
        GuidedBackbone(backbone)
        assert not any(value.requires_grad for value in backbone.parameters())
        backbone.freeze(0)
        assert len([value for value in backbone.parameters() if value.requires_grad]) == everything

    def test_half_precision(self) -> None:
        model = guided("test_resnet", 64)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert model(pictures(2, 64)).isfinite().all()

    def test_compiles_without_a_break(self) -> None:
        model = guided("test_resnet", 64)
        images = pictures(2, 64)
        with torch.no_grad():
            expected = model(images)
            model.compile(backend="eager", fullgraph=True)
            torch.testing.assert_close(model(images), expected)


class TestRefused:
    def test_unknown_normalisation(self) -> None:
        with pytest.raises(ModelError, match="guided attention is normalised by softmax or sigmoid, not 'max'"):
            GuidedBackbone(Backbone("test_resnet", 32), "max")

    def test_no_intermediate_maps(self) -> None:
        backbone = Backbone("test_resnet", 32)
        backbone.net = nn.Sequential(nn.Conv2d(3, 4, 3))
        backbone._learnable = {"0.weight", "0.bias"}
        with pytest.raises(ModelError, match="the backbone Sequential gives no intermediate maps; choose another"):
            GuidedBackbone(backbone)
