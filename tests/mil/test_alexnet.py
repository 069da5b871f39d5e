"""AlexNet against torchvision's, and as timm sees it."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import alexnet

import mil.backbone  # noqa: F401  # registers it
from mil.alexnet import AlexNet


def test_convolutions_are_those_of_the_single_column() -> None:
    torch.manual_seed(0)
    theirs, ours = alexnet(weights=None).eval(), AlexNet(0).eval()
    convolutions = [layer for layer in theirs.features if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for block, convolution in zip(ours.blocks, convolutions, strict=True):
            block.conv.weight.copy_(convolution.weight)
            convolution.bias.zero_()
            block.norm.eps = 0.0  # a batch norm of mean 0 and deviation 1 changes nothing
        images = torch.rand(2, 3, 224, 224)
        maps = ours.forward_features(images)
        assert maps.shape == (2, 256, 6, 6)
        torch.testing.assert_close(maps, theirs.features(images))


def test_parameters() -> None:
    convolutions = 64 * 3 * 121 + 192 * 64 * 25 + 384 * 192 * 9 + 256 * 384 * 9 + 256 * 256 * 9
    norms = 2 * (64 + 192 + 384 + 256 + 256)
    assert sum(value.numel() for value in AlexNet(0).parameters()) == convolutions + norms
    assert sum(value.numel() for value in AlexNet(10).parameters()) == convolutions + norms + 2570


class TestInTimm:
    def test_by_name(self) -> None:
        assert timm.is_model("alexnet")
        assert "alexnet" in timm.list_models()
        model = timm.create_model("alexnet", num_classes=5, in_chans=1).eval()
        assert model(torch.rand(2, 1, 224, 224)).shape == (2, 5)
        assert model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)

    def test_head(self) -> None:
        model = timm.create_model("alexnet", drop_rate=0.5).eval()
        maps = model.forward_features(torch.rand(2, 3, 64, 64))
        assert model.get_classifier().out_features == 1000
        assert model.forward_head(maps, pre_logits=True).equal(maps.mean((2, 3)))
        model.reset_classifier(3)
        assert (model.num_classes, model.forward_head(maps).shape) == (3, (2, 3))
        model.reset_classifier(0)
        assert model.forward_head(maps).shape == (2, model.num_features)

    def test_intermediates(self) -> None:
        model = timm.create_model("alexnet").eval()
        images = torch.rand(2, 3, 224, 224)
        last, maps = model.forward_intermediates(images)
        assert [tuple(part.shape[1:]) for part in maps] == [(64, 27, 27), (192, 13, 13), (256, 6, 6)]
        assert [part["num_chs"] for part in model.feature_info] == [64, 192, 256]
        assert last.equal(maps[2])
        assert last.equal(model.forward_features(images))
        assert model.forward_intermediates(images, indices=[1])[1][0].equal(maps[1])
        assert model.forward_intermediates(images, indices=2, intermediates_only=True)[0].equal(maps[1])
        features = timm.create_model("alexnet", features_only=True).eval()
        assert [tuple(part.shape[1:]) for part in features(images)] == [(64, 27, 27), (192, 13, 13), (256, 6, 6)]

    def test_no_weights(self) -> None:
        with pytest.raises(RuntimeError, match="No pretrained weights exist for alexnet"):
            timm.create_model("alexnet", pretrained=True)
