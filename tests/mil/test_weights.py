"""Weights of files: what loads, what is said, and that nothing of a file runs."""

import argparse
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mil.backbone import Backbone
from mil.errors import ModelError
from mil.weights import WeightsReport, load_weights


def state_dict(name: str = "test_resnet", **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return timm.create_model(name, **options).state_dict()


def same(backbone: Backbone, tensors: dict[str, Tensor]) -> bool:
    return all(value.equal(tensors[name]) for name, value in backbone.net.state_dict().items())


class TestFormats:
    def test_safetensors(self, tmp_path: Path) -> None:
        tensors = state_dict()
        save_file(tensors, tmp_path / "w.safetensors")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert same(backbone, tensors)
        assert report == WeightsReport(75, [], ["fc.bias", "fc.weight"], [], tmp_path / "w.safetensors")

    def test_half_precision_is_widened(self, tmp_path: Path) -> None:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in state_dict().items()}
        save_file(tensors, tmp_path / "w.safetensors")
        backbone = Backbone("test_resnet", 32)
        load_weights(backbone, tmp_path / "w.safetensors")
        assert backbone.net.bn1.weight.dtype == torch.float32
        assert backbone.net.layer1[0].conv1.weight.equal(tensors["layer1.0.conv1.weight"].float())


class TestCheckpoints:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda tensors: {"module." + name: value for name, value in tensors.items()},
            lambda tensors: {"module.encoder.backbone." + name: value for name, value in tensors.items()},
            lambda tensors: (
                {"net." + name: value for name, value in tensors.items()} | {"projector.weight": torch.ones(2)}
            ),
        ],
        ids=["module", "prefixes", "net"],
    )
    def test_found_inside(self, tmp_path: Path, wrap: Any) -> None:
        tensors = state_dict()
        save_file(wrap(tensors), tmp_path / "w.safetensors")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert (report.loaded, report.missing, report.mismatched) == (75, [], [])
        assert same(backbone, tensors)

    def test_a_run_of_ours(self, tmp_path: Path) -> None:
        other = Backbone("test_resnet", 32)
        tensors = {f"backbone.{name}": value for name, value in other.state_dict().items()}
        save_file(tensors | {"head.1.weight": torch.ones(2, 96)}, tmp_path / "model.safetensors")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "model.safetensors")
        assert (report.loaded, report.unexpected) == (75, ["head.1.weight"])
        assert same(backbone, other.net.state_dict())


class TestConversion:
    def test_position_embeddings_of_another_size(self, tmp_path: Path) -> None:
        tensors = state_dict("test_vit")
        save_file(tensors, tmp_path / "w.safetensors")
        backbone = Backbone("test_vit", 96)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert (report.loaded, report.missing, report.mismatched) == (78, [], [])
        before, after = tensors["pos_embed"], backbone.net.pos_embed
        assert (before.shape, after.shape) == ((1, 101, 64), (1, 37, 64))
        assert after[:, 0].equal(before[:, 0])  # of the class token
        torch.testing.assert_close(after[:, 1:].mean(), before[:, 1:].mean(), rtol=0, atol=1e-3)
        assert backbone.net.blocks[5].mlp.fc2.weight.equal(tensors["blocks.5.mlp.fc2.weight"])

    def test_another_spelling(self, tmp_path: Path) -> None:
        """The first authors' ConvNeXt names its stages otherwise."""
        tensors = state_dict("test_convnext", num_classes=0)
        theirs = {}
        for name, value in tensors.items():
            name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
            for stage in range(1, 4):
                name = name.replace(f"stages.{stage}.downsample.", f"downsample_layers.{stage}.")
            name = name.replace(".conv_dw.", ".dwconv.").replace(".mlp.fc", ".pwconv").replace("head.norm", "norm")
            theirs[name] = value
        assert len(theirs.keys() & tensors.keys()) < len(tensors) / 2
        save_file(theirs, tmp_path / "w.safetensors")
        backbone = Backbone("test_convnext", 64)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert (report.missing, report.mismatched) == ([], [])
        assert same(backbone, tensors)

    def test_first_convolution_of_one_colour(self, tmp_path: Path) -> None:
        tensors = state_dict()
        save_file(tensors, tmp_path / "w.safetensors")
        backbone = Backbone("test_resnet", 32, "g")
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert (report.loaded, report.mismatched) == (75, [])
        torch.testing.assert_close(backbone.net.conv1[0].weight, tensors["conv1.0.weight"].sum(1, keepdim=True))

    def test_vgg_with_a_head_of_three_layers(self, tmp_path: Path) -> None:
        theirs = dict(timm.create_model("vgg11_bn", mlp_ratio=1 / 4096).features.state_dict(prefix="features."))
        save_file(theirs | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "w.safetensors")
        backbone = Backbone("vgg11_bn", 32)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert (report.loaded, report.missing, report.unexpected) == (48, [], ["classifier.6.bias"])
        assert same(backbone, theirs)


class TestReport:
    def test_what_did_not_match(self, tmp_path: Path) -> None:
        tensors = state_dict()
        del tensors["bn1.weight"]
        tensors["layer4.0.conv1.weight"] = torch.zeros(5, 5, 3, 3)
        path = tmp_path / "w.safetensors"
        save_file(tensors, path)
        backbone = Backbone("test_resnet", 32)
        kept = backbone.net.layer4[0].conv1.weight.clone()
        report = load_weights(backbone, path)
        shape = tuple(kept.shape)
        mismatched = [f"layer4.0.conv1.weight (5, 5, 3, 3) in place of {shape}"]
        assert report == WeightsReport(73, ["bn1.weight"], ["fc.bias", "fc.weight"], mismatched, path)
        assert str(report) == (
            f"loaded 73 of 75 tensors from {str(path)!r}; missing: bn1.weight; not used: fc.bias, fc.weight; "
            f"of another shape: layer4.0.conv1.weight (5, 5, 3, 3) in place of {shape}"
        )
        assert backbone.net.layer4[0].conv1.weight.equal(kept)

    def test_numbers_of_another_kind_do_not_match(self, tmp_path: Path) -> None:
        tensors = state_dict()
        tensors["bn1.weight"] = tensors["bn1.weight"].to(torch.complex64)
        tensors["bn1.bias"] = tensors["bn1.bias"].to(torch.int64)
        tensors["bn1.num_batches_tracked"] = tensors["bn1.num_batches_tracked"].to(torch.float32)
        save_file(tensors, tmp_path / "w.safetensors")
        report = load_weights(Backbone("test_resnet", 32), tmp_path / "w.safetensors")
        assert report.loaded == 73
        assert report.mismatched[0] == "bn1.weight (32,) of torch.complex64 in place of (32,) of torch.float32"

    def test_sentence(self) -> None:
        path = Path("w.safetensors")
        assert str(WeightsReport(3, [], [], [], path)) == "loaded 3 of 3 tensors from 'w.safetensors'"
        report = WeightsReport(2, list("abcdefg"), [], [], path)
        assert str(report) == "loaded 2 of 9 tensors from 'w.safetensors'; missing: a, b, c, d, e and 2 more"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def converter() -> str:
    """The program that docs/models.md has for files of other kinds."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```python\n(# convert\.py.*?)```", page, re.DOTALL)
    return str(found)


class TestConverted:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda tensors: tensors,
            lambda tensors: {"state_dict": tensors, "epoch": 3, "arch": "resnet"},
            lambda tensors: {"model": tensors, "args": argparse.Namespace(lr=0.1)},
            lambda tensors: {"model": {"trunk": tensors}},
            lambda tensors: {"model": {name: value * 0 for name, value in tensors.items()}, "model_ema": tensors},
            lambda tensors: {
                "student": {"module.backbone." + name: value * 0 for name, value in tensors.items()},
                "teacher": {"backbone." + name: value for name, value in tensors.items()},
                "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
            },
        ],
        ids=["plain", "state_dict", "model", "nested", "ema", "teacher"],
    )
    def test_as_the_page_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
        tensors = state_dict()
        torch.save(wrap(tensors), tmp_path / "w.pth")
        (tmp_path / "convert.py").write_text(converter())
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["convert.py", "w.pth", "w.safetensors"])
        runpy.run_path("convert.py")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert (report.loaded, report.missing, report.mismatched) == (75, [], [])
        assert same(backbone, tensors)


class TestRefused:
    @pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w"])
    def test_code_is_not_run(self, tmp_path: Path, name: str) -> None:
        torch.save({"state_dict": state_dict(), "extra": Evil(tmp_path / "ran")}, tmp_path / name)
        sentence = rf"{name}' is no \.safetensors file, .*; where you trust it, convert it as docs/models\.md says"
        with pytest.raises(ModelError, match=sentence):
            load_weights(Backbone("test_resnet", 32), tmp_path / name)
        shutil.copy(tmp_path / name, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match="w.safetensors' can't be read as weights"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.safetensors")
        assert not (tmp_path / "ran").exists()
        torch.load(tmp_path / name, weights_only=False)
        assert (tmp_path / "ran").exists()  # it would have

    @pytest.mark.parametrize(
        "content", [b"", b"no weights at all", b"PK\x03\x04damaged", b"slide_id,label\na,1\nb,0\n"]
    )
    def test_damaged(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"w.safetensors' can't be read as weights \(.*\); see that it is whole"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.safetensors")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such file of weights: .*w.safetensors'"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.safetensors")

    def test_what_is_not_a_number(self, tmp_path: Path) -> None:
        tensors = state_dict()
        tensors["layer1.0.conv1.weight"][0] = torch.nan
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match=r"has in layer1\.0\.conv1\.weight what is not a number"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.safetensors")

    def test_of_another_model(self, tmp_path: Path) -> None:
        save_file(state_dict("test_vit"), tmp_path / "w.safetensors")
        sentence = (
            r"w.safetensors' holds 0 of the 75 tensors of the backbone 'test_resnet': it names "
            r"blocks\.0\.attn\.proj\.bias, .* and \d+ more, the backbone conv1\.0\.weight, .*; "
            "choose the --backbone these weights are of"
        )
        backbone = Backbone("test_resnet", 32)
        before = {name: value.clone() for name, value in backbone.net.state_dict().items()}
        with pytest.raises(ModelError, match=sentence):
            load_weights(backbone, tmp_path / "w.safetensors")
        assert same(backbone, before)

    def test_nothing_inside(self, tmp_path: Path) -> None:
        save_file({}, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match="holds 0 of the 75 tensors .*: it names nothing, the backbone"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.safetensors")


class TestReal:
    """The weights of tf_efficientnet_lite0 as timm gives them."""

    @pytest.fixture
    def path(self, real_data: Path) -> Path:
        path = real_data / "weights" / "tf_efficientnet_lite0.safetensors"
        if not path.exists():
            pytest.skip("no weights/tf_efficientnet_lite0.safetensors beside the real slides")
        return path

    @pytest.mark.parametrize("colours", ["rgb", "g"])
    def test_all_of_it(self, path: Path, colours: str) -> None:
        backbone = Backbone("tf_efficientnet_lite0", 64, colours)
        report = load_weights(backbone, path)
        assert report == WeightsReport(245, [], ["classifier.bias", "classifier.weight"], [], path)
        stem = load_file(path)["conv_stem.weight"]
        torch.testing.assert_close(
            backbone.net.conv_stem.weight, stem if colours == "rgb" else stem.sum(1, keepdim=True)
        )

    def test_round_trip(self, path: Path, tmp_path: Path) -> None:
        first, second = (Backbone("tf_efficientnet_lite0", 64).eval() for _ in range(2))
        load_weights(first, path)
        save_file(first.state_dict(), tmp_path / "w.safetensors")
        assert (
            str(load_weights(second, tmp_path / "w.safetensors"))
            == f"loaded 245 of 245 tensors from {str(tmp_path / 'w.safetensors')!r}"
        )
        torch.manual_seed(0)
        images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
        with torch.inference_mode():
            assert first(images).equal(second(images))
